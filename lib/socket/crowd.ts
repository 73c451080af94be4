// Watches all connections that `setIdleTimeout` was called on: ends those that are idle for too long, and
// pauses or resumes all when too many bytes wait. One timer serves them all: a timer for each would take
// more memory than the rest of an idle connection.

import { Alarm } from "./alarm.ts";
import { waiting } from "./queues.ts";

/** How often a connection is checked within its timeout: it ends at most a quarter of that late. */
const LOOKS = 4;

/** What the crowd asks of a connection, and does to it. */
export interface Care<Conn> {
  /** Bytes received and sent so far. */
  moved(conn: Conn): number;
  /** Ends an idle connection. */
  expire(conn: Conn): void;
  /** Called when the limit for all connections is exceeded, or no longer: pauses or resumes receiving. */
  flow(conn: Conn): void;
}

/** How many bytes had moved at the last change, and when that was. */
interface Look {
  readonly timeout: number;
  moved: number;
  since: number;
}

export class Crowd<Conn> {
  readonly #looks = new Map<Conn, Look>();
  readonly #alarm = new Alarm(() => this.#look());
  readonly #care: Care<Conn>;

  constructor(care: Care<Conn>) {
    this.#care = care;
    waiting.changed = () => this.#looks.forEach((_, conn) => care.flow(conn));
  }

  /** `timeout` is in ms, and may be Infinity. */
  add(conn: Conn, timeout: number): void {
    const since = performance.now();
    this.#looks.set(conn, { timeout, moved: this.#care.moved(conn), since });
    this.#alarm.set(since + timeout / LOOKS);
  }

  remove(conn: Conn): void {
    this.#looks.delete(conn);
  }

  /** The timeout given to `add`. */
  timeOf(conn: Conn): number {
    return this.#looks.get(conn)?.timeout ?? Infinity;
  }

  #look(): void {
    const now = performance.now();
    let next = Infinity;
    for (const [conn, last] of this.#looks) {
      const moved = this.#care.moved(conn);
      if (moved !== last.moved) [last.moved, last.since] = [moved, now];
      const due = last.since + last.timeout;
      if (due <= now) this.#care.expire(conn);
      else next = Math.min(next, due, now + last.timeout / LOOKS);
    }
    this.#alarm.set(next);
  }
}
