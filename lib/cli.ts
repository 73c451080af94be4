// What every script does around its sockets: flags and --help, signals, errors in one line each,
// exit codes, and printing that notices when nobody reads any more.

import { isatty } from "node:tty";
import { getSystemErrorMap, parseArgs } from "node:util";
import { parentPort } from "node:worker_threads";

import { formatAddress, SocketError } from "./errors.ts";
import { startTrace, type TraceMode } from "./trace.ts";

/** After a SIGINT or SIGTERM, how long open connections have to finish. */
const GRACE_MS = 1_000;

/** One flag, what it takes, and the line about it in `--help`. `maxSize` is `--max-size` to type. */
export type Flag =
  | { type: "boolean"; about: string }
  | { type: "argument"; about: string } // no flag at all: a word, taken in the order given here
  | { type: "string"; about: string; default?: string; env?: string }
  | { type: "numbers"; about: string; default: string; env?: string }
  | { type: "choice"; about: string; default: string; choices: readonly string[]; env?: string }
  | {
      type: "port" | "count" | "seconds";
      about: string;
      default: number;
      min: number;
      env?: string;
    };

type Flags = Record<string, Flag>;

type Value<F extends Flag> = F extends { type: "boolean" }
  ? boolean
  : F extends { type: "argument" }
    ? string
    : F extends { type: "string" }
      ? F extends { default: string }
        ? string
        : string | undefined
      : F extends { type: "numbers" }
        ? string[]
        : F extends { type: "choice"; choices: readonly (infer Choice)[] }
          ? Choice
          : number;

/** The flags of every script. */
const COMMON = {
  trace: {
    type: "choice",
    choices: ["off", "text", "mermaid"],
    default: "off",
    about: "show each socket call as it returns; --trace=mermaid: as a sequence diagram at the end",
  },
  help: { type: "boolean", about: "this text" },
} as const satisfies Flags;

/** `--host` and `--port` of a script that listens; `HOST` and `PORT` in the environment count too. */
export function serverFlags(port: number) {
  const where = "address to listen on, 0.0.0.0 for all (default: 127.0.0.1)";
  return {
    host: { type: "string", env: "HOST", about: where },
    port: { type: "port", env: "PORT", default: port, min: 0, about: "port, 0 for any free one" },
  } as const;
}

/** `--host` and `--port` of a script that connects. */
export function clientFlags(port: number) {
  return {
    host: { type: "string", about: "the server's address or name (default: 127.0.0.1)" },
    port: { type: "port", default: port, min: 1, about: "the server's port" },
  } as const;
}

/**
 * Reads the flags, answers `--help`, and from then on takes care of signals, errors and stdout.
 * A flag wins over the environment, the environment over the default.
 *
 * The `signal` that comes with the flags aborts on the first SIGINT or SIGTERM: a server given it
 * stops accepting, and the process ends with 0 when the open connections have, at the latest
 * after 1 s. A second signal ends it at once, with 128 + its number.
 *
 * An error that nobody caught is told in one line on stderr, and ends the process with 1.
 *
 * @example
 * const { port, signal } = cli("Says hello.", serverFlags(4000));
 * using server = listen({ port, signal });
 */
export function cli<const F extends Flags>(
  help: string,
  flags: F,
): { [name in keyof F]: Value<F[name]> } & { signal: AbortSignal } {
  const stop = new AbortController();
  if (Bun.isMainThread) {
    stopOnSignals(stop);
    const tell = (error: unknown) => {
      // What was under way when the signal came ends because of it.
      if (!stop.signal.aborted) fail(error);
    };
    process.on("uncaughtException", tell);
    process.on("unhandledRejection", tell);
  }
  try {
    const { help: wanted, trace, ...values } = readFlags({ ...flags, ...COMMON });
    if (wanted) {
      console.log(helpText(help, { ...flags, ...COMMON }));
      process.exit(0);
    }
    if (trace !== "off") startTrace(trace as TraceMode);
    return { ...values, signal: stop.signal } as ReturnType<typeof cli<F>>;
  } catch (error) {
    return refuse((error as Error).message);
  }
}

/** Ends the process with 2: what is wrong with its flags, in one line on stderr. */
export function refuse(message: string): never {
  console.error(`error: ${message}`);
  process.exit(2);
}

/** Writes a line to stdout. Resolves when it is out: a reader who is slow slows down who awaits it. */
export function print(line: string): Promise<void> {
  return write(`${line}\n`);
}

const onTerminal = isatty(1);
const inColour = onTerminal && !process.env.NO_COLOR;

/**
 * Text from the other side, to be printed. On a terminal it has a colour of its own, so that one sees
 * who speaks (unless `NO_COLOR` is set), and characters that would command the terminal are shown as
 * unknown. In a pipe or a file it is as it came.
 */
export function theirs(text: string): string {
  if (!onTerminal) return text;
  const harmless = text.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, "\ufffd");
  return inColour ? `\x1b[36m${harmless}\x1b[39m` : harmless;
}

/** What a thread that can print no more says to the main thread: see `lib/threads.ts`. */
export const STDOUT_CLOSED = "stdout closed";

let stdout: Bun.FileSink | undefined;

/** Writes text, or bytes, to stdout as they are. When nobody reads it any more (`| head`), the process ends. */
export async function write(text: string | Uint8Array): Promise<void> {
  try {
    stdout ??= Bun.stdout.writer();
    stdout.write(text);
    await stdout.flush();
  } catch (error) {
    const { code = "" } = error as { code?: string };
    if (code !== "EPIPE") console.error(`error: cannot write to stdout: ${reason(code)}`);
    // A thread cannot end the process; the main thread can, and is told.
    if (parentPort !== null) parentPort.postMessage(STDOUT_CLOSED);
    else process.exit(code === "EPIPE" ? 0 : 1);
  }
}

/** Tells of an error that ended one connection and nothing else. */
export function warn(error: unknown): void {
  console.error(`warning: ${describe(error)}`);
}

let failing = false;

/**
 * Ends the process with 1, once what was printed is out, and says why in one line on stderr. Never
 * returns: `await fail("why")`.
 */
export function fail(error: unknown): Promise<never> {
  if (!failing) {
    failing = true;
    console.error(`error: ${describe(error)}`);
    write("").finally(() => process.exit(1));
  }
  return new Promise(() => {});
}

/** An error as a person wants it told; one that is our own mistake keeps its stack. */
function describe(error: unknown): string {
  if (typeof error === "string") return error;
  if (!(error instanceof SocketError)) return Bun.inspect(error);
  const { code, syscall, address } = error;
  const peer = formatAddress(address);
  const why = reason(code);
  if (syscall === "connect") {
    if (code === "ENOTFOUND") return `cannot connect to ${address.host}: ${why}`;
    const hint = code === "ECONNREFUSED" ? " (is the server running?)" : "";
    return `cannot connect to ${peer}: ${why}${hint}`;
  }
  if (syscall === "listen") {
    return `cannot listen on ${code === "ENOTFOUND" ? address.host : peer}: ${why}`;
  }
  return `connection with ${peer}: ${why}`;
}

function reason(code: string): string {
  if (code === "ENOTFOUND") return "host not found";
  if (code === "EINCOMPLETE") return "closed before all of the data had come";
  const known = [...getSystemErrorMap().values()].find(([name]) => name === code);
  return known?.[1] ?? code;
}

function stopOnSignals(stop: AbortController): void {
  const numbers = { SIGINT: 2, SIGTERM: 15 } as const;
  for (const [name, number] of Object.entries(numbers)) {
    process.on(name, () => {
      if (stop.signal.aborted) process.exit(128 + number);
      stop.abort();
      setTimeout(() => process.exit(0), GRACE_MS).unref();
    });
  }
}

function readFlags(flags: Flags): Record<string, unknown> {
  const given = parse(flags);
  const values: Record<string, unknown> = {};
  for (const [name, flag] of Object.entries(flags)) {
    if (flag.type === "boolean" || flag.type === "argument") {
      values[name] = given[kebab(name)] ?? false;
      continue;
    }
    const env = flag.env === undefined ? "" : (process.env[flag.env] ?? "");
    const flagged = given[kebab(name)];
    const text = flagged ?? (env || flag.default);
    const label = flagged === undefined && env !== "" ? flag.env! : `--${kebab(name)}`;
    values[name] = text === undefined ? undefined : valueOf(flag, label, String(text));
  }
  return values;
}

function parse(flags: Flags): Record<string, unknown> {
  const options: Record<string, { type: "boolean" | "string" }> = {};
  const words: string[] = [];
  for (const [name, { type }] of Object.entries(flags)) {
    if (type === "argument") words.push(name);
    else options[kebab(name)] = { type: type === "boolean" ? "boolean" : "string" };
  }
  try {
    const args = process.argv.slice(2).map((arg) => (arg === "--trace" ? "--trace=text" : arg));
    const allowPositionals = words.length > 0;
    const { values, positionals } = parseArgs({ args, options, allowPositionals });
    if (positionals.length > words.length) {
      throw new Error(`Unexpected argument '${positionals[words.length]}'`);
    }
    const missing = words[positionals.length];
    if (missing !== undefined && !values.help) throw new Error(`The ${missing} is missing`);
    return { ...values, ...Object.fromEntries(words.map((word, i) => [word, positionals[i]])) };
  } catch (error) {
    // Behind the first sentence comes advice on `--` that no script here can use.
    const [line = ""] = (error as Error).message.split(/\. |\n/);
    throw new Error(`${line.replace(/\.$/, "")} (see --help)`);
  }
}

/** maxSize -> max-size */
function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (capital) => `-${capital.toLowerCase()}`);
}

function valueOf(
  flag: Exclude<Flag, { type: "boolean" | "argument" }>,
  label: string,
  text: string,
) {
  if (flag.type === "string") {
    if (text === "") throw new Error(`${label} must not be empty`);
    return text;
  }
  if (flag.type === "choice") {
    if (flag.choices.includes(text)) return text;
    throw new Error(`${label} must be one of ${flag.choices.join(", ")}, not "${text}"`);
  }
  if (flag.type === "numbers") {
    const numbers = text.split(",").map((number) => number.trim());
    const bad = numbers.find((number) => !/^-?\d+(\.\d+)?$/.test(number));
    if (bad === undefined) return numbers;
    throw new Error(`${label} must be numbers with commas between them, not "${text}"`);
  }
  const number = Number(text);
  const plain = flag.type === "seconds" ? /^\d+(\.\d+)?$/ : /^\d+$/;
  const max = flag.type === "port" ? 65_535 : Number.MAX_SAFE_INTEGER;
  if (plain.test(text) && number >= flag.min && number <= max) return number;
  const kind = flag.type === "seconds" ? "a number of seconds" : "a whole number";
  const range = flag.type === "port" ? `from ${flag.min} to ${max}` : `of at least ${flag.min}`;
  throw new Error(`${label} must be ${kind} ${range}, not "${text}"`);
}

function helpText(help: string, flags: Flags): string {
  const rows = Object.entries(flags).map(([name, flag]) => {
    if (flag.type === "argument") return [name.toUpperCase(), flag.about];
    if (flag.type === "boolean") return [`--${kebab(name)}`, flag.about];
    if (name === "trace") return ["--trace", flag.about];
    const takes = flag.type === "choice" ? flag.choices.join("|") : TAKES[flag.type];
    const notes = [
      flag.default === undefined ? "" : `default: ${flag.default}`,
      flag.env === undefined ? "" : `environment: ${flag.env}`,
    ].filter(Boolean);
    const note = notes.length > 0 ? ` (${notes.join(", ")})` : "";
    return [`--${kebab(name)} ${takes}`, flag.about + note];
  });
  const width = Math.max(...rows.map(([left]) => left!.length));
  const lines = rows.map(([left, right]) => `  ${left!.padEnd(width)}  ${right}`);
  return `${help.trim()}\n\nFlags:\n${lines.join("\n")}`;
}

const TAKES = { string: "TEXT", numbers: "N,N,…", port: "N", count: "N", seconds: "SECONDS" };
