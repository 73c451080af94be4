// What every script does around its sockets: flags and --help, signals, errors in one line each,
// exit codes, and printing that notices when nobody reads any more.
//
// What few runs need is loaded when it is needed (require): a script is up in half the time.

import { getSystemErrorMap } from "node:util";
import type { MessagePort } from "node:worker_threads";

import { formatAddress, SocketError } from "./errors.ts";
import { type Flags, helpText, readFlags, type Value } from "./flags.ts";
import type { TraceMode } from "./trace.ts";

export { clientFlags, serverFlags } from "./flags.ts";

/** After a SIGINT or SIGTERM, how long open connections have to finish. */
const GRACE_MS = 1_000;

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
    const all = { ...flags, ...COMMON };
    const { help: wanted, trace, ...values } = readFlags(all, process.argv.slice(2));
    if (wanted) {
      console.log(helpText(help, all));
      process.exit(0);
    }
    if (trace !== "off") require("./trace.ts").startTrace(trace as TraceMode);
    return { ...values, signal: stop.signal } as ReturnType<typeof cli<F>>;
  } catch (error) {
    return refuse((error as Error).message);
  }
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

// ---- printing

/** Writes a line to stdout. Resolves when it is out: a reader who is slow slows down who awaits it. */
export function print(line: string): Promise<void> {
  return write(`${line}\n`);
}

let stdout: Bun.FileSink | undefined;

/** Writes text, or bytes, to stdout as they are. When nobody reads it any more (`| head`), the process ends. */
export async function write(text: string | Uint8Array): Promise<void> {
  if (!Bun.isMainThread) return writeInMainThread(text);
  try {
    stdout ??= Bun.stdout.writer();
    stdout.write(text);
    await stdout.flush();
  } catch (error) {
    const { code = "" } = error as { code?: string };
    if (code === "EPIPE") process.exit(0);
    console.error(`error: cannot write to stdout: ${reason(code)}`);
    process.exit(1);
  }
}

/** What a thread asks of the main thread: to write for it, and to say when that is done. */
export interface WriteRequest {
  write: string | Uint8Array;
  done: MessagePort;
}

// Threads that wrote by themselves would cut into each other's lines when a pipe is full.
function writeInMainThread(text: string | Uint8Array): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  require("node:worker_threads").parentPort.postMessage({ write: text, done: port2 }, [port2]);
  return new Promise((resolve) => {
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
  });
}

/** Does what a thread has asked for, if that is what `message` is. */
export function answerWrite(message: WriteRequest | object): void {
  if ("write" in message) write(message.write).then(() => message.done.postMessage("done"));
}

let onTerminal: boolean | undefined;

/**
 * Text from the other side, to be printed. On a terminal it has a colour of its own, so that one sees
 * who speaks (unless `NO_COLOR` is set), and characters that would command the terminal are shown as
 * unknown. In a pipe or a file it is as it came.
 */
export function theirs(text: string): string {
  onTerminal ??= require("node:tty").isatty(1) as boolean;
  if (!onTerminal) return text;
  const harmless = text.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, "\ufffd");
  return !process.env.NO_COLOR ? `\x1b[36m${harmless}\x1b[39m` : harmless;
}

// ---- errors

/** Ends the process with 2: what is wrong with its flags, in one line on stderr. */
export function refuse(message: string): never {
  console.error(`error: ${message}`);
  process.exit(2);
}

/** Tells of an error that ended one connection and nothing else. */
export function warn(error: unknown): void {
  console.error(`warning: ${describe(error)}`);
}

let failing = false;

/**
 * Ends the process with 1, once what was printed is out (or a second has gone by), and says why in
 * one line on stderr. Never returns: `await fail("why")`.
 */
export function fail(error: unknown): Promise<never> {
  if (!failing) {
    failing = true;
    console.error(`error: ${describe(error)}`);
    Promise.race([write(""), Bun.sleep(GRACE_MS)]).then(() => process.exit(1));
  }
  return new Promise(() => {});
}

/** An error as a person wants it told; one that is our own mistake keeps its stack. */
function describe(error: unknown): string {
  if (typeof error === "string") return error;
  if (!(error instanceof SocketError)) {
    const { syscall, message } = error as NodeJS.ErrnoException;
    return syscall === undefined ? Bun.inspect(error) : message; // the system's errors need no stack
  }
  const { code, syscall, address } = error;
  const why = reason(code);
  const peer = code === "ENOTFOUND" ? address.host : formatAddress(address);
  if (syscall === "connect") {
    const hint = code === "ECONNREFUSED" ? " (is the server running?)" : "";
    return `cannot connect to ${peer}: ${why}${hint}`;
  }
  if (syscall === "listen") {
    const hint = address.host === process.env.HOST ? " (HOST in the environment)" : "";
    return `cannot listen on ${peer}: ${why}${hint}`;
  }
  if (syscall === "gethostbyname") return `${peer}: ${why}`;
  if (syscall === "send" && code === "EINVAL")
    return "cannot send: the message holds the delimiter";
  return `connection with ${peer}: ${why}`;
}

function reason(code: string): string {
  if (code === "ENOTFOUND") return "host not found";
  if (code === "EINCOMPLETE") return "closed before all of the data had come";
  const known = [...getSystemErrorMap().values()].find(([name]) => name === code);
  return known?.[1] ?? code;
}
