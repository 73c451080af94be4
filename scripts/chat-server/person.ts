// Somebody in the room, and the lines that are still to be sent to them.

import type { Socket } from "../../lib/socket.ts";

const MAX_BEHIND = 1 << 20; // bytes that one client has not taken yet
const CATCH_UP_MS = 1_000; // how long a client that is further behind has to catch up

export class Person {
  /** While this client is too far behind: resolves when it has caught up, or was reset. */
  catchingUp: Promise<void> | null = null;
  /** It was reset because it did not catch up. */
  isTooSlow = false;
  readonly #lines: Buffer[] = [];
  #bytes = 0; // of these lines
  #sending: Promise<void> | null = null;
  #isGone = false;

  constructor(
    readonly name: string,
    readonly conn: Socket,
  ) {}

  /** Sends a line. Does not wait: for a slow client it is kept, up to `MAX_BEHIND` bytes. */
  send(line: Buffer): void {
    if (this.#isGone) return;
    this.#lines.push(line);
    this.#bytes += line.length;
    this.#sending ??= this.#sendLines();
    if (this.#behind > MAX_BEHIND) this.catchingUp ??= this.#catchUp();
  }

  /** Resolves when all lines are sent, or after a second. */
  async flush(): Promise<void> {
    await Promise.race([this.#sending, Bun.sleep(CATCH_UP_MS)]);
  }

  get #behind(): number {
    return this.#bytes + this.conn.bufferedAmount;
  }

  // The lines that come during a send are sent together after it.
  async #sendLines(): Promise<void> {
    try {
      while (this.#bytes > 0) {
        this.#bytes = 0;
        await this.conn.sendAll(Buffer.concat(this.#lines.splice(0)));
      }
      this.#sending = null;
    } catch {
      // The client has gone. Receiving fails too, and ends the connection; until then nothing is kept.
      this.#isGone = true;
      this.#bytes = 0;
    }
  }

  async #catchUp(): Promise<void> {
    const until = performance.now() + CATCH_UP_MS;
    while (this.#behind > MAX_BEHIND && performance.now() < until) {
      await Bun.sleep(20);
      if (!this.#isGone) this.conn.trySend(""); // the kernel reports room late, so we ask
    }
    this.isTooSlow = this.#behind > MAX_BEHIND;
    if (this.isTooSlow) this.conn.reset();
    this.catchingUp = null;
  }
}
