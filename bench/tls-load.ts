const help = `
Handshakes for a TLS server: connects, closes when the handshake is done, and connects again, on so many
connections at once.

  terminal 1:  bun run scripts/echo-threaded-server.ts --tls-cert cert.pem --tls-key key.pem
  terminal 2:  bun run bench/tls-load.ts --tls-ca cert.pem
`;

import { cli, clientFlags, clientTls, fail, print, tlsClientFlags } from "../lib/cli.ts";
import { connect } from "../lib/socket.ts";

const { host, port, connections, seconds, ...flags } = cli(help, {
  ...clientFlags(4000),
  ...tlsClientFlags,
  connections: { type: "count", default: 16, min: 1, about: "how many at once" },
  size: { type: "count", default: 1, min: 1, about: "as echo-bench has it: of no use here" },
  seconds: { type: "seconds", default: 1, min: 0.1, about: "how long" },
  rate: { type: "count", default: 0, min: 0, max: 0, about: "as echo-bench has it: none here" },
  json: { type: "boolean", about: "as echo-bench has it: always" },
});
const tls = clientTls(flags);

const times: number[] = [];
const started = performance.now();
const end = started + seconds * 1000;
await Promise.all(
  Array.from({ length: connections }, async () => {
    for (let now = started; now < end; now = performance.now()) {
      using _closedAtOnce = await connect({ host, port, tls });
      times.push(performance.now() - now);
    }
  }),
).catch(fail);
const elapsed = performance.now() - started;
times.sort((a, b) => a - b);
const at = (share: number) => times[Math.floor(share * (times.length - 1))]!;
const messagesPerSecond = (times.length * 1000) / elapsed;
const result = { messages: times.length, messagesPerSecond, ms: { p50: at(0.5), p99: at(0.99) } };
await print(JSON.stringify(result));
