// The same over the lib: `bun lib.ts recv`, `iterate`, or `limited` (a timeout and a signal in use).

import { listen, type Socket } from "../../lib/socket.ts";

const stop = new AbortController();

const ways: Record<string, (conn: Socket) => Promise<void>> = {
  async recv(conn) {
    for (;;) {
      const chunk = await conn.recv(65_536);
      if (chunk.length === 0) break;
      await conn.sendAll(chunk);
    }
  },
  async iterate(conn) {
    for await (const chunk of conn) await conn.sendAll(chunk);
  },
  async limited(conn) {
    conn.setTimeout(60_000);
    for (;;) {
      const chunk = await conn.recv(65_536, { signal: stop.signal });
      if (chunk.length === 0) break;
      await conn.sendAll(chunk);
    }
  },
};

const echo = ways[process.argv[2] ?? "recv"]!;
const server = listen({ port: 0 });
console.log(server.address.port);
for await (const conn of server) {
  echo(conn)
    .catch(console.error)
    .finally(() => conn.close());
}
