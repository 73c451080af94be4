"""asyncio, a protocol: sends back every message of 100 bytes, each with a write of its own."""

import asyncio

SIZE = 100


class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.part = b""

    def data_received(self, data):
        data = self.part + data
        whole = len(data) - len(data) % SIZE
        for at in range(0, whole, SIZE):
            self.transport.write(data[at : at + SIZE])
        self.part = data[whole:]

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Protocol, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
