// What every script does around its sockets: flags and --help, signals, errors in one line each,
// exit codes, and printing that notices when nobody reads any more.
//
// What few runs need is loaded when it is needed (require): a script is up in half the time.

import { describe, isMistake } from "./cli/describe.ts";
import { type Flags, helpText, readFlags, type Value } from "./cli/flags.ts";
import { answerWrites, noteWriter, write } from "./cli/output.ts";
import { addWarning } from "./cli/warnings.ts";
import { SocketError } from "./errors.ts";
import type { TraceMode } from "./trace.ts";

export { clientFlags, serverFlags } from "./cli/flags.ts";
export { print, peerText, write } from "./cli/output.ts";

/** After a SIGINT or SIGTERM, how long open connections have to finish, in seconds: without `--grace`. */
const GRACE = 1;

/** How long what has to end by itself may take: what the grace's end resets, and stdout. */
const PATIENCE_MS = 500;

/** The flags of every script. */
const COMMON = {
  trace: {
    type: "choice",
    choices: ["off", "text", "json"],
    default: "off",
    env: "SOCKET_TRACE", // what a script starts is traced as well: watch.ts sets it
    about:
      "show each socket call as it returns; --trace=json: an object a line (environment: SOCKET_TRACE)",
  },
  help: { type: "boolean", about: "this text" },
} as const satisfies Flags;

/**
 * Reads the flags, answers `--help`, and from then on takes care of signals, errors and stdout.
 * A flag wins over the environment, the environment over the default.
 *
 * The `signal` that comes with the flags aborts on the first SIGINT or SIGTERM: a server given it
 * stops accepting, and the process ends with 0 when the open connections have, at the latest
 * half a second after `--grace` (of `serverFlags`; else 1 s). A second signal ends it at once, with
 * 128 + its number.
 *
 * An error that nobody caught is told in one line on stderr, and ends the process with 1. (One that the
 * signal has caused is none.)
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
  try {
    const all = { ...flags, ...COMMON };
    const { help: wanted, trace, ...values } = readFlags(all, process.argv.slice(2));
    if (wanted) {
      console.log(helpText(help, all));
      process.exit(0);
    }
    if (Bun.isMainThread) takeCare(stop, Number(values.grace ?? GRACE) * 1000);
    if (trace !== "off") require("./trace.ts").startTrace(trace as TraceMode, noteWriter());
    return { ...values, signal: stop.signal } as ReturnType<typeof cli<F>>;
  } catch (error) {
    return refuse((error as Error).message);
  }
}

// Of signals, of errors that nobody caught, and of what threads print.
function takeCare(stop: AbortController, graceMs: number): void {
  const numbers = { SIGINT: 2, SIGTERM: 15 } as const;
  for (const [name, number] of Object.entries(numbers)) {
    process.on(name, () => {
      if (stop.signal.aborted) process.exit(128 + number);
      setTimeout(() => process.exit(), graceMs + PATIENCE_MS).unref();
      stop.abort();
    });
  }
  const tell = (error: unknown) => isEndedBy(stop.signal, error) || fail(error);
  process.on("uncaughtException", tell);
  process.on("unhandledRejection", tell);
  answerWrites();
}

// What was under way when the signal came ends because of it: a wait that it called off, a server that
// it closed.
function isEndedBy(signal: AbortSignal, error: unknown): boolean {
  if (!signal.aborted) return false;
  const isClosed = error instanceof SocketError && error.code === "EBADF";
  return isClosed || error === signal.reason || Object(error).cause === signal.reason;
}

// ---- errors

/** Ends the process with 2: what is wrong with its flags, in one line on stderr. */
export function refuse(message: string): never {
  console.error(`error: ${message}`);
  process.exit(2);
}

/**
 * Tells of an error that ended one connection and nothing else, in one line on stderr: at most one a
 * second, with how many more there were. Text is told as it is, at once.
 */
export function warn(error: unknown): void {
  if (typeof error === "string") console.error(`warning: ${error}`);
  else addWarning(describe(error));
}

let failing = false;

/**
 * Ends the process with 1, once what was printed is out (or half a second has gone by), and says why in
 * one line on stderr; a mistake in the program keeps its stack. Never returns: `await fail("why")`.
 */
export function fail(error: unknown): Promise<never> {
  if (!failing) {
    failing = true;
    process.exitCode = 1;
    const hasStack = error instanceof Error && isMistake(error);
    console.error(`error: ${hasStack ? Bun.inspect(error) : describe(error)}`);
    Promise.race([write(""), Bun.sleep(PATIENCE_MS)]).then(() => process.exit(1));
  }
  return new Promise(() => {});
}
