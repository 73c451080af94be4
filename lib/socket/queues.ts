// What waits at a socket: bytes that came before anybody asked for them, and sends that the kernel
// had no room for yet.

/** What a `for await` and a Web Stream ask for at a time: as a rule more than is there. */
export const CHUNK = 1024 * 1024;

/** Memory of up to so many bytes may be kept for a part of it. */
const SMALL = 64 * 1024;

const NOTHING = Buffer.alloc(0);

/**
 * For a promise of which only `resolve` was kept, to save each that waits a function: resolving it with this
 * rejects it. This one itself counts as handled.
 */
export function rejection(reason: unknown): Promise<never> {
  const rejected = Promise.reject(reason);
  rejected.catch(() => {});
  return rejected;
}

/** What waits at all sockets of this thread together, in bytes, and how much may. */
export const waiting = {
  bytes: 0,
  limit: Infinity,
  isFull: false,
  /** Called when others may receive, or may not any longer. */
  changed: () => {},
};

/** Who goes on receiving above the limit, to make whole what has begun: some do, one after the other. */
const finishing = new Set<object>();
const FINISHERS = 8;

/** Up to so much more, in bytes, comes with them. */
const mostWith = (limit: number) => limit + Math.max(limit / 4, 4 << 20);

/** Whether a connection in the middle of a message is one of them now. Else all could wait for ever. */
export function mayFinish(conn: object): boolean {
  if (finishing.has(conn)) return true;
  const isOver = waiting.bytes > mostWith(waiting.limit);
  return !isOver && finishing.size < FINISHERS && finishing.add(conn) !== null;
}

/** It waits no more: the next one may go on. */
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
  // Not at once below the limit: every change of this pauses or resumes all connections.
  if (waiting.bytes <= waiting.limit * 0.75) {
    waiting.isFull = false;
    finishing.clear(); // all may receive
  }
  const most = mostWith(waiting.limit);
  if (!waiting.isFull || (before > most && waiting.bytes <= most)) waiting.changed();
}

/** Received bytes in one piece of memory: adopted as they came, copied only to join a second lot. */
export class Inbox {
  #bytes: Buffer;
  #start = 0;
  #end: number;

  constructor(first: Buffer = NOTHING) {
    this.#bytes = first;
    this.#end = first.length;
    more(first.length);
  }

  get length(): number {
    return this.#end - this.#start;
  }

  /** `expected`: how long it gets, as far as anybody knows. More memory than that is not taken. */
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

  /** Where `mark` begins, looked for from `from` on; -1 if it is not there. */
  indexOf(mark: Buffer, from: number): number {
    return this.#bytes.subarray(this.#start, this.#end).indexOf(mark, from);
  }

  /** `bytes` bytes, from the one at `at` on, as a big-endian number. They stay. */
  readUInt(bytes: number, at = 0): number {
    return this.#bytes.readUIntBE(this.#start + at, bytes);
  }

  /** Up to `most` bytes, uncopied. That memory is the receiver's from then on. */
  take(most: number): Buffer {
    const end = Math.min(this.#start + most, this.#end);
    const chunk = this.#bytes.slice(this.#start, end); // a view, as subarray() is, for half its price
    this.#start = end;
    less(chunk.length);
    if (end === this.#end)
      this.#bytes = NOTHING; // an empty one holds no memory
    // And a little that is left holds no more than itself: what came with it may be kept for long.
    else if (chunk.length > SMALL && this.length < chunk.length) this.#makeRoom(0, this.length);
    return chunk;
  }

  // Doubling makes many small pieces cheap. What was handed out stays where it is.
  #makeRoom(bytes: number, expected: number): void {
    const needed = this.length + bytes;
    const roomy = Buffer.allocUnsafeSlow(Math.max(needed, Math.min(2 * this.length, expected)));
    this.#bytes.copy(roomy, 0, this.#start, this.#end);
    this.#end -= this.#start;
    this.#start = 0;
    this.#bytes = roomy;
  }
}

/** At most so many small bytes are gathered, to be sent together; and so many in the beginning. */
const GATHERED = 64 * 1024;
const FEW = 1024;

/** Memory to gather in that nobody uses now: to allocate some takes longer than to fill it. */
const spares: Buffer[] = [];
const MAX_SPARES = 32;

/** A send that waits: `all` of it, or whatever goes first. */
interface Sending {
  readonly bytes: Uint8Array;
  sent: number;
  readonly all: boolean;
  readonly deadline: number;
  readonly signal?: AbortSignal;
  settle(outcome: number | Promise<never> | undefined): void;
}

/**
 * Sends in the order in which they were called: one goes out whole before the next one starts. Small
 * ones can be gathered instead: of those, nobody waits for the end. They go before the ones that wait.
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

  /** Whether somebody waits for a send of his to be taken. */
  get isAwaited(): boolean {
    return this.#sends.length > 0;
  }

  /** The earliest of the deadlines, on the clock of `performance.now()`. */
  get deadline(): number {
    return this.#sends.reduce((first, { deadline }) => Math.min(first, deadline), Infinity);
  }

  /** Copies `bytes` behind those that are gathered already; false where they are too many, or others wait. */
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

  /** A send of which `sent` bytes have gone. Gives its promise. */
  push(given: Omit<Sending, "settle">): Promise<any> {
    this.#add(given.bytes.length - given.sent);
    return new Promise((settle) => this.#sends.push({ ...given, settle }));
  }

  /** Goes on as far as `write` takes the bytes (of them `length` from `from` on); throws what it throws. */
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
      this.#forget(head.bytes.length - head.sent); // what a `send` has not taken does not wait here
      head.settle(head.all ? undefined : head.sent);
    }
  }

  /** Rejects the first send that `isOver` finds, if any, and all behind it: the stream has a hole now. */
  failFrom(isOver: (sending: Sending) => boolean, error: (sent: number) => unknown): boolean {
    const at = this.#sends.findIndex(isOver);
    if (at < 0) return false;
    let unsent: unknown; // one error for all of which nothing has gone: many may wait
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
