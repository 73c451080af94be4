// What every script needs besides its sockets: flags and --help, signals, error messages, exit codes,
// and printing that ends the script when the reader of its output has gone.
//
// Modules that most runs do not need are loaded with require() on first use: that halves the start-up time.

import { describe, isMistake } from "./cli/describe.ts";
import { type Flags, helpText, readFlags, type Value } from "./cli/flags.ts";
import { answerThreads, noteWriter, write } from "./cli/output.ts";
import { addWarning } from "./cli/warnings.ts";
import { isAbort, SocketError } from "./errors.ts";
import type { TraceMode } from "./trace.ts";

export { describe } from "./cli/describe.ts";
export { clientFlags, serverFlags, tlsClientFlags, tlsFlags } from "./cli/flags.ts";
export { print, peerText, refuse, write } from "./cli/output.ts";
export { clientTls, serverTls } from "./cli/tls.ts";

/** Seconds that open connections have to finish after a SIGINT or SIGTERM, for scripts without `--grace`. */
const GRACE = 1;

/** How long the last steps may take: closing connections that were reset, and writing output. */
const PATIENCE_MS = 500;

/** The flags of every script. */
const COMMON = {
  trace: {
    type: "choice",
    choices: ["off", "text", "json", "live"],
    default: "off",
    env: "SOCKET_TRACE", // watch.ts sets it for the scripts that it starts
    about:
      "show each socket call as it returns; --trace=json: an object a line (environment: SOCKET_TRACE)",
  },
  help: { type: "boolean", about: "this text" },
} as const satisfies Flags;

/**
 * Reads the flags, prints `--help`, and handles signals and uncaught errors from then on.
 * A flag wins over the environment, the environment over the default.
 *
 * The `signal` that it returns aborts on the first SIGINT or SIGTERM: a server with this signal
 * stops accepting, and the process exits with 0 when its open connections have ended, at the latest
 * half a second after `--grace` (a flag of `serverFlags`; 1 s without it). A second signal exits at
 * once with 128 + its number.
 *
 * An uncaught error is printed on stderr as by `fail`, and the process exits with 1, unless the error
 * is a consequence of the signal.
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
  const all = { ...flags, ...COMMON };
  const { help: wanted, trace, ...values } = readFlags(all, process.argv.slice(2));
  if (wanted) {
    console.log(helpText(help, all));
    process.exit(0);
  }
  if (Bun.isMainThread) takeCare(stop, Number(values.grace ?? GRACE) * 1000);
  if (trace !== "off") require("./trace.ts").startTrace(trace as TraceMode, noteWriter());
  return { ...values, signal: stop.signal } as ReturnType<typeof cli<F>>;
}

// Installs the handlers for signals, for uncaught errors, and for what threads print.
function takeCare(stop: AbortController, graceMs: number): void {
  const { signal } = stop;
  const end = (_: string, number: number) => {
    if (signal.aborted) process.exit(128 + number);
    setTimeout(() => process.exit(), graceMs + PATIENCE_MS).unref();
    stop.abort();
  };
  process.on("SIGINT", end);
  process.on("SIGTERM", end);
  const tell = (error: unknown) => {
    // What the signal has ended is no error: a call that it aborted, a server that it closed.
    const isClosed = signal.aborted && error instanceof SocketError && error.code === "EBADF";
    if (!isClosed && !isAbort(error, signal)) fail(error);
  };
  process.on("uncaughtException", tell);
  process.on("unhandledRejection", tell);
  answerThreads();
}

// ---- errors

/**
 * Prints an error that ended only one connection, as a warning in one line on stderr: at most one a
 * second, with the number of those left out. A string is printed as it is, at once.
 */
export function warn(error: unknown): void {
  if (typeof error === "string") console.error(`warning: ${error}`);
  else addWarning(describe(error));
}

let failing = false;

/**
 * Prints an error on stderr, in one line or, if it is a bug in the program, with its stack, and exits
 * with 1 when stdout has been written, at the latest after half a second. The promise never resolves, so
 * that nothing runs after `await fail("why")`.
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
