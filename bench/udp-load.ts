const help = `
Sends datagrams to an echo server, so many under way at a time, and measures how long each takes.
A part of the benchmark: see bench/README.md.

  terminal 1:  bun run scripts/udp-echo-server.ts
  terminal 2:  bun run bench/udp-load.ts --connections 16 --size 100
`;

import { cli, clientFlags, fail, print } from "../lib/cli.ts";

const { host, port, connections, size, seconds } = cli(help, {
  ...clientFlags(4000),
  connections: { type: "count", default: 1, min: 1, max: 64, about: "datagrams under way" }, // a kernel buffers 92
  size: { type: "count", default: 100, min: 1, max: 1000, about: "bytes of each" },
  seconds: { type: "seconds", default: 5, min: 0.1, about: "how long" },
  rate: { type: "count", default: 0, min: 0, max: 0, about: "as echo-bench has it: none here" },
  json: { type: "boolean", about: "as echo-bench has it: always" },
});
const PATIENCE_MS = 200;

const block = Buffer.alloc(size, "x");
const begun: number[] = []; // when each datagram under way was sent
const times: number[] = []; // ms
let lost = 0;
let sending = true;

// On bare callbacks, so that the load costs less than what it measures.
const socket = await Bun.udpSocket({
  connect: { hostname: host, port },
  socket: {
    data(_, reply) {
      if (!reply.equals(block)) fail("other bytes came back");
      times.push(performance.now() - begun.shift()!);
      if (sending) send();
    },
    error() {},
  },
});

function send(): void {
  begun.push(performance.now());
  socket.send(block);
}

for (let i = 0; i < connections; i++) send();
// A datagram that is not back after `PATIENCE_MS` counts as lost, and another one is sent.
const watch = setInterval(() => {
  while (begun[0]! < performance.now() - PATIENCE_MS) {
    begun.shift();
    lost++;
    send();
  }
}, PATIENCE_MS);

const start = performance.now();
await Bun.sleep(seconds * 1000);
const elapsed = performance.now() - start;
const inTime = times.length;
sending = false;
clearInterval(watch);
await Bun.sleep(20); // for those still under way
socket.close();

times.sort((a, b) => a - b);
const quantile = (share: number) => times[Math.floor(share * (times.length - 1))] ?? 0;
const ms = { p50: quantile(0.5), p99: quantile(0.99) };
const messagesPerSecond = (inTime * 1000) / elapsed;
await print(JSON.stringify({ messages: times.length, lost, messagesPerSecond, ms }));
