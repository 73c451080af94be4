// C with epoll, level-triggered. While a reply does not fit into the kernel's buffer, nothing is read. With a
// number as argument, one write sends at most that many bytes.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define SIZE 65536

struct conn {
  int fd;
  ssize_t from, to; // what is still to be sent of the buffer
  char *buffer;
};

static char shared[SIZE];
static ssize_t most = SIZE;

static void watch(int poll, int how, struct conn *c, unsigned events) {
  struct epoll_event event = {.events = events, .data.ptr = c};
  epoll_ctl(poll, how, c->fd, &event);
}

static void finish(struct conn *c) {
  close(c->fd);
  free(c->buffer);
  free(c);
}

// 1: everything is sent, 0: the kernel's buffer is full, -1: the peer has gone.
static int send_rest(struct conn *c, const char *bytes) {
  while (c->from < c->to) {
    ssize_t left = c->to - c->from;
    ssize_t n = send(c->fd, bytes + c->from, left < most ? left : most, MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    c->from += n;
  }
  return 1;
}

static void serve(int poll, struct conn *c) {
  if (c->from < c->to) {
    int sent = send_rest(c, c->buffer);
    if (sent < 0) return finish(c);
    if (sent) watch(poll, EPOLL_CTL_MOD, c, EPOLLIN);
    return;
  }
  ssize_t n = recv(c->fd, shared, SIZE, 0);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) return finish(c);
  c->from = 0;
  c->to = n;
  int sent = send_rest(c, shared);
  if (sent < 0) return finish(c);
  if (sent) return;
  if (c->buffer == NULL) c->buffer = malloc(SIZE);
  memcpy(c->buffer, shared, n);
  watch(poll, EPOLL_CTL_MOD, c, EPOLLOUT);
}

int main(int count_of_arguments, char **arguments) {
  if (count_of_arguments > 1) most = atoi(arguments[1]);
  int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0), on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  if (bind(server, (struct sockaddr *)&address, length) || listen(server, 1024)) return 1;
  getsockname(server, (struct sockaddr *)&address, &length);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  struct conn listener = {.fd = server};
  watch(poll, EPOLL_CTL_ADD, &listener, EPOLLIN);
  struct epoll_event events[256];
  for (;;) {
    int count = epoll_wait(poll, events, 256, -1);
    for (int i = 0; i < count; i++) {
      struct conn *c = events[i].data.ptr;
      if (c != &listener) {
        serve(poll, c);
        continue;
      }
      int fd = accept4(server, NULL, NULL, SOCK_NONBLOCK);
      if (fd < 0) continue;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      c = calloc(1, sizeof *c);
      c->fd = fd;
      watch(poll, EPOLL_CTL_ADD, c, EPOLLIN);
    }
  }
}
