"""asyncio, with streams or with a protocol; on uvloop if asked: asyncio_echo.py streams|protocol [uvloop]

With TLS_CERT and TLS_KEY in the environment, over TLS."""

import asyncio
import os
import ssl
import sys


async def stream(reader, writer):
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.close()


class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


async def main():
    loop = asyncio.get_running_loop()
    tls = None
    if "TLS_CERT" in os.environ:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(os.environ["TLS_CERT"], os.environ["TLS_KEY"])
    if sys.argv[1] == "streams":
        server = await asyncio.start_server(stream, "127.0.0.1", 0, backlog=1024, ssl=tls)
    else:
        server = await loop.create_server(Protocol, "127.0.0.1", 0, backlog=1024, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if "uvloop" in sys.argv:
    import uvloop

    uvloop.install()
asyncio.run(main())
