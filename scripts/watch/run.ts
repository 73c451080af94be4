// Starts the first script, waits until it listens, then starts the others, and collects the traced calls of all.
// Their other output is passed on.

import { existsSync } from "node:fs";
import { basename, join } from "node:path";

import { fail, write } from "../../lib/cli.ts";
import type { Call } from "./model.ts";

/** Calls beyond this number are only counted. */
const MOST_CALLS = 20_000;

/** When the others have ended and the first script has made no call for this long, it is stopped. */
const QUIET_MS = 400;

/** Ctrl-C in a terminal reaches the scripts too. Those that still run after this time get a SIGTERM. */
const HEARD_MS = 300;

/** A line without an end is passed on in parts of this many characters. */
const MOST_LINE = 1 << 20;

/** The calls so far. */
export class Recording {
  readonly #returned: Call[] = [];
  readonly #waiting = new Map<string, Call>();
  dropped = 0;
  changedAt = performance.now();
  /** Called after each new call. */
  onChange = () => {};

  /** The calls that have returned, and those that are waiting now. */
  get calls(): Call[] {
    return [...this.#returned, ...this.#waiting.values()];
  }

  add(call: Call): void {
    const name = [call.pid, call.thread, call.on, call.call, call.began].join();
    this.#waiting.delete(name);
    if (call.waits) this.#waiting.set(name, call);
    else if (this.#returned.length < MOST_CALLS) this.#returned.push(call);
    else this.dropped++;
    this.changedAt = performance.now();
    this.onChange();
  }

  /** Adds an event of a whole process: its exit, or a signal it gets. */
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

/** Splits a command into words as a shell does, with quotes. */
export function wordsOf(command: string): string[] {
  const quoted = /"([^"]*)"|'([^']*)'/g;
  return [...command.matchAll(/("[^"]*"|'[^']*'|\S)+/g)].map(([word]) =>
    word.replace(quoted, (_, double, single) => double ?? single),
  );
}

/**
 * Starts the first script and waits until it listens; then starts the others one by one, each when the one before
 * has connected, so that their order is fixed. Resolves when all have ended. If the first one still runs when
 * the others have ended and nothing happens any more, it gets a SIGTERM, unless `stay` is true.
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
  const port =
    (await Promise.race([server.listening, server.exited])) ??
    (await fail(`${first} has ended before it said where it listens`));
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

// The first script's output is searched for its port. The second one gets our stdin.
function start(
  command: string,
  script: number,
  typed: boolean,
  into: Recording,
  signal: AbortSignal,
) {
  const [name = "", ...args] = wordsOf(command);
  const child = Bun.spawn([process.execPath, "run", fileOf(name)!, ...args], {
    env: { ...process.env, SOCKET_TRACE: "live", BUN_BE_BUN: "1" }, // makes a compiled watch run as Bun itself
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
  process.on("exit", () => child.kill()); // if this process ends for another reason
  const listening = Promise.withResolvers<string>();
  const connected = Promise.withResolvers<void>();
  const hear = (said: string) => {
    const [, port] = /^listening on .*:(\d+)$/m.exec(said) ?? [];
    if (port !== undefined) listening.resolve(port);
  };
  const reading = [
    lines(child.stderr, (line) => {
      const call = parse(line);
      if (call !== undefined) into.add({ ...call, script });
      else console.error(line);
      if (/^(connect|datagram)$/.test(call?.call ?? "")) connected.resolve();
      hear(line); // netcat prints `listening on` on stderr
    }),
  ];
  if (child.stdout !== undefined) reading.push(passOn(child.stdout, hear));
  const exited = (async () => {
    const code = await child.exited;
    signal.removeEventListener("abort", stopLate);
    // A process that it started and left running may still hold its stderr.
    await Promise.race([Promise.all(reading), Bun.sleep(QUIET_MS)]);
    into.note(script, child.pid, "exit", String(code));
  })();
  return { listening: listening.promise, connected: connected.promise, exited, stop };
}

// Passes its output on. One of the first lines is `listening on HOST:PORT`.
async function passOn(output: ReadableStream<Uint8Array>, hear: (said: string) => void) {
  let said = "";
  for await (const chunk of output) {
    await write(chunk);
    if (said.length > 10_000) continue;
    said += Buffer.from(chunk).toString("latin1");
    hear(said);
  }
}

async function lines(output: ReadableStream<Uint8Array>, tell: (line: string) => void) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of output) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    lines.forEach(tell);
    if (rest.length <= MOST_LINE) continue;
    tell(rest);
    rest = "";
  }
  if (rest !== "") tell(rest);
}

// A line that is no traced call is output of the script, even if it is JSON.
function parse(line: string): Omit<Call, "script"> | undefined {
  if (!line.startsWith('{"time":')) return undefined;
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
