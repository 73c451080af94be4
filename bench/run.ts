const help = `
Compares echo servers. They run one at a time, pinned to one core while the load has another, and take
turns in several rounds. Trust the ratios more than the times: what slows the machine down slows them all.
Without flags it measures everything, which takes most of an hour.

  terminal 1:  bun run bench
  terminal 2:  bun run bench --loads 50x1000,50x65536 --parts echo,proxy --only lib --rounds 9
`;

import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, tmpdir } from "node:os";
import { join } from "node:path";

import { cli, fail, print, refuse } from "../lib/cli.ts";
import { connect } from "../lib/socket.ts";
import { makeCertificate } from "../scripts/secure/certificate.ts";
import {
  bare,
  echoPeers,
  messagePeers,
  type Peer,
  proxyPeers,
  selectServer,
  tlsPeers,
  udpPeers,
  weatherStation,
  websocketPeers,
} from "./peers.ts";
import { type Results, save } from "./picture.ts";
import { report } from "./station.ts";

const ALL_LOADS = [100, 1_000, 65_536, 1_048_576]
  .flatMap((size) => [1, 50, 500].map((connections) => `${connections}x${size}`))
  .join(",");

const {
  loads,
  datagrams,
  parts,
  rounds,
  seconds,
  rate,
  idle,
  only,
  save: kept,
  signal,
} = cli(help, {
  loads: { type: "string", default: ALL_LOADS, about: "connections x bytes" },
  datagrams: {
    type: "string",
    default: "1x100,16x100,1x1000,16x1000",
    about: "datagrams under way x bytes, in the part `udp`",
  },
  parts: {
    type: "string",
    about:
      "some of echo,pipelined,rate,proxy,websocket,select,start,idle,udp,station,tls; all unless told",
  },
  rounds: { type: "count", default: 5, min: 1, about: "how often each is measured" },
  seconds: { type: "seconds", default: 1, min: 0.2, about: "how long each time" },
  rate: {
    type: "count",
    default: 10_000,
    min: 1,
    about: "messages a second, in `rate` (of 50x1000)",
  },
  idle: {
    type: "count",
    default: 9000,
    min: 1,
    about: "connections to weigh, in `idle` and `tls`",
  },
  only: { type: "string", about: "peers whose name holds this, besides the first" },
  save: { type: "boolean", about: "keep the results in bench/results.json, draw docs/pictures/" },
});

const built = mkdtempSync(join(tmpdir(), "bench-"));
const { cert, key } = makeCertificate("localhost");
const files = { cert: join(built, "cert.pem"), key: join(built, "key.pem") };
writeFileSync(files.cert, cert);
writeFileSync(files.key, key);
const running = new Set<Bun.Subprocess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
  rmSync(built, { recursive: true });
});
signal.addEventListener("abort", () => process.exit(1)); // incomplete results are of no use

// Starts a process on one core. It is killed when we exit.
function start(core: number, command: string[]) {
  const child = Bun.spawn([...pinned(core), ...command], { stdout: "pipe", stderr: "inherit" });
  running.add(child);
  child.exited.then(() => running.delete(child));
  return child;
}

interface Load {
  connections: number;
  size: number;
  rate?: number; // messages a second; without it, each is sent when the reply to the one before has come
  idle?: number; // idle connections beside these
  pipeline?: number; // messages under way on a connection; default 1
  program?: string; // the program that makes the load; default echo-bench
  warmUp?: number; // seconds
  tls?: boolean;
}

interface Result {
  cpu: number; // µs of user and system time for a message
  user: number;
  rate: number; // messages a second
  p50: number; // ms
  p99: number;
  memory: number; // MiB
}

// ---- one server, one load

// User and system time in clock ticks, resident memory in MiB: proc_pid_stat(5), proc_pid_status(5).
function usage(pid: number): { user: number; system: number; memory: number } {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ");
  const [, kib] = readFileSync(`/proc/${pid}/status`, "utf8").match(/^VmRSS:\s+(\d+) kB/m)!;
  return { user: Number(fields[11]), system: Number(fields[12]), memory: Number(kib) / 1024 };
}

const TICK_US = 10_000;

const pinned = (core: number) => ["taskset", "-c", `${core % availableParallelism()}`];

// Runs a server while `use` runs, which gets its process number, its port, and its start-up time in ms.
async function withServer<T>(
  peer: Peer,
  use: (pid: number, port: number, startMs: number) => Promise<T>,
  core = 0,
): Promise<T> {
  const started = performance.now();
  const server = start(core, peer.run);
  try {
    const port = await portOf(server.stdout);
    return await use(server.pid, port, performance.now() - started);
  } finally {
    server.kill("SIGKILL");
    await server.exited;
  }
}

// Reads on after the port, because a script ends when nobody reads its output.
function portOf(output: ReadableStream<Uint8Array>): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const read = async () => {
    let text = "";
    for await (const chunk of output) {
      text += new TextDecoder().decode(chunk);
      const [, port] = text.match(/^(?:listening on .*:)?(\d+)\n/m) ?? [];
      if (port !== undefined) resolve(Number(port));
    }
    reject(new Error(`no port in: ${text}`));
  };
  read();
  return promise;
}

// Opens idle connections, and waits until the server has accepted them all.
async function openIdle(
  pid: number,
  port: number,
  count: number,
  isTls = false,
): Promise<Disposable> {
  const conns = new DisposableStack();
  // Counts sockets, not all descriptors: a server that has just started has some files open for a moment.
  const isSocket = (fd: string) =>
    statSync(`/proc/${pid}/fd/${fd}`, { throwIfNoEntry: false })?.isSocket();
  const sockets = () => readdirSync(`/proc/${pid}/fd`).filter(isSocket).length;
  const enough = sockets() + count;
  const tls = isTls ? { ca: cert } : undefined;
  for (let i = 0; i < count; i++) conns.use(await connect({ port, tls }));
  while (sockets() < enough) await Bun.sleep(10);
  return conns;
}

// Long enough for just-in-time compilers to compile what the load needs.
const WARM_UP_SECONDS = 0.5;

async function echoBench(port: number, load: Load, seconds: number) {
  const { connections, size, rate = 0, pipeline, program = "../scripts/echo-bench.ts" } = load;
  const given = { port, connections, size, rate, seconds, ...(pipeline && { pipeline }) };
  const flags = Object.entries(given).map(([name, value]) => `--${name}=${value}`);
  const command = [process.execPath, join(import.meta.dir, program), "--json"];
  if (load.tls) flags.push(`--tls-ca=${files.cert}`);
  const bench = start(1, [...command, ...flags]);
  const result = await new Response(bench.stdout).text();
  return result === "" ? fail(`no result under ${connections}x${size}`) : JSON.parse(result);
}

function measure(peer: Peer, load: Load): Promise<Result> {
  return withServer(peer, async (pid, port) => {
    using _besideTheLoad = await openIdle(pid, port, load.idle ?? 0);
    await echoBench(port, { ...load, rate: 0 }, load.warmUp ?? WARM_UP_SECONDS);
    const before = usage(pid);
    const { messages, messagesPerSecond, ms } = await echoBench(port, load, seconds);
    const after = usage(pid);
    const user = ((after.user - before.user) * TICK_US) / messages;
    const system = ((after.system - before.system) * TICK_US) / messages;
    const { memory } = after;
    return { cpu: user + system, user, rate: messagesPerSecond, p50: ms.p50, p99: ms.p99, memory };
  });
}

// Bytes of resident memory for each idle connection.
function idleCost(peer: Peer, isTls = false): Promise<number> {
  return withServer(peer, async (pid, port) => {
    const weigh = async () => {
      await Bun.sleep(200); // for what the server still does after accepting
      return usage(pid).memory;
    };
    using _first = await openIdle(pid, port, 500, isTls);
    const before = await weigh();
    using _more = await openIdle(pid, port, idle, isTls);
    return (((await weigh()) - before) * (1 << 20)) / idle;
  });
}

// The weather station under a load: readings a second, and how long their sensors wait for the answer.
function measureStation(offered: number) {
  const peer = weatherStation(join(built, "weather.db"));
  return withServer(peer, async (pid, port) => {
    await report(port, offered, WARM_UP_SECONDS);
    const before = usage(pid);
    const { readings, seconds: took, answers } = await report(port, offered, seconds);
    const after = usage(pid);
    const ticks = after.user + after.system - before.user - before.system;
    answers.sort((a, b) => a - b);
    const [p50, p99] = [0.5, 0.99].map((part) => answers[Math.floor(part * answers.length)]!);
    const percent = (ticks * TICK_US) / took / 10_000;
    return { rate: readings / took, percent, p50: p50!, p99: p99!, memory: after.memory };
  });
}

// ---- several, compared

interface Entry {
  name: string;
  measure: () => Promise<Result>;
}

// The columns of a table, and how a number is written in each.
const WRITTEN = {
  cpu: (us: number) => `${us.toFixed(2)} µs`,
  ratio: (to: number) => to.toFixed(2),
  user: (us: number) => `${us.toFixed(2)} µs`,
  rate: (perSecond: number) => perSecond.toFixed(0),
  p50: (ms: number) => `${ms.toFixed(2)} ms`,
  p99: (ms: number) => `${ms.toFixed(2)} ms`,
  memory: (mib: number) => `${mib.toFixed(0)} MiB`,
};
const columns = Object.keys(WRITTEN) as (keyof typeof WRITTEN)[];
const tables: Results["tables"] = {}; // what was measured so far

const medianOf = (numbers: number[]) => numbers.sort((a, b) => a - b)[numbers.length >> 1]!;

// In every round each server is measured once, and the table shows the medians. A ratio compares with the first
// server in the same round: when the machine is slow for a while, both are affected.
async function compare(title: string, entries: Entry[]): Promise<void> {
  const results = entries.map((): Result[] => []);
  for (let round = 0; round < rounds; round++) {
    for (const [i, entry] of entries.entries()) results[i]!.push(await entry.measure());
  }
  await print(`\n${title}\n`);
  await print("| server | CPU/message | ratio | user | messages/s | p50 | p99 | memory |");
  await print("| --- | --: | --: | --: | --: | --: | --: | --: |");
  const median = (i: number, of: keyof Result) => medianOf(results[i]!.map((result) => result[of]));
  const ratio = (i: number) => medianOf(results[i]!.map(({ cpu }, k) => cpu / results[0]![k]!.cpu));
  for (const [i, { name }] of entries.entries()) {
    const numbers = columns.map((of) => (of === "ratio" ? ratio(i) : median(i, of)));
    (tables[title] ??= {})[name] = numbers.map((number) => Number(number.toFixed(2)));
    const cells = columns.map((of, k) => WRITTEN[of](numbers[k]!));
    await print(`| ${name} | ${cells.join(" | ")} |`);
  }
}

const under = (load: Load) => (peer: Peer) => ({
  name: peer.name,
  measure: () => measure(peer, load),
});

function runs(command: string[]): boolean {
  return Bun.spawnSync(command, { stdout: "ignore", stderr: "ignore" }).exitCode === 0;
}

const missing = new Set<string>();

function usable(peers: Peer[]): Peer[] {
  return peers.filter((peer, i) => {
    if (i > 0 && !peer.name.includes(only ?? "")) return false;
    const there = Bun.which(peer.needs) !== null && (!peer.check || runs(peer.check));
    const ready = there && (!peer.build || runs(peer.build));
    if (!ready) missing.add(peer.name);
    return ready;
  });
}

if (process.platform !== "linux") refuse("it reads /proc, which only Linux has");
const kinds = kindsOf("--loads takes connections x bytes, as 50x1000", loads);
const udpKinds = kindsOf("--datagrams takes datagrams under way x bytes, as 16x100", datagrams);

function kindsOf(rule: string, text: string): Load[] {
  return text.split(",").map((load) => {
    const [, connections, size] = load.match(/^([1-9]\d*)x([1-9]\d*)$/) ?? [];
    if (size === undefined) refuse(`${rule}, not "${load}"`);
    return { connections: Number(connections), size: Number(size) };
  });
}

const measurements: Record<string, () => Promise<void>> = {
  async echo() {
    for (const load of kinds) {
      const title = `echo, ${load.connections} connections x ${load.size} bytes`;
      await compare(title, echoes.map(under(load)));
    }
  },

  // Many small messages under way on each connection.
  async pipelined() {
    const servers = usable(messagePeers(built));
    for (const pipeline of [16, 100]) {
      const load = { connections: 20, size: 100, pipeline };
      const title = `messages of 100 bytes, ${pipeline} under way on each of 20 connections`;
      await compare(title, servers.map(under(load)));
    }
  },

  // Latency at a fixed rate, and the cost of waiting: most of these messages arrive alone.
  async rate() {
    const load = { connections: 50, size: 1_000, rate };
    const title = `echo, 50 connections x 1000 bytes, ${rate} messages a second in all`;
    await compare(title, echoes.map(under(load)));
  },

  async proxy() {
    for (const load of kinds) {
      const compareWith = async (_pid: number, port: number) => {
        const title = `proxy, ${load.connections} connections x ${load.size} bytes`;
        await compare(title, usable(proxyPeers(built, `${port}`)).map(under(load)));
      };
      await withServer(bare, compareWith, 1);
    }
  },

  async websocket() {
    for (const load of kinds) {
      const title = `WebSocket echo, ${load.connections} connections x ${load.size} bytes of text`;
      const program = "websocket-load.ts";
      await compare(title, usable(websocketPeers(built)).map(under({ ...load, program })));
    }
  },

  // The cost of idle sockets in select(), under load and at two fixed rates.
  async select() {
    const busy = { connections: 8, size: 100 };
    for (const load of [busy, { ...busy, rate: 2_000 }, { ...busy, rate }]) {
      const entries = [100, 2_000].map((idle) => ({
        name: `${idle} idle connections beside them`,
        measure: () => measure(selectServer, { ...load, idle }),
      }));
      const speed = "rate" in load ? `, ${load.rate} messages a second in all` : "";
      await compare(`select-server.ts, 8 connections x 100 bytes${speed}`, entries);
    }
  },

  async start() {
    const times = echoes.map((): number[] => []);
    for (let round = 0; round < 3 * rounds; round++) {
      for (const [i, peer] of echoes.entries()) {
        times[i]!.push(await withServer(peer, async (_pid, _port, startMs) => startMs));
      }
    }
    await print("\n| server | up and listening |");
    await print("| --- | --: |");
    for (const [i, { name }] of echoes.entries()) {
      await print(`| ${name} | ${medianOf(times[i]!).toFixed(1)} ms |`);
    }
  },

  idle: () => idleTable(echoes),

  async udp() {
    const servers = usable(udpPeers(built));
    for (const load of udpKinds) {
      const title = `datagrams, ${load.connections} under way x ${load.size} bytes`;
      const kind = { ...load, program: "udp-load.ts", warmUp: 2 * WARM_UP_SECONDS }; // for 1 under way
      await compare(title, servers.map(under(kind)));
    }
  },

  // Readings into SQLite, each answered when it is committed.
  async station() {
    await print(
      "\n| readings a second from 50 sensors | stored a second | CPU | p50 | p99 | memory |",
    );
    await print("| --- | --: | --: | --: | --: | --: |");
    for (const offered of [rate, 0]) {
      const results: Awaited<ReturnType<typeof measureStation>>[] = [];
      for (let round = 0; round < rounds; round++) {
        results.push(await measureStation(offered));
      }
      type Key = keyof (typeof results)[0];
      const median = (of: Key) => medianOf(results.map((result) => result[of]));
      const cells = [
        median("rate").toFixed(0),
        `${median("percent").toFixed(0)} %`,
        WRITTEN.p50(median("p50")),
        WRITTEN.p99(median("p99")),
        WRITTEN.memory(median("memory")),
      ];
      await print(`| ${offered || "as fast as it takes them"} | ${cells.join(" | ")} |`);
    }
  },

  // In the first table a message is a handshake.
  async tls() {
    const servers = usable(tlsPeers(built, files.cert, files.key));
    const handshakes = { connections: 16, size: 1, program: "tls-load.ts", tls: true };
    await compare("TLS handshakes, 16 at once", servers.map(under(handshakes)));
    const load = { connections: 50, size: 1_000, tls: true };
    await compare("TLS echo, 50 connections x 1000 bytes", servers.map(under(load)));
    await idleTable(servers, true);
  },
};

async function idleTable(peers: Peer[], isTls = false): Promise<void> {
  await print(`\n| server | one of ${idle} idle connections |`);
  await print("| --- | --: |");
  for (const peer of peers) {
    await print(`| ${peer.name} | ${((await idleCost(peer, isTls)) / 1024).toFixed(2)} KiB |`);
  }
}

const named = [
  ...echoPeers(built),
  ...tlsPeers(built, "", ""),
  ...websocketPeers(built),
  ...messagePeers(built),
  ...udpPeers(built),
];
if (only !== undefined && !named.some(({ name }) => name.includes(only))) {
  refuse(`--only: no peer's name holds "${only}"`);
}
const all = Object.keys(measurements);
const chosen = parts?.split(",") ?? all;
for (const part of chosen) {
  if (!all.includes(part)) refuse(`--parts: there is no "${part}", only ${all.join(", ")}`);
}
const echoes = usable(echoPeers(built));
const machine = `${cpus()[0]?.model}, ${availableParallelism()} cores; Bun ${Bun.version}; medians of ${rounds} x ${seconds} s`;
await print(machine);
if (missing.size > 0) await print(`not here: ${[...missing].join("; ")}`);
for (const part of chosen) await measurements[part]!();
if (kept) await save({ machine, columns, tables });
