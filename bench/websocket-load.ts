const help = `
Load for a WebSocket echo server: each connection sends the same text again when it has come back. Frames
are made once, so that the load costs little; every byte that comes back is compared.

  terminal 1:  bun run scripts/websocket-server.ts
  terminal 2:  bun run bench/websocket-load.ts --port 8001
`;

import { cli, clientFlags, fail, print } from "../lib/cli.ts";
import { connect } from "../lib/socket.ts";
import { openWebSocket } from "../lib/websocket.ts";
import { encode, TEXT } from "../lib/websocket/frames.ts";

const { host, port, connections, size, seconds } = cli(help, {
  ...clientFlags(8001),
  connections: { type: "count", default: 50, min: 1, about: "how many" },
  size: { type: "count", default: 1000, min: 1, about: "bytes of a message" },
  seconds: { type: "seconds", default: 1, min: 0.1, about: "how long" },
  rate: { type: "count", default: 0, min: 0, max: 0, about: "as echo-bench has it: none here" },
  json: { type: "boolean", about: "as echo-bench has it: always" },
});
const text = Array.from({ length: size }, (_, i) => String.fromCharCode(32 + ((i * 7) % 95))).join(
  "",
);
const message = encode(TEXT, text, 0x37fa213d);
const reply = encode(TEXT, text);

const times: number[] = [];
const conns = await Promise.all(
  Array.from({ length: connections }, async () => {
    const conn = await connect({ host, port });
    await openWebSocket(conn);
    return conn;
  }),
);
const started = performance.now();
const end = started + seconds * 1000;
await Promise.all(
  conns.map(async (conn) => {
    for (let now = performance.now(); now < end;) {
      const [got] = await Promise.all([conn.recvExactly(reply.length), conn.sendAll(message)]);
      if (!got.equals(reply)) await fail("other bytes came back");
      times.push(performance.now() - now);
      now = performance.now();
    }
  }),
).catch(fail);
const elapsed = performance.now() - started;
times.sort((a, b) => a - b);
const at = (share: number) => times[Math.floor(share * (times.length - 1))]!;
const messagesPerSecond = (times.length * 1000) / elapsed;
const result = { messages: times.length, messagesPerSecond, ms: { p50: at(0.5), p99: at(0.99) } };
await print(JSON.stringify(result));
process.exit(0); // without a closing handshake
