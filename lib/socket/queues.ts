// What waits at a connection: received bytes that no call has taken yet, and sends that the kernel
// had no room for yet.

/** How many bytes `for await` and a Web Stream ask for at a time: usually more than have come. */
export const CHUNK = 1024 * 1024;

/** Up to this size, a buffer is kept even if only a part is used. */
const SMALL = 64 * 1024;

const NOTHING = Buffer.alloc(0);

/**
 * Rejects a promise of which only `resolve` was kept (which saves one function per waiting call): resolve it
 * with this. This promise itself counts as handled.
 */
export function rejection(reason: unknown): Promise<never> {
  const rejected = Promise.reject(reason);
  rejected.catch(() => {});
  return rejected;
}

/** How many bytes wait at all connections of this thread together, and the limit. */
export const waiting = {
  bytes: 0,
  limit: Infinity,
  isFull: false,
  /** Called when the set of connections that may receive changes. */
  changed: () => {},
};

/** The connections that receive above the limit, to complete a message: at most `FINISHERS` at a time. */
const finishing = new Set<object>();
const FINISHERS = 8;

/** Above this many bytes, no other connection joins them. */
const mostWith = (limit: number) => limit + Math.max(limit / 4, 4 << 20);

/** Whether a connection may complete its message now. Without this, all could wait for ever. */
export function mayFinish(conn: object): boolean {
  if (finishing.has(conn)) return true;
  const isOver = waiting.bytes > mostWith(waiting.limit);
  return !isOver && finishing.size < FINISHERS && finishing.add(conn) !== null;
}

/** It no longer waits for a message: another may go on. */
export function finished(conn: object): void {
  if (finishing.delete(conn)) waiting.changed();
}

function more(bytes: number): void {
  waiting.bytes += bytes;
  if (waiting.bytes <= waiting.limit || waiting.isFull) return;
  waiting.isFull = true;
  waiting.changed();
}

function less(bytes: number): void {
  const before = waiting.bytes;
  waiting.bytes -= bytes;
  if (!waiting.isFull) return;
  // Not right below the limit: each change of `isFull` pauses or resumes all connections.
  if (waiting.bytes <= waiting.limit * 0.75) {
    waiting.isFull = false;
    finishing.clear(); // all may receive
  }
  const most = mostWith(waiting.limit);
  if (!waiting.isFull || (before > most && waiting.bytes <= most)) waiting.changed();
}

/** Received bytes in one piece of memory: kept as they came, copied only when more bytes follow. */
export class Inbox {
  #bytes: Buffer = NOTHING;
  #start = 0;
  #end = 0;
  #mark: Buffer | null = null; // what was searched for last, and up to where
  #searched = 0;

  get length(): number {
    return this.#end - this.#start;
  }

  /** `expected`: the most bytes it will hold, if known. It does not allocate more than that ahead. */
  push(chunk: Buffer, expected = Infinity): void {
    more(chunk.length);
    if (this.length === 0) {
      this.#bytes = chunk;
      this.#start = 0;
      this.#end = chunk.length;
      return;
    }
    if (this.#end + chunk.length > this.#bytes.length) this.#makeRoom(chunk.length, expected);
    chunk.copy(this.#bytes, this.#end);
    this.#end += chunk.length;
  }

  /** The position of `mark`; -1 if it is not there. What was searched for it before is not searched again. */
  indexOf(mark: Buffer): number {
    const from = mark === this.#mark ? this.#searched : 0;
    const at = this.#bytes.subarray(this.#start, this.#end).indexOf(mark, from);
    this.#mark = mark;
    this.#searched = at < 0 ? Math.max(0, this.length - mark.length + 1) : at;
    return at;
  }

  /** The `bytes` bytes at `at`, as a big-endian number. They stay in the inbox. */
  readUInt(bytes: number, at = 0): number {
    return this.#bytes.readUIntBE(this.#start + at, bytes);
  }

  /** Takes up to `most` bytes, uncopied: that memory then belongs to the caller. */
  take(most: number): Buffer {
    const end = Math.min(this.#start + most, this.#end);
    const chunk = this.#bytes.slice(this.#start, end); // a view like subarray(), but twice as fast
    this.#start = end;
    this.#searched = Math.max(0, this.#searched - chunk.length);
    less(chunk.length);
    if (end === this.#end)
      this.#bytes = NOTHING; // an empty inbox keeps no memory
    // A smaller rest is copied, so that it does not keep the memory of the large chunk before it.
    else if (chunk.length > SMALL && this.length < chunk.length) this.#makeRoom(0, this.length);
    return chunk;
  }

  // Doubling makes many small pieces cheap. Chunks that were taken are not moved.
  #makeRoom(bytes: number, expected: number): void {
    const needed = this.length + bytes;
    const roomy = Buffer.allocUnsafeSlow(Math.max(needed, Math.min(2 * this.length, expected)));
    this.#bytes.copy(roomy, 0, this.#start, this.#end);
    this.#end -= this.#start;
    this.#start = 0;
    this.#bytes = roomy;
  }
}

/** The most bytes that are gathered, to be sent together; and the size of the first buffer for them. */
const GATHERED = 64 * 1024;
const FEW = 1024;

/** Unused buffers for gathered bytes: allocating one takes longer than filling it. */
const spares: Buffer[] = [];
const MAX_SPARES = 32;

/** A send that waits until `all` of it, or any part, is sent. */
interface Sending {
  readonly bytes: Uint8Array;
  sent: number;
  readonly all: boolean;
  readonly deadline: number;
  readonly signal?: AbortSignal;
  settle(outcome: number | Promise<never> | undefined): void;
}

/**
 * Sends, in the order of the calls: each goes out whole before the next one starts. Small ones can be
 * gathered instead: no caller waits for those. Gathered bytes go out before the sends that wait.
 */
export class Outbox {
  #gathered: Buffer | null = null;
  #from = 0;
  #to = 0;
  #sends: Sending[] = [];
  #bytes = 0;

  /** How many bytes it holds. */
  get bytes(): number {
    return this.#bytes;
  }

  get isEmpty(): boolean {
    return this.#to === 0 && !this.isAwaited;
  }

  /** Whether a caller waits for a send. */
  get isAwaited(): boolean {
    return this.#sends.length > 0;
  }

  /** The earliest of the deadlines, on the clock of `performance.now()`. */
  get deadline(): number {
    return this.#sends.reduce((first, { deadline }) => Math.min(first, deadline), Infinity);
  }

  /** Adds a copy of `bytes` to the gathered ones; false if they are too many, or if other sends wait. */
  gather(bytes: Uint8Array): boolean {
    const needed = this.#to + bytes.length;
    if (needed > GATHERED || this.isAwaited) return false;
    if (this.#gathered === null || needed > this.#gathered.length) {
      const isFew = needed <= FEW;
      const roomy = isFew
        ? Buffer.allocUnsafe(FEW)
        : (spares.pop() ?? Buffer.allocUnsafeSlow(GATHERED));
      this.#gathered?.copy(roomy, 0, 0, this.#to);
      this.#gathered = roomy;
    }
    this.#gathered.set(bytes, this.#to);
    this.#to = needed;
    this.#add(bytes.length);
    return true;
  }

  /** Queues a send, of which `sent` bytes have gone. Gives its promise. */
  push(given: Omit<Sending, "settle">): Promise<any> {
    this.#add(given.bytes.length - given.sent);
    return new Promise((settle) => this.#sends.push({ ...given, settle }));
  }

  /** Sends with `write` (`length` bytes, starting at `from`) until it has no room; throws what it throws. */
  flush(write: (bytes: Uint8Array, from: number, length: number) => number): void {
    if (this.#to > 0) {
      const sent = write(this.#gathered!, this.#from, this.#to - this.#from);
      this.#from += sent;
      this.#forget(sent);
      if (this.#from < this.#to) return;
      this.#forgetGathered();
    }
    while (this.isAwaited) {
      const head = this.#sends[0]!;
      const sent = write(head.bytes, head.sent, head.bytes.length - head.sent);
      head.sent += sent;
      this.#forget(sent);
      if (head.sent < (head.all ? head.bytes.length : 1)) return;
      this.#sends.shift();
      this.#forget(head.bytes.length - head.sent); // the caller of a `send` keeps the rest
      head.settle(head.all ? undefined : head.sent);
    }
  }

  /** Rejects the first send that matches `isOver`, if any, and all after it: the stream has a gap now. */
  failFrom(isOver: (sending: Sending) => boolean, error: (sent: number) => unknown): boolean {
    const at = this.#sends.findIndex(isOver);
    if (at < 0) return false;
    let unsent: unknown; // one error for all sends that have not begun: many may wait
    for (const sending of this.#sends.splice(at)) {
      this.#forget(sending.bytes.length - sending.sent);
      const why = sending.sent > 0 ? error(sending.sent) : (unsent ??= error(0));
      sending.settle(rejection(why));
    }
    return true;
  }

  /** Rejects the sends that wait; what was gathered is dropped. */
  fail(error: (sent: number) => Error): void {
    this.#forget(this.#to - this.#from);
    this.#forgetGathered();
    this.failFrom(() => true, error);
  }

  #forgetGathered(): void {
    if (this.#gathered?.length === GATHERED && spares.length < MAX_SPARES) {
      spares.push(this.#gathered);
    }
    this.#gathered = null;
    this.#from = this.#to = 0;
  }

  #add(bytes: number): void {
    this.#bytes += bytes;
    more(bytes);
  }

  #forget(bytes: number): void {
    this.#bytes -= bytes;
    less(bytes);
  }
}
