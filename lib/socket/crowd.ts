// Watches all connections of a server together: which of them are idle for too long, and how many bytes wait at
// all of them. One timer serves all connections with the same timeout: a timer for each would take more memory
// than the rest of an idle connection.

import { MAX_DELAY } from "./alarm.ts";
import { waiting } from "./queues.ts";

/** Each connection is checked so often within its timeout. So it ends at most a quarter of it late. */
const LOOKS = 4;

/** What the crowd asks of a connection, and does to it. */
export interface Care<Conn> {
  /** Bytes received and sent so far. */
  moved(conn: Conn): number;
  /** Ends an idle connection. */
  expire(conn: Conn): void;
  /** Called when the limit for all connections is reached or no longer: pauses or resumes receiving. */
  flow(conn: Conn): void;
}

interface Look {
  moved: number;
  quiet: number; // checks in a row without new bytes
}

export class Crowd<Conn> {
  readonly #groups = new Map<number, Map<Conn, Look>>(); // by their timeout in ms
  readonly #care: Care<Conn>;

  constructor(care: Care<Conn>) {
    this.#care = care;
    waiting.changed = () => this.#each((conn) => care.flow(conn));
  }

  /** `ms` may be Infinity. */
  add(conn: Conn, ms: number): void {
    this.remove(conn);
    let group = this.#groups.get(ms);
    if (group === undefined) {
      this.#groups.set(ms, (group = new Map()));
      if (ms < Infinity) this.#watch(group, ms);
    }
    group.set(conn, { moved: -1, quiet: 0 });
  }

  remove(conn: Conn): void {
    for (const group of this.#groups.values()) if (group.delete(conn)) return;
  }

  /** The timeout given to `add`. */
  timeOf(conn: Conn): number {
    for (const [ms, group] of this.#groups) if (group.has(conn)) return ms;
    return Infinity;
  }

  #each(act: (conn: Conn) => void): void {
    for (const group of this.#groups.values()) for (const conn of group.keys()) act(conn);
  }

  #watch(group: Map<Conn, Look>, ms: number): void {
    const look = () => {
      for (const [conn, last] of group) {
        const moved = this.#care.moved(conn);
        last.quiet = moved === last.moved ? last.quiet + 1 : 0;
        last.moved = moved;
        if (last.quiet === LOOKS) this.#care.expire(conn);
      }
      if (group.size > 0) return;
      clearInterval(timer);
      this.#groups.delete(ms);
    };
    const timer = setInterval(look, Math.min(ms / LOOKS, MAX_DELAY)).unref();
  }
}
