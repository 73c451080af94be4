// What waits at a socket: bytes that came before anybody asked for them, and sends that the kernel
// had no room for yet.

/** What a `for await` and a Web Stream ask for at a time: as a rule more than is there. */
export const CHUNK = 1024 * 1024;

const NOTHING = Buffer.alloc(0);

/** Received bytes in one piece of memory: adopted as they came, copied only to join a second lot. */
export class Inbox {
  #bytes: Buffer;
  #start = 0;
  #end: number;

  constructor(first: Buffer = NOTHING) {
    this.#bytes = first;
    this.#end = first.length;
  }

  get length(): number {
    return this.#end - this.#start;
  }

  push(chunk: Buffer): void {
    if (this.length === 0) {
      this.#bytes = chunk;
      this.#start = 0;
      this.#end = chunk.length;
      return;
    }
    if (this.#end + chunk.length > this.#bytes.length) this.#makeRoom(chunk.length);
    chunk.copy(this.#bytes, this.#end);
    this.#end += chunk.length;
  }

  /** Where `mark` begins, looked for from `from` on; -1 if it is not there. */
  indexOf(mark: Buffer, from: number): number {
    return this.#bytes.subarray(this.#start, this.#end).indexOf(mark, from);
  }

  /** Up to `most` bytes, uncopied. That memory is the receiver's from then on. */
  take(most: number): Buffer {
    const end = Math.min(this.#start + most, this.#end);
    const chunk = this.#bytes.subarray(this.#start, end);
    this.#start = end;
    if (end === this.#end) this.#bytes = NOTHING; // an empty one holds no memory
    return chunk;
  }

  // Doubling makes many small pieces cheap. What was handed out stays where it is.
  #makeRoom(bytes: number): void {
    const roomy = Buffer.allocUnsafeSlow(Math.max(2 * this.length, this.length + bytes));
    this.#bytes.copy(roomy, 0, this.#start, this.#end);
    this.#end -= this.#start;
    this.#start = 0;
    this.#bytes = roomy;
  }
}

/** A send that waits: `all` of it, or whatever goes first. */
interface Sending {
  bytes: Uint8Array;
  sent: number;
  all: boolean;
  deadline: number;
  resolve(sent: number): void;
  reject(error: Error): void;
}

/** Sends in the order in which they were called: one goes out whole before the next one starts. */
export class Outbox {
  readonly #queue: Sending[] = [];

  get length(): number {
    return this.#queue.length;
  }

  /** The earliest of the deadlines, on the clock of `performance.now()`. */
  get deadline(): number {
    return this.#queue.reduce((first, { deadline }) => Math.min(first, deadline), Infinity);
  }

  push(bytes: Uint8Array, sent: number, all: boolean, deadline: number): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    this.#queue.push({ bytes, sent, all, deadline, resolve, reject });
    return promise;
  }

  /** Goes on as far as `write` takes the bytes; throws what it throws. */
  flush(write: (bytes: Uint8Array) => number): void {
    for (let head = this.#queue[0]; head !== undefined; head = this.#queue[0]) {
      head.sent += write(head.bytes.subarray(head.sent));
      if (head.sent < (head.all ? head.bytes.length : 1)) return;
      this.#queue.shift();
      head.resolve(head.sent);
    }
  }

  /** Rejects the first send whose time is up, if any, and all behind it: the stream has a hole now. */
  expire(now: number, error: (sent: number) => Error): boolean {
    const late = this.#queue.findIndex(({ deadline }) => deadline <= now);
    if (late < 0) return false;
    this.fail(error, late);
    return true;
  }

  /** Rejects the sends from the given one on. */
  fail(error: (sent: number) => Error, from = 0): void {
    for (const { sent, reject } of this.#queue.splice(from)) reject(error(sent));
  }
}
