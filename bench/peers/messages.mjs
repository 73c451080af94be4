// node:net: sends back every message of 100 bytes, each by itself, or (`messages.mjs cork`) corked until the
// end of the turn.

import net from "node:net";
import process from "node:process";

const SIZE = 100;
const isCorked = process.argv[2] === "cork";

const server = net.createServer({ noDelay: true }, (conn) => {
  let part = Buffer.alloc(0);
  conn.on("error", () => {});
  conn.on("data", (chunk) => {
    const all = part.length > 0 ? Buffer.concat([part, chunk]) : chunk;
    const whole = all.length - (all.length % SIZE);
    if (isCorked) conn.cork();
    let hasRoom = true;
    for (let at = 0; at < whole; at += SIZE) hasRoom = conn.write(all.subarray(at, at + SIZE));
    if (isCorked) process.nextTick(() => conn.uncork());
    part = all.subarray(whole);
    if (hasRoom) return;
    conn.pause();
    conn.once("drain", () => conn.resume());
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
