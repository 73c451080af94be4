// The accept loop of a server that stays up: many connections at once, each with its own handler,
// within limits that clients who open and say nothing cannot exceed.

import type { ServerSocket, Socket } from "./socket.ts";
import { descriptorLimit } from "./socket/descriptors.ts";

/** Descriptors kept for everything that is not a connection: listening, files, the runtime's own. */
const RESERVE = 32;

export interface Limits {
  /** Connections at once; those beyond are reset. Never more than there are descriptors for. */
  maxConnections: number;
  /** Seconds that one `recv` or `send`, as a whole, may wait for the peer; then the connection ends. 0: no limit. */
  idleTimeout: number;
  /** Told of what went wrong: an error that ended one connection, or the text of a warning. */
  onError?: (error: unknown) => void;
}

/** `--max-connections` and `--idle-timeout`, for `cli`. */
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
    about: "how long one recv or send may wait for the peer, 0 for ever",
  },
} as const;

/**
 * Accepts connections until the server is closed, and runs `handle` for each. When that ends, its
 * connection is closed; when it throws, that is told in one line on stderr, and nothing else ends.
 * Several threads that do this can have one limit together: `open` is then their shared memory, with
 * the count of all in its first place and that of each thread in its own `slot`.
 *
 * @example
 * await serve(server, async (conn) => {
 *   for await (const chunk of conn) await conn.sendAll(chunk);
 * }, { maxConnections: 1_000, idleTimeout: 60 });
 */
export async function serve(
  server: ServerSocket,
  handle: (conn: Socket) => Promise<void>,
  { maxConnections, idleTimeout, onError = console.error }: Limits,
  open: Int32Array = new Int32Array(2),
  slot = 1,
): Promise<void> {
  const max = await affordable(maxConnections);
  server.onRefused = onError;
  const count = (change: number) => {
    Atomics.add(open, slot, change);
    return Atomics.add(open, 0, change);
  };
  let full = false;
  const run = async (conn: Socket) => {
    try {
      if (idleTimeout > 0) conn.setTimeout(idleTimeout * 1000);
      await handle(conn);
    } catch (error) {
      onError(error);
    } finally {
      conn.close();
      count(-1);
    }
  };
  for await (const conn of server) {
    if (count(1) < max) {
      full = false;
      run(conn);
      continue;
    }
    count(-1);
    conn.reset();
    if (!full) onError(`${max} connections are open: more are refused until one ends`);
    full = true;
  }
}

/** As many connections as are wanted, or as the process has descriptors for, if that is less. */
export async function affordable(connections: number): Promise<number> {
  return Math.max(1, Math.min(connections, (await descriptorLimit()) - RESERVE));
}
