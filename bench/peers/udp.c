// C: an echo server for datagrams, one loop of blocking calls.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

static char buffer[65536];

int main(void) {
  int server = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  if (bind(server, (struct sockaddr *)&address, length)) return 1;
  getsockname(server, (struct sockaddr *)&address, &length);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  for (;;) {
    struct sockaddr_in sender;
    length = sizeof sender;
    ssize_t n = recvfrom(server, buffer, sizeof buffer, 0, (struct sockaddr *)&sender, &length);
    if (n >= 0) sendto(server, buffer, n, 0, (struct sockaddr *)&sender, length);
  }
}
