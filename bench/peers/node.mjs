// node:net, with `pipe`, with async iteration (`iterate`), or as a proxy (`proxy 4000`). With TLS_CERT and
// TLS_KEY in the environment, node:tls.

import { readFileSync } from "node:fs";
import net from "node:net";
import process from "node:process";
import tls from "node:tls";

const [way, backend] = process.argv.slice(2);

const ways = {
  pipe(conn) {
    conn.pipe(conn);
  },
  async iterate(conn) {
    for await (const chunk of conn) {
      if (!conn.write(chunk)) await new Promise((resolve) => conn.once("drain", resolve));
    }
    conn.end();
  },
  proxy(conn) {
    const port = Number(backend);
    const server = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
    server.on("error", () => conn.resetAndDestroy());
    conn.pipe(server).pipe(conn);
  },
};

const { TLS_CERT, TLS_KEY } = process.env;
const files = TLS_CERT && { cert: readFileSync(TLS_CERT), key: readFileSync(TLS_KEY) };
const { createServer } = files ? tls : net;
const server = createServer({ allowHalfOpen: true, noDelay: true, ...files }, (conn) => {
  conn.on("error", () => {});
  ways[way](conn);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
