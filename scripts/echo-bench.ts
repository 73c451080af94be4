const help = `
Load for any echo server: many connections, each of which sends the next message when the reply has come
(with --rate, at fixed times). Every byte of the replies is compared, and the latencies are shown. When a
connection ends, it is opened again. Messages without a reply are sent again after a FIN, and count as lost
after a reset; the numbers of both are printed.
It goes on where the tutorials stop.

  terminal 1:  bun run scripts/echo-threaded-server.ts
  terminal 2:  bun run scripts/echo-bench.ts --connections 50 --size 1000 --seconds 5
`;

import { cli, clientFlags, clientTls, fail, print, tlsClientFlags, warn } from "../lib/cli.ts";
import { connect, type Socket } from "../lib/socket.ts";

const { host, port, connections, size, seconds, pipeline, rate, json, signal, ...flags } = cli(
  help,
  {
    ...clientFlags(4000),
    ...tlsClientFlags,
    connections: { type: "count", default: 50, min: 1, max: 20_000, about: "how many" },
    size: { type: "count", default: 1000, min: 1, max: 1 << 26, about: "bytes of a message" },
    seconds: { type: "seconds", default: 5, min: 0.1, about: "how long" },
    pipeline: { type: "count", default: 1, min: 1, about: "messages under way on a connection" },
    rate: { type: "count", default: 0, min: 0, about: "messages a second in all, answered or not" },
    json: { type: "boolean", about: "the result as JSON, and no progress" },
  },
);
const server = { host, port, signal, tls: clientTls(flags) };
const CHUNK = 1 << 20;
const PATIENCE_MS = 5_000; // for the last replies
const PAUSE_MS = 50; // until it connects again to a server that refuses

// The message, and what a connection receives: the message again and again. The bytes within it do not repeat
// soon, so that a reply with missing or repeated bytes does not match.
const message = Buffer.from(Array.from({ length: size }, (_, i) => 32 + ((i * 7 + (i >> 6)) % 95)));
const stream = Buffer.alloc(size + CHUNK, message);

// Latencies are counted in steps of 2 %, so that a long run needs little memory.
const counts = new Map<number, number>();
let answered = 0;
let longest = 0; // ms
const stepOf = (ms: number) => Math.floor(Math.log(Math.max(ms, 0.001)) / Math.log(1.02));
const timeOf = (step: number) => 1.02 ** (step + 0.5);

let sending = true; // until the time is up; after that only the last replies are received
let over = false;

let sentAgain = 0;
let lost = 0;
let reconnected = 0;

// Keeps one connection open. It sends and receives at the same time.
class Talker {
  // For each unanswered message, when it was sent; with --rate, when it should have been sent. Otherwise a
  // server that stalls would look good, because we send less while we wait for it.
  readonly due: number[] = [];
  #connected = false;
  constructor(public conn: Socket) {}

  send(at: number): void {
    this.due.push(at);
    if (this.#connected) this.#send();
  }

  #send(): void {
    this.conn.sendAll(message).catch(() => {}); // recv fails too, and reports it
  }

  async run(): Promise<void> {
    for (;;) {
      this.#connected = true;
      for (const _ of this.due) this.#send();
      let broke = false;
      try {
        await this.#receive();
      } catch (error) {
        broke = true;
        if (!over) warn(error);
      }
      this.#connected = false;
      if (over || (!sending && this.due.length === 0)) return;
      this.conn.close();
      if (broke) lost += this.due.splice(0).length;
      else sentAgain += this.due.length;
      this.conn = await this.#reconnect();
    }
  }

  async #receive(): Promise<void> {
    let got = 0; // bytes received of the current message
    this.#fill();
    while (sending || this.due.length > 0) {
      const chunk = await this.conn.recv(CHUNK);
      if (chunk.length === 0) return;
      if (got + chunk.length > this.due.length * size) await fail("more came back than was sent");
      if (!chunk.equals(stream.subarray(got, got + chunk.length)))
        await fail("other bytes came back");
      const now = performance.now();
      for (got += chunk.length; got >= size; got -= size) count(now - this.due.shift()!);
      this.#fill();
    }
  }

  #fill(): void {
    const now = performance.now();
    while (sending && rate === 0 && this.due.length < pipeline) this.send(now);
  }

  async #reconnect(): Promise<Socket> {
    for (;;) {
      const conn = await connect(server).catch(() => Bun.sleep(PAUSE_MS));
      if (over) return this.conn;
      if (conn === undefined) continue;
      reconnected++;
      return conn;
    }
  }
}

function count(ms: number): void {
  answered++;
  longest = Math.max(longest, ms);
  counts.set(stepOf(ms), (counts.get(stepOf(ms)) ?? 0) + 1);
}

// ---- the load

const talkers: Talker[] = [];
while (talkers.length < connections) {
  const some = Math.min(100, connections - talkers.length); // at a time, to stay below the server's backlog
  const conns = await Promise.all(Array.from({ length: some }, () => connect(server)));
  talkers.push(...conns.map((conn) => new Talker(conn)));
}

const started = performance.now();
for (const talker of talkers) talker.run();

// With --rate, the connections take turns.
let sent = 0;
const dueAt = (n: number) => started + (n * 1000) / rate;
// A timer fires up to a millisecond late, which would count as the server's latency. So the last two
// milliseconds are waited for with setImmediate.
function keepRate(): void {
  if (!sending) return;
  const now = performance.now();
  for (; dueAt(sent) <= now; sent++) talkers[sent % connections]!.send(dueAt(sent));
  if (dueAt(sent) - now > 2) setTimeout(keepRate, dueAt(sent) - now - 2);
  else setImmediate(keepRate);
}
if (rate > 0) keepRate();

const progress = setInterval(() => {
  const elapsed = (performance.now() - started) / 1000;
  if (!json)
    console.error(`${elapsed.toFixed(0)} s  ${(answered / elapsed).toFixed(0)} messages/s`);
}, 1000);

// After a signal, the results so far are printed.
const stopped = new Promise((resolve) => signal.addEventListener("abort", resolve));
await Promise.race([Bun.sleep(seconds * 1000), stopped]);
sending = false;
const elapsed = performance.now() - started;
const inTime = answered; // later replies count for the latency, not for the rate
const patient = performance.now() + (signal.aborted ? PATIENCE_MS / 10 : PATIENCE_MS);
const waiting = () => talkers.some(({ due }) => due.length > 0);
while (waiting() && performance.now() < patient) await Bun.sleep(5);
clearInterval(progress);
over = true;
const unanswered = talkers.reduce((sum, { due }) => sum + due.length, 0);
for (const { conn } of talkers) conn.close();

// ---- the result

const steps = [...counts].sort(([a], [b]) => a - b);
const result = {
  ...{ connections, size, pipeline, rate, seconds: elapsed / 1000 },
  ...{ messages: answered, unanswered, lost, sentAgain, reconnected },
  messagesPerSecond: (inTime * 1000) / elapsed,
  mibPerSecond: (inTime * size * 1000) / elapsed / (1 << 20),
  ms: {
    p50: quantile(0.5),
    p90: quantile(0.9),
    p99: quantile(0.99),
    p999: quantile(0.999),
    max: longest,
  },
};
if (json) await print(JSON.stringify(result));
else await report();
const missing = lost + (signal.aborted ? 0 : unanswered);
if (missing > 0) await fail(`${amount(missing)} not answered`);

function amount(messages: number): string {
  return messages === 1 ? "1 message was" : `${messages} messages were`;
}

function quantile(share: number): number {
  let left = share * answered;
  for (const [step, times] of steps)
    if ((left -= times) <= 0) return Math.min(timeOf(step), longest);
  return longest;
}

async function report(): Promise<void> {
  const { messagesPerSecond, mibPerSecond, ms } = result;
  const asked = rate > 0 ? ` of the ${rate} asked for` : "";
  await print(
    `${messagesPerSecond.toFixed(0)} messages/s${asked}, ${mibPerSecond.toFixed(1)} MiB/s each way`,
  );
  await print(
    Object.entries(ms)
      .map(([name, time]) => `${name} ${time.toFixed(3)} ms`)
      .join(", "),
  );
  if (reconnected + lost > 0) {
    await print(
      `connected again ${reconnected} times: ${amount(sentAgain)} sent again, ${amount(lost)} lost`,
    );
  }
  // A row for each doubling of the time.
  const rows = new Map<number, number>();
  for (const [step, times] of steps) {
    const power = Math.floor(Math.log2(timeOf(step)));
    rows.set(power, (rows.get(power) ?? 0) + times);
  }
  for (const [power, times] of rows) {
    const share = times / answered;
    const upTo = `${(2 ** (power + 1)).toFixed(3)} ms`.padStart(14);
    await print(
      `${upTo}  ${"#".repeat(Math.ceil(share * 50)).padEnd(50)} ${(share * 100).toFixed(2)} %`,
    );
  }
}
