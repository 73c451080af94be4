// The accept loop of a server that stays up: many connections at once, each with its own handler,
// within limits that clients who open and say nothing cannot exceed; and an end that loses nothing.

import { formatAddress } from "./address.ts";
import { isAbort, SocketError } from "./errors.ts";
import { acceptProxyHeader } from "./relay.ts";
import type { ServerSocket, Socket } from "./socket.ts";
import { descriptorLimit } from "./socket/descriptors.ts";
import { waiting } from "./socket/queues.ts";
import { POLLNVAL } from "./socket/readiness.ts";

/** Descriptors kept for everything that is not a connection: listening, files, the runtime's own. */
const RESERVE = 32;

export interface ServeOptions {
  /** Connections at once; those beyond are reset. Never more than there are descriptors for. */
  maxConnections: number;
  /** Seconds without a byte either way, after which a connection ends with `ETIMEDOUT`. 0: no limit. */
  idleTimeout: number;
  /** MiB that may wait in all connections together, either way. Above it, nothing is received. */
  maxBuffered?: number;
  /** Descriptors that a connection takes: 2 in a proxy, which opens one more for each. Default 1. */
  descriptors?: number;
  /** A PROXY header comes first on each connection, and tells whose it is; or it is refused. */
  acceptProxy?: boolean;
  /** Write a line on stderr when a connection has ended, and one a minute: how many are open. */
  log?: boolean;
  /** Stops the server: see `serve`. */
  signal?: AbortSignal;
  /** Seconds that the handlers have to finish after the signal. Default 1. */
  grace?: number;
  /** Told of what went wrong: what ended one connection, or the text of a warning. */
  onError?: (error: unknown) => void;
}

/** `--max-connections`, `--idle-timeout` and `--max-buffered`, for `cli`. */
export const limitFlags = {
  maxConnections: {
    type: "count",
    default: 10_000,
    min: 1,
    about: "connections at once; more are reset",
  },
  idleTimeout: {
    type: "seconds",
    default: 300,
    min: 0,
    about: "time without a byte either way until a connection is reset, 0 for ever",
  },
  maxBuffered: {
    type: "count",
    default: 256,
    min: 1,
    about: "MiB that may wait in all connections together; above it nothing is received",
  },
} as const;

/** `--accept-proxy`, for `cli`. */
export const proxyFlags = {
  acceptProxy: {
    type: "boolean",
    about: "only from a proxy that says in a PROXY header whose it is",
  },
} as const;

/** `--log`, for `cli`. */
export const logFlags = {
  log: { type: "boolean", about: "log to stderr what has ended, and once a minute what is open" },
} as const;

/** What serves one connection. The signal is that of the server: when it comes, time is short. */
export type Handler = (conn: Socket, signal: AbortSignal) => Promise<unknown>;

/**
 * Accepts connections and runs `handle` for each, until the server is closed or the signal comes.
 * Resolves after the last handler.
 *
 * When a handler ends, its connection is closed. When it throws, its connection is reset, so that
 * nobody takes a part for the whole, and `onError` is told; nothing else ends.
 *
 * When the signal comes, each connection receives no more: its handler is given what has come, then
 * EOF. So it runs to its end, its replies leave, and the client, who sees an end and no reset, has
 * until the grace is over to close. A handler that has not ended by then has its connection reset.
 *
 * Several threads that do this can have one limit together: `open` is then their shared memory, with
 * the count of all in its first place, that of each thread in its own `slot`, and in its last how many
 * were refused since the log has told it.
 *
 * @example
 * await serve(server, async (conn) => {
 *   for await (const chunk of conn) await conn.sendAll(chunk);
 * }, { maxConnections: 1_000, idleTimeout: 60, signal });
 */
export async function serve(
  server: ServerSocket,
  handle: Handler,
  options: ServeOptions,
  open: Int32Array = new Int32Array(3),
  slot = 1,
): Promise<void> {
  const { idleTimeout, maxBuffered = Infinity, grace = 1, onError = console.error } = options;
  const handler = options.acceptProxy ? behindProxy(handle) : handle;
  const { signal = new AbortController().signal } = options;
  const max = await affordable(options.maxConnections, options.descriptors);
  server.onRefused = onError;
  limitBuffered(maxBuffered / (open.length - 2));
  const count = (change: number) => {
    Atomics.add(open, slot, change);
    return Atomics.add(open, 0, change);
  };
  const handled = new Set<Socket>();
  const running = new Set<Promise<void>>();
  const graceOver = Promise.withResolvers<void>();

  const run = async (conn: Socket) => {
    const began = performance.now();
    let outcome: unknown;
    handled.add(conn);
    try {
      conn.setIdleTimeout(idleTimeout > 0 ? idleTimeout * 1000 : Infinity);
      outcome = await handler(conn, signal);
    } catch (error) {
      if (!isMeant(error, conn, signal)) {
        onError(error);
        conn.reset();
        outcome = error;
      }
    }
    handled.delete(conn);
    if (signal.aborted) await linger(conn, graceOver.promise);
    conn.close();
    count(-1);
    if (options.log && outcome !== CHECK) logEnd(conn, began, outcome);
  };
  const tellState = () => {
    const refused = Atomics.exchange(open, open.length - 1, 0);
    log(`${Atomics.load(open, 0)} open, ${refused} refused`);
  };
  const everyMinute =
    options.log && slot === 1 ? setInterval(tellState, 60_000).unref() : undefined;
  const stop = () => {
    server.close();
    // What had come before the signal is read in this turn of the loop.
    setImmediate(() => handled.forEach((conn) => conn.endReceiving()));
    setTimeout(endGrace, grace * 1000).unref();
  };
  const endGrace = () => {
    graceOver.resolve();
    if (handled.size > 0) onError(`open after the grace, and reset: ${handled.size}`);
    for (const conn of handled) conn.reset();
  };
  signal.addEventListener("abort", stop);
  if (signal.aborted) stop();

  let full = false;
  for await (const conn of server) {
    if (count(1) < max) {
      full = false;
      const ended = run(conn).finally(() => running.delete(ended));
      running.add(ended);
      continue;
    }
    count(-1);
    Atomics.add(open, open.length - 1, 1);
    conn.reset();
    if (!full) onError(`${max} connections are open: more are refused until one ends`);
    full = true;
  }
  await Promise.all(running);
  signal.removeEventListener("abort", stop);
  clearInterval(everyMinute);
}

/** What a handler gives for one of the proxy's own connections, a health check. */
const CHECK = Symbol();

/**
 * A handler for connections that begin with a PROXY header. Of the proxy's own ones nothing is told: it only
 * looks whether the server is there, and breaks them at any time.
 */
export function behindProxy(handle: Handler): Handler {
  return async (conn, signal) => {
    const { source } = await acceptProxyHeader(conn);
    const handling = handle(conn, signal);
    const isCheck = () => CHECK;
    return source === null ? handling.then(isCheck, isCheck) : handling;
  };
}

function logEnd(conn: Socket, began: number, outcome: unknown): void {
  const how =
    outcome instanceof SocketError ? outcome.code : outcome instanceof Error ? "failed" : "ended";
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  const bytes = `${conn.bytesReceived} bytes in, ${conn.bytesSent} out`;
  log(`${formatAddress(conn.remoteAddress)} ${how}: ${seconds} s, ${bytes}`);
}

function log(line: string): void {
  console.error(`${new Date().toISOString()} ${line}`);
}

// What a handler throws because of its own close() or reset(), or because the signal ended its wait or
// the message that was coming.
function isMeant(error: unknown, conn: Socket, signal: AbortSignal): boolean {
  const code = error instanceof SocketError ? error.code : "";
  if (code === "EBADF") return conn.poll() === POLLNVAL;
  return isAbort(error, signal) || (signal.aborted && code === "EINCOMPLETE");
}

// A client that is still sending when we close would be reset, and might lose the reply that is on its
// way. So our end goes first, and then there is time for his.
async function linger(conn: Socket, enough: Promise<void>): Promise<void> {
  if (conn.poll() === POLLNVAL) return;
  conn.endReceiving();
  conn.shutdown("write");
  await Promise.race([conn.closed, enough]);
}

/** What may wait in all connections of this thread together, in MiB: see `ServeOptions.maxBuffered`. */
export function limitBuffered(mib: number): void {
  waiting.limit = mib * 1024 * 1024;
}

/** As many connections as are wanted, or as the process has descriptors for, if that is less. */
export async function affordable(connections: number, descriptors = 1): Promise<number> {
  const most = Math.floor(((await descriptorLimit()) - RESERVE) / descriptors);
  return Math.max(1, Math.min(connections, most));
}
