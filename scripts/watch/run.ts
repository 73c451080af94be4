// Runs the scripts, the first until it listens and then all others, and gathers what they tell of their
// calls. What else they print goes where it would have gone.

import { existsSync } from "node:fs";
import { basename, join } from "node:path";

import { write } from "../../lib/cli.ts";
import type { Call } from "./model.ts";

/** More calls than this are counted, and not kept. */
const MOST_CALLS = 20_000;

/** A server that goes on for ever is stopped when the others have ended and it has made no call for so long. */
const QUIET_MS = 400;

/** Ctrl-C reaches what a terminal runs by itself. Who has not heard of it is told after a moment. */
const HEARD_MS = 300;

/** What is known so far. It grows. */
export class Recording {
  readonly calls: Call[] = [];
  dropped = 0;
  changedAt = performance.now();
  /** Told when there is more. */
  onChange = () => {};

  add(call: Call): void {
    if (this.calls.length < MOST_CALLS) this.calls.push(call);
    else this.dropped++;
    this.changedAt = performance.now();
    this.onChange();
  }

  /** What is no call, but happens to a whole process: its exit, a signal that it gets. */
  note(script: number, pid: number, call: "exit" | "signal", args: string): void {
    const time = performance.timeOrigin + performance.now();
    this.add({ script, pid, call, args, time, began: time, result: "" });
  }
}

/** The file of a script: one of this folder by its name, or any by its path. */
export function fileOf(script: string): string | undefined {
  const name = `${basename(script, ".ts")}.ts`;
  const here = join(import.meta.dir, "..", name);
  return [script, here, name, join("scripts", name)].find(
    (file) => file.endsWith(".ts") && existsSync(file),
  );
}

/** The words of a command as a shell takes it apart: quotes keep words together. */
export function wordsOf(command: string): string[] {
  return [...command.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map(
    ([, double, single, plain]) => double ?? single ?? plain!,
  );
}

/**
 * Runs them all, and resolves when all have ended: the first until it listens, then each of the others
 * until it has connected, so that their order is sure. The first one, where it goes on for ever, is sent
 * a SIGTERM when the others have ended and nothing happens any more; unless it is to `stay`.
 */
export async function run(
  commands: string[],
  into: Recording,
  stay: boolean,
  signal: AbortSignal,
): Promise<void> {
  const [first = "", ...others] = commands;
  const alone = others.length === 0;
  const server = start(first, 0, alone, into, signal);
  if (alone) return server.exited;
  const port = (await Promise.race([server.listening, server.exited])) ?? "0";
  const clients: ReturnType<typeof start>[] = [];
  for (const command of others) {
    const script = clients.length + 1;
    const client = start(command.replaceAll("{port}", port), script, script === 1, into, signal);
    clients.push(client);
    await Promise.race([client.connected, client.exited]);
  }
  await Promise.all(clients.map(({ exited }) => exited));
  if (stay) return server.exited;
  let over = false;
  server.exited.then(() => (over = true));
  while (!over && performance.now() - into.changedAt < QUIET_MS) await Bun.sleep(20);
  if (!over) server.stop();
  await server.exited;
}

// The first one is heard for where it listens. One can type into the second.
function start(
  command: string,
  script: number,
  typed: boolean,
  into: Recording,
  signal: AbortSignal,
) {
  const [name = "", ...args] = wordsOf(command);
  const child = Bun.spawn([process.execPath, "run", fileOf(name)!, ...args], {
    env: { ...process.env, SOCKET_TRACE: "json", BUN_BE_BUN: "1" }, // compiled, too, it is Bun
    stdin: typed ? "inherit" : "ignore",
    stdout: script === 0 && !typed ? "pipe" : "inherit",
    stderr: "pipe",
  });
  const stop = () => {
    into.note(script, child.pid, "signal", "SIGTERM");
    child.kill("SIGTERM");
  };
  const stopLate = () => setTimeout(() => child.exitCode === null && stop(), HEARD_MS);
  signal.addEventListener("abort", stopLate);
  const listening = Promise.withResolvers<string>();
  const connected = Promise.withResolvers<void>();
  const reading = [
    gatherCalls(child.stderr, (call) => {
      into.add({ ...call, script });
      if (/^(connect|datagram)$/.test(call.call)) connected.resolve();
    }),
  ];
  if (child.stdout !== undefined) reading.push(passOn(child.stdout, listening.resolve));
  const exited = (async () => {
    const code = await child.exited;
    signal.removeEventListener("abort", stopLate);
    // A process that it has left behind may have its stderr still.
    await Promise.race([Promise.all(reading), Bun.sleep(QUIET_MS)]);
    into.note(script, child.pid, "exit", String(code));
  })();
  return { listening: listening.promise, connected: connected.promise, exited, stop };
}

// Its output is ours; `listening on HOST:PORT` is in its first lines.
async function passOn(output: ReadableStream<Uint8Array>, listens: (port: string) => void) {
  let said = "";
  for await (const chunk of output) {
    if (said.length < 10_000) said += Buffer.from(chunk).toString("latin1");
    const [, port] = /^listening on .*:(\d+)$/m.exec(said) ?? [];
    await write(chunk);
    if (port !== undefined) listens(port);
  }
}

async function gatherCalls(
  stderr: ReadableStream<Uint8Array>,
  add: (call: Omit<Call, "script">) => void,
) {
  const decoder = new TextDecoder();
  let rest = "";
  const tell = (line: string) => {
    const call = parse(line);
    if (call === undefined) console.error(line);
    else add(call);
  };
  for await (const chunk of stderr) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    lines.forEach(tell);
  }
  if (rest !== "") tell(rest);
}

// A script may well print JSON of its own.
function parse(line: string): Omit<Call, "script"> | undefined {
  if (!line.startsWith('{"time":')) return undefined;
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
