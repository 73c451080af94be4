"""An echo server for datagrams: one loop of blocking calls, or an asyncio protocol (udp.py asyncio)."""

import asyncio
import socket
import sys


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
        print(transport.get_extra_info("sockname")[1], flush=True)

    def datagram_received(self, data, sender):
        self.transport.sendto(data, sender)


async def serve():
    await asyncio.get_running_loop().create_datagram_endpoint(Echo, ("127.0.0.1", 0))
    await asyncio.Event().wait()


if "asyncio" in sys.argv:
    asyncio.run(serve())
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    data, sender = server.recvfrom(65536)
    server.sendto(data, sender)
