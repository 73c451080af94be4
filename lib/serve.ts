// The accept loop of a server: many connections at once, each with its own handler, within limits that keep
// silent or greedy clients from using up memory and descriptors; and a stop that loses no data.

import { formatAddress } from "./address.ts";
import { isAbort, SocketError } from "./errors.ts";
import { acceptProxyHeader } from "./relay.ts";
import type { ServerSocket, Socket } from "./socket.ts";
import { descriptorLimit } from "./socket/descriptors.ts";
import { waiting } from "./socket/queues.ts";
import { onAbort, POLLNVAL } from "./socket/readiness.ts";

/** Descriptors that are not for connections: listening sockets, files, the runtime's own. */
const RESERVE = 32;

export interface ServeOptions {
  /** Connections at once; further ones are reset. Never more than there are descriptors for. */
  maxConnections: number;
  /** After this many seconds without a byte in or out, a connection ends with `ETIMEDOUT`. 0: no limit. */
  idleTimeout: number;
  /** MiB that may wait in all connections together, received or to be sent. Above it, nothing is received. */
  maxBuffered?: number;
  /** Descriptors that a connection takes: 2 in a proxy, which opens one more for each. Default 1. */
  descriptors?: number;
  /** Each connection must begin with a PROXY header that names its client, or it is refused. */
  acceptProxy?: boolean;
  /** Called to receive what comes before that header. Gives how many bytes that is. */
  first?: (conn: Socket) => Promise<number>;
  /** Writes a line on stderr when a connection has ended, and every minute the number of open ones. */
  log?: boolean;
  /** Stops the server: see `serve`. */
  signal?: AbortSignal;
  /** Seconds that the handlers have to finish after the signal. Default 1. */
  grace?: number;
  /** Gets each error that ended a connection, and the text of warnings. */
  onError?: (error: unknown) => void;
}

const COUNT = { type: "count", min: 1 } as const;

/** `--max-connections`, `--idle-timeout` and `--max-buffered`, for `cli`. */
export const limitFlags = {
  maxConnections: { ...COUNT, default: 10_000, about: "connections at once; more are reset" },
  idleTimeout: {
    type: "seconds",
    default: 300,
    min: 0,
    about: "time without a byte either way until a connection is reset, 0 for ever",
  },
  maxBuffered: {
    ...COUNT,
    default: 256,
    about: "MiB that may wait in all connections together; above it nothing is received",
  },
} as const;

/** `--accept-proxy`, for `cli`. */
export const proxyFlags = {
  acceptProxy: {
    type: "boolean",
    about: "accept only connections that begin with a PROXY header, which names the client",
  },
} as const;

/** `--log`, for `cli`. */
export const logFlags = {
  log: { type: "boolean", about: "log to stderr what has ended, and once a minute what is open" },
} as const;

/** Serves one connection. When the server's signal aborts, the handler has `grace` seconds to finish. */
export type Handler = (conn: Socket, signal: AbortSignal) => Promise<unknown>;

/**
 * Accepts connections and runs `handle` for each, until the server is closed or the signal aborts.
 * Resolves when the last handler has ended.
 *
 * When a handler ends, its connection is closed. When it throws, its connection is reset, so that an incomplete
 * reply does not look complete, and `onError` gets the error; other connections are not affected.
 *
 * When the signal aborts, the connections receive no more: each handler gets the bytes that have come, then EOF.
 * So it runs to its end and its replies are sent. The client sees a FIN and no reset, and has until the end of the
 * grace to close. Connections whose handlers have not ended by then are reset.
 *
 * Threads can share one limit: `open` is then shared memory. Its first element counts the open connections of
 * all threads, the element `slot` those of this thread, and the last element the refused ones since the log
 * last showed them.
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
    let isCheck = false; // by the proxy, which may break it off at any time: not logged
    let failure: unknown;
    let [front, isServed] = [0, false]; // bytes of the headers; whether the handler has begun
    handled.add(conn);
    try {
      conn.setIdleTimeout(idleTimeout > 0 ? idleTimeout * 1000 : Infinity);
      front = (await options.first?.(conn)) ?? 0;
      if (options.acceptProxy) {
        const header = await acceptProxyHeader(conn);
        isCheck = header.source === null;
        front += header.length;
      }
      isServed = true;
      await handle(conn, signal);
    } catch (error) {
      if (!isMeant(error, conn, signal, isServed)) {
        if (!isCheck || !/^(ECONNRESET|EPIPE)$/.test(Object(error).code)) onError(error);
        conn.reset();
        failure = error;
      }
    }
    handled.delete(conn);
    if (signal.aborted) await linger(conn, graceOver.promise);
    conn.close();
    count(-1);
    if (options.log && !isCheck) logEnd(conn, began, failure, front);
  };
  const tellState = () => {
    const refused = Atomics.exchange(open, open.length - 1, 0);
    log(`${Atomics.load(open, 0)} open, ${refused} refused`);
  };
  using _everyMinute = options.log && slot === 1 ? setInterval(tellState, 60_000).unref() : null;
  const stop = () => {
    server.close();
    // Not before the event loop has turned: what came before the signal is still read in that turn.
    setImmediate(() => setImmediate(() => handled.forEach((conn) => conn.endReceiving())));
    setTimeout(endGrace, grace * 1000).unref();
  };
  const endGrace = () => {
    graceOver.resolve();
    if (handled.size > 0) onError(`open after the grace, and reset: ${handled.size}`);
    for (const conn of handled) conn.reset();
  };
  using _listener = onAbort(signal, stop);

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
}

/** What `--log` writes when a connection has ended: client, outcome, duration, bytes in (without headers) and out. */
export function logEnd(conn: Socket, began: number, failure: unknown, front = 0): void {
  const how =
    failure === undefined ? "ended" : failure instanceof SocketError ? failure.code : "failed";
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  const bytes = `${conn.bytesReceived - front} bytes in, ${conn.bytesSent} out`;
  log(`${formatAddress(conn.remoteAddress)} ${how}: ${seconds} s, ${bytes}`);
}

/** Writes a line on stderr, with the time. */
export function log(line: string): void {
  console.error(`${new Date().toISOString()} ${line}`);
}

// Whether a handler threw because it closed or reset the connection itself, or because the signal ended its wait
// or cut off a message, or a header before the handler began.
function isMeant(error: unknown, conn: Socket, signal: AbortSignal, isServed: boolean): boolean {
  const code = error instanceof SocketError ? error.code : "";
  if (code === "EBADF") return conn.poll() === POLLNVAL;
  const cutOff = isServed ? /^EINCOMPLETE$/ : /^(EPROTO|EACCES)$/;
  return isAbort(error, signal) || (signal.aborted && cutOff.test(code));
}

// close() while the client still sends would reset the connection, and the client could lose the reply. So our FIN
// goes first, and the client gets time to close.
async function linger(conn: Socket, enough: Promise<void>): Promise<void> {
  if (conn.poll() === POLLNVAL) return;
  conn.endReceiving();
  conn.shutdown("write");
  await Promise.race([conn.closed, enough]);
}

/** Sets the limit for all connections of this thread together, in MiB: see `ServeOptions.maxBuffered`. */
export function limitBuffered(mib: number): void {
  waiting.limit = mib * 1024 * 1024;
}

/** The number of connections, lowered to what the process has descriptors for. */
export async function affordable(connections: number, descriptors = 1): Promise<number> {
  const most = Math.floor(((await descriptorLimit()) - RESERVE) / descriptors);
  return Math.max(1, Math.min(connections, most));
}
