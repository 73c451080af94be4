"""A thread for every connection, as in the tutorials."""

import socket
import threading


def echo(conn):
    with conn:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while chunk := conn.recv(65536):
            conn.sendall(chunk)


server = socket.create_server(("127.0.0.1", 0), backlog=1024)
print(server.getsockname()[1], flush=True)
while True:
    threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()
