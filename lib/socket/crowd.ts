// What is looked at for all connections of a server together: on which of them no byte has moved for
// too long, and how much waits at all of them. One timer does for all: a timer for each connection
// would cost more than the rest of an idle one.

import { MAX_DELAY } from "./alarm.ts";
import { waiting } from "./queues.ts";

/** A connection is looked at so often before its time is over: it ends at most 1/4 of that late. */
const LOOKS = 4;

/** What has to be known of a connection, and done to it. */
export interface Care<Conn> {
  /** Bytes that have moved so far, either way. */
  moved(conn: Conn): number;
  /** No byte has moved for too long. */
  expire(conn: Conn): void;
  /** There may be too much in all, or no longer: receive, or stop that. */
  flow(conn: Conn): void;
}

interface Look {
  moved: number;
  quiet: number; // looks in a row that found nothing new
}

export class Crowd<Conn> {
  readonly #groups = new Map<number, Map<Conn, Look>>(); // by the ms that they may be quiet
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

  /** What `add` was told. */
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
