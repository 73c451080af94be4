// Somebody in the room, and the lines that are still to be sent to them.

import type { Socket } from "../../lib/socket.ts";

const MAX_BEHIND = 1 << 20; // bytes that one client has not taken yet
const LINE = 64; // bytes that each line counts besides its text
const CATCH_UP_MS = 1_000; // how long a client that is further behind has to catch up
const LOOK_MS = 20;

export class Person {
  /** It was reset because it did not catch up. */
  isTooSlow = false;
  readonly #lines: string[] = [];
  #bytes = 0; // of these lines
  #sending: Promise<void> | null = null;
  #isGone = false;

  constructor(
    readonly name: string,
    readonly conn: Socket,
    /** Called when this client is too far behind. */
    readonly onLate: () => void,
  ) {}

  /** Sends a line without waiting. For a slow client it is kept; above `MAX_BEHIND` bytes, calls `onLate`. */
  send(line: string): void {
    if (this.#isGone) return;
    this.#lines.push(line);
    this.#bytes += LINE + Buffer.byteLength(line);
    this.#sending ??= this.#sendLines();
    if (this.behind > MAX_BEHIND) this.onLate();
  }

  /** Resolves when all lines are sent, or after a second. */
  async flush(): Promise<void> {
    await Promise.race([this.#sending, Bun.sleep(CATCH_UP_MS)]);
  }

  /** The bytes that this client has not taken yet. */
  get behind(): number {
    return this.#bytes + this.conn.bufferedAmount;
  }

  /** Gives the kernel what it has room for now: it reports new room only later. */
  nudge(): void {
    try {
      this.conn.trySend("");
    } catch {
      // The client has gone: see below.
    }
  }

  letGo(): void {
    this.isTooSlow = true;
    this.conn.reset();
  }

  // The lines that come during a send are sent together after it.
  async #sendLines(): Promise<void> {
    try {
      while (this.#bytes > 0) {
        this.#bytes = 0;
        await this.conn.sendAll(this.#lines.splice(0).join(""));
      }
      this.#sending = null;
    } catch {
      // The client has gone. Receiving fails too, and ends the connection; until then nothing is kept.
      this.#isGone = true;
      this.#bytes = 0;
    }
  }
}

/**
 * Resolves when nobody is more than `MAX_BEHIND` bytes behind: within a second they have caught up, or are reset.
 * The same second counts for those more than half as far behind: they are reset if they take nothing in it, so
 * that the room does not have to wait again for them.
 */
export async function catchUp(room: ReadonlyMap<string, Person>): Promise<void> {
  const seen = new Map<Person, { behind: number; since: number }>();
  const isLate = ({ behind }: Person) => behind > MAX_BEHIND;
  for (; room.values().some(isLate); await Bun.sleep(LOOK_MS)) {
    const now = performance.now();
    for (const person of room.values().filter(({ behind }) => behind > MAX_BEHIND / 2)) {
      person.nudge();
      const { behind } = person;
      const before = seen.get(person);
      const isBetter = before !== undefined && behind < before.behind && !isLate(person);
      const since = before === undefined || isBetter ? now : before.since;
      seen.set(person, { behind, since });
      if (now - since > CATCH_UP_MS) person.letGo();
    }
  }
}
