// Watches all connections that `setIdleTimeout` was called on: ends those that are idle for too long, and
// pauses or resumes all when too many bytes wait. One timer serves them all: a timer for each would take
// more memory than the rest of an idle connection.

import { Alarm } from "./alarm.ts";
import { waiting } from "./queues.ts";

/** How often a connection is checked within its timeout: it ends at most a quarter of that late. */
const LOOKS = 4;

/** What the crowd asks of a connection, and does to it. */
interface Member {
  readonly bytesReceived: number;
  readonly bytesSent: number;
  /** Ends an idle connection. */
  _endIdle(): void;
  /** Called when the limit for all connections is exceeded, or no longer: pauses or resumes receiving. */
  _flow(): void;
}

/** How many bytes had moved at the last change, and when that was. */
interface Look {
  readonly timeout: number;
  moved: number;
  since: number;
}

export const crowd = new Map<Member, Look>();
const alarm = new Alarm(look);
waiting.changed = () => crowd.forEach((_, conn) => conn._flow());

/** `timeout` is in ms, and may be Infinity. */
export function watch(conn: Member, timeout: number): void {
  const since = performance.now();
  crowd.set(conn, { timeout, moved: conn.bytesReceived + conn.bytesSent, since });
  alarm.set(since + timeout / LOOKS);
}

function look(): void {
  const now = performance.now();
  let next = Infinity;
  for (const [conn, last] of crowd) {
    const moved = conn.bytesReceived + conn.bytesSent;
    if (moved !== last.moved) [last.moved, last.since] = [moved, now];
    const due = last.since + last.timeout;
    if (due <= now) conn._endIdle();
    else next = Math.min(next, due, now + last.timeout / LOOKS);
  }
  alarm.set(next);
}
