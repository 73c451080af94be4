// The lib as an echo server: `bun lib.ts recv`, `iterate`, `limited` (with a timeout and a signal); or as a
// proxy: `proxy 4000`. With TLS_CERT and TLS_KEY in the environment, over TLS.

import { connect, listen, type Socket } from "../../lib/socket.ts";

const [way = "recv", backend] = process.argv.slice(2);
const stop = new AbortController();

const ways: Record<string, (conn: Socket) => Promise<void>> = {
  async recv(conn) {
    using _closedAtTheEnd = conn;
    for (;;) {
      const chunk = await conn.recv(65_536);
      if (chunk.length === 0) break;
      await conn.sendAll(chunk);
    }
  },
  async iterate(conn) {
    using _closedAtTheEnd = conn;
    for await (const chunk of conn) await conn.sendAll(chunk);
  },
  async limited(conn) {
    using _closedAtTheEnd = conn;
    conn.setTimeout(60_000);
    for (;;) {
      const chunk = await conn.recv(65_536, { signal: stop.signal });
      if (chunk.length === 0) break;
      await conn.sendAll(chunk);
    }
  },
  async proxy(client) {
    using _closedAtTheEnd = client;
    using server = await connect({ port: Number(backend) });
    await Promise.all([pump(client, server), pump(server, client)]);
  },
};

async function pump(from: Socket, to: Socket): Promise<void> {
  for await (const chunk of from) await to.sendAll(chunk);
  to.shutdown("write");
}

const { TLS_CERT, TLS_KEY } = process.env;
const text = (file: string) => Bun.file(file).text();
const tls = TLS_CERT ? { cert: await text(TLS_CERT), key: await text(TLS_KEY!) } : undefined;
const server = listen({ port: 0, tls });
server.onRefused = () => {};
console.log(server.address.port);
for await (const conn of server) ways[way]!(conn).catch(console.error);
