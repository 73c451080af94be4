const help = `
Measures echo servers against each other in one run, each in several rounds that take turns, pinned to
one core while the load has another. What to trust are the ratios: the machine's mood is in all of them.

  terminal 1:  bun run bench
  terminal 2:  bun run bench --loads 50x1000 --rounds 5 --only lib
`;

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, cpus, tmpdir } from "node:os";
import { join } from "node:path";

import { cli, print } from "../lib/cli.ts";
import { connect } from "../lib/socket.ts";

const { loads, rounds, seconds, idle, only } = cli(help, {
  loads: {
    type: "string",
    default: "1x100,50x100,50x1000,500x100,50x65536",
    about: "connections x bytes, with commas between them",
  },
  rounds: { type: "count", default: 3, min: 1, about: "how often each is measured" },
  seconds: { type: "seconds", default: 2, min: 0.2, about: "how long each time" },
  idle: { type: "count", default: 9000, min: 0, about: "idle connections to weigh, 0 for none" },
  only: { type: "string", about: "peers whose name holds this, besides the first" },
});

const peersFolder = join(import.meta.dir, "peers");
const built = mkdtempSync(join(tmpdir(), "bench-"));
process.on("exit", () => rmSync(built, { recursive: true }));
const file = (name: string) => join(peersFolder, name);
const bun = process.execPath;

interface Peer {
  name: string;
  needs: string; // a command
  run: string[];
  build?: string[];
  check?: string[]; // exits 0 where it can run
}

const peers: Peer[] = [
  { name: "bare Bun.listen", needs: bun, run: [bun, file("bare.ts")] },
  { name: "lib, recv loop", needs: bun, run: [bun, file("lib.ts"), "recv"] },
  { name: "lib, for await", needs: bun, run: [bun, file("lib.ts"), "iterate"] },
  { name: "lib, signal and timeout", needs: bun, run: [bun, file("lib.ts"), "limited"] },
  { name: "lib, select", needs: bun, run: [bun, "scripts/select-server.ts", "--port=0"] },
  {
    name: "lib, two threads",
    needs: bun,
    run: [bun, "scripts/echo-threaded-server.ts", "--port=0", "--threads=2"],
  },
  { name: "Bun, node:net, pipe", needs: bun, run: [bun, file("node.mjs"), "pipe"] },
  { name: "Bun, node:net, for await", needs: bun, run: [bun, file("node.mjs"), "iterate"] },
  { name: "Node, pipe", needs: "node", run: ["node", file("node.mjs"), "pipe"] },
  { name: "Node, for await", needs: "node", run: ["node", file("node.mjs"), "iterate"] },
  {
    name: "Deno, node:net, pipe",
    needs: "deno",
    run: ["deno", "run", "-A", file("node.mjs"), "pipe"],
  },
  { name: "Python, threads", needs: "python3", run: ["python3", file("threads_echo.py")] },
  python("streams"),
  python("protocol"),
  python("streams", "uvloop"),
  python("protocol", "uvloop"),
  {
    name: "Go",
    needs: "go",
    build: ["go", "build", "-o", join(built, "go"), file("echo.go")],
    run: [join(built, "go")],
  },
  {
    name: "C, epoll",
    needs: "cc",
    build: ["cc", "-O2", "-o", join(built, "c"), file("epoll.c")],
    run: [join(built, "c")],
  },
];

// Debian's uvloop is for Debian's own Python.
function python(way: string, loop = "asyncio"): Peer {
  const program = loop === "uvloop" ? "/usr/bin/python3" : "python3";
  const run = [program, file("asyncio_echo.py"), way, loop];
  return {
    name: `Python, ${loop}, ${way}`,
    needs: program,
    run,
    check: [program, "-c", `import ${loop}`],
  };
}

interface Result {
  cpu: number; // µs of user and system time for a message
  user: number;
  rate: number; // messages a second
  p99: number; // ms
  memory: number; // MiB
}

// Ticks of user and system time, and resident memory: proc_pid_stat(5), proc_pid_status(5).
function usage(pid: number): { user: number; system: number; memory: number } {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ");
  const [, kib] = readFileSync(`/proc/${pid}/status`, "utf8").match(/^VmRSS:\s+(\d+) kB/m)!;
  return { user: Number(fields[11]), system: Number(fields[12]), memory: Number(kib) / 1024 };
}

const TICK_US = 10_000;

const pinned = (core: number) => ["taskset", "-c", `${core % availableParallelism()}`];

// Runs a server for as long as `use` takes; gives it the process, the port, and how long the start took.
async function withServer<T>(
  peer: Peer,
  use: (pid: number, port: number, startMs: number) => Promise<T>,
): Promise<T> {
  const started = performance.now();
  const server = Bun.spawn([...pinned(0), ...peer.run], { stdout: "pipe", stderr: "inherit" });
  try {
    const port = await portOf(server.stdout);
    return await use(server.pid, port, performance.now() - started);
  } finally {
    server.kill("SIGKILL");
    await server.exited;
  }
}

function measure(peer: Peer, connections: number, size: number): Promise<Result> {
  return withServer(peer, async (pid, port) => {
    const flags = [`--port=${port}`, `--connections=${connections}`, `--size=${size}`, "--json"];
    const command = [bun, "scripts/echo-bench.ts", ...flags, `--seconds=${seconds}`];
    const before = usage(pid);
    const load = Bun.spawn([...pinned(1), ...command], { stdout: "pipe", stderr: "inherit" });
    const { messages, messagesPerSecond, ms } = JSON.parse(await new Response(load.stdout).text());
    const after = usage(pid);
    const user = ((after.user - before.user) * TICK_US) / messages;
    const system = ((after.system - before.system) * TICK_US) / messages;
    return { cpu: user + system, user, rate: messagesPerSecond, p99: ms.p99, memory: after.memory };
  });
}

// Bytes of resident memory that a connection costs on which nothing happens.
function idleCost(peer: Peer): Promise<number> {
  return withServer(peer, async (pid, port) => {
    const conns: Disposable[] = [];
    const open = async (count: number) => {
      for (let i = 0; i < count; i++) conns.push(await connect({ port }));
      await Bun.sleep(500); // the server accepts and settles; only a poll of it could tell when
    };
    await open(500);
    const before = usage(pid).memory;
    await open(idle);
    const cost = ((usage(pid).memory - before) * (1 << 20)) / idle;
    for (const conn of conns) conn[Symbol.dispose]();
    return cost;
  });
}

async function portOf(output: ReadableStream<Uint8Array>): Promise<number> {
  let text = "";
  for await (const chunk of output) {
    text += new TextDecoder().decode(chunk);
    const [, port] = text.match(/^(?:listening on .*:)?(\d+)\n/m) ?? [];
    if (port !== undefined) return Number(port);
  }
  throw new Error(`no port in: ${text}`);
}

function runs(command: string[]): boolean {
  return Bun.spawnSync(command, { stdout: "ignore", stderr: "ignore" }).exitCode === 0;
}

const missing: string[] = [];
const present = peers.filter((peer, i) => {
  if (i > 0 && !peer.name.includes(only ?? "")) return false;
  const usable = Bun.which(peer.needs) !== null && (!peer.check || runs(peer.check));
  const ready = usable && (!peer.build || runs(peer.build));
  if (!ready) missing.push(peer.name);
  return ready;
});

await print(
  `${cpus()[0]?.model}, ${availableParallelism()} cores; Bun ${Bun.version}; medians of ${rounds}`,
);
if (missing.length > 0) await print(`not here: ${missing.join("; ")}`);
const medianOf = (numbers: number[]) => numbers.sort((a, b) => a - b)[numbers.length >> 1]!;

for (const load of loads.split(",")) {
  const [connections = NaN, size = NaN] = load.split("x").map(Number);
  const results = new Map<string, Result[]>(present.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (const peer of present)
      results.get(peer.name)!.push(await measure(peer, connections, size));
  }
  await print(`\n${connections} connections x ${size} bytes\n`);
  await print("| server | CPU/message | ratio | user | messages/s | p99 | memory |");
  await print("| --- | --: | --: | --: | --: | --: | --: |");
  let base = 0;
  for (const [name, list] of results) {
    const median = (of: (result: Result) => number) => medianOf(list.map(of));
    const cpu = median((result) => result.cpu);
    base ||= cpu;
    const cells = [
      `${cpu.toFixed(2)} µs`,
      (cpu / base).toFixed(2),
      `${median((result) => result.user).toFixed(2)} µs`,
      median((result) => result.rate).toFixed(0),
      `${median((result) => result.p99).toFixed(2)} ms`,
      `${median((result) => result.memory).toFixed(0)} MiB`,
    ];
    await print(`| ${name} | ${cells.join(" | ")} |`);
  }
}

await print("\n| server | up and listening | an idle connection |");
await print("| --- | --: | --: |");
const starts = new Map<string, number[]>(present.map(({ name }) => [name, []]));
for (let round = 0; round < 3 * rounds; round++) {
  for (const peer of present) {
    starts.get(peer.name)!.push(await withServer(peer, async (_pid, _port, startMs) => startMs));
  }
}
for (const peer of present) {
  const start = `${medianOf(starts.get(peer.name)!).toFixed(1)} ms`;
  const cost = idle === 0 ? "" : `${((await idleCost(peer)) / 1024).toFixed(2)} KiB`;
  await print(`| ${peer.name} | ${start} | ${cost} |`);
}
