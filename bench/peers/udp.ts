// An echo server for datagrams: on bare `Bun.udpSocket` callbacks (`bare`), with recvFrom and sendTo
// (`recvFrom`), or with `for await` (`iterate`).

import { datagram } from "../../lib/datagram.ts";

const [way = "bare"] = process.argv.slice(2);

const ways: Record<string, () => Promise<void>> = {
  async bare() {
    const socket = await Bun.udpSocket({
      hostname: "127.0.0.1",
      socket: {
        data(socket, data, port, host) {
          socket.send(data, port, host);
        },
        error() {},
      },
    });
    console.log(socket.port);
  },
  async recvFrom() {
    using socket = await datagram();
    console.log(socket.address.port);
    for (;;) {
      const [data, from] = await socket.recvFrom();
      await socket.sendTo(data, from);
    }
  },
  async iterate() {
    using socket = await datagram();
    console.log(socket.address.port);
    for await (const [data, from] of socket) await socket.sendTo(data, from);
  },
};

await ways[way]!();
