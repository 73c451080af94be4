// node:net, with events (`pipe`) or with async iteration.

import net from "node:net";
import process from "node:process";

const iterate = process.argv[2] === "iterate";
const server = net.createServer({ allowHalfOpen: true, noDelay: true }, async (conn) => {
  conn.on("error", () => {});
  if (!iterate) return void conn.pipe(conn);
  for await (const chunk of conn) {
    if (!conn.write(chunk)) await new Promise((resolve) => conn.once("drain", resolve));
  }
  conn.end();
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
