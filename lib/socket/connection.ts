// One connection and its verbs: recv, send, shutdown, close. `connect` and `accept` make them.
//
// Bun calls back when bytes have come; those that nobody asked for yet wait in the inbox, and above
// a limit Bun stops reading, so that the kernel's window closes and the peer has to wait. Bun's
// `write` takes what the kernel has room for; the rest waits in the outbox, in its caller's array.
//
// No function on the path of a message is async, and a promise is made only for a call that really
// has to wait: that is what keeps these verbs nearly as cheap as bare callbacks.

import { Alarm } from "./alarm.ts";
import { checkCount, checkTimeout, toBytes } from "./check.ts";
import { type Address, asWritten } from "../address.ts";
import { SocketError, type Syscall } from "../errors.ts";
import { CHUNK, Inbox, Outbox } from "./queues.ts";
import { anyChange, Change, POLLERR, POLLIN, POLLNVAL, POLLOUT } from "./readiness.ts";
import { readableSide, writableSide } from "./streams.ts";

/** Received bytes held for a socket that nobody reads. One read of Bun (512 KiB) may come on top. */
const INBOX_LIMIT = 64 * 1024;

const EOF = Buffer.alloc(0);
const SENT: Promise<void> = Promise.resolve();
const nothing = () => {};
let lastHost = ""; // many connections come from one host: they share one text of it

/** A Bun socket, and what it belongs to: until `open` to whoever made it, from then on to a Socket. */
export type Handle = Bun.Socket<Owner>;
export type Owner = { opened(handle: Handle): void } | Socket;

export interface WaitOptions {
  /** Ends the wait, which rejects with its reason. Nothing that was received is lost. */
  signal?: AbortSignal;
}

// What a Socket remembers, as bits.
const ENDED = 1; // nothing more will come: the peer's FIN, a broken connection, our shutdown("read")
const DEAF = 2; // our shutdown("read"): what still comes is dropped
const PAUSED = 4; // Bun is not reading
const FULL = 8; // the kernel had no room for all we wrote, and has not said since that it has
const SHUT = 16; // our shutdown("write"), or a send that found the peer gone: sending is EPIPE
const FIN_DUE = 32; // the FIN waits its turn behind the outbox
const GONE = 64; // Bun has let go of the descriptor
const BROKEN = 128; // the peer reset the connection, or stopped answering

/** What most connections never need; made when one does, so that an idle one stays small. */
class Extras {
  readonly change = new Change();
  readonly outbox = new Outbox();
  timeout = Infinity;
  recvDeadline = Infinity;
  readonly alarm: Alarm;
  /** The signal that we listen to, and whether the waiting receiver was given it. */
  signal: AbortSignal | undefined;
  abortable = false;
  onAbort = nothing;
  readable: ReadableStream<Uint8Array> | undefined;
  writable: WritableStream<Uint8Array> | undefined;

  constructor(ring: () => void) {
    this.alarm = new Alarm(ring);
  }
}

/**
 * One connection, either end of it: what `connect()` and `accept()` give. One call receives at a
 * time; any number may send. On a closed socket every call but `close` and `reset` fails with `EBADF`.
 *
 * @example
 * for await (const chunk of conn) await conn.sendAll(chunk); // an echo server's work
 */
export class Socket implements Disposable, AsyncIterable<Buffer> {
  #handle: Handle | null;
  #bits = 0;
  #inbox: Inbox | null = null; // null rather than empty
  #failure: SocketError | null = null;
  #extras: Extras | null = null;
  readonly #local: Address;
  readonly #remoteHost: string;
  readonly #remotePort: number;
  // The waiting receiver, if any, wants `least` to `most` bytes.
  #resolve: ((chunk: Buffer | Promise<never>) => void) | null = null;
  #least = 0;
  #most = 0;

  /** @internal Use `connect()` or `server.accept()`. The addresses: as far as they are known. */
  constructor(handle: Handle, local: Address, remote: Address) {
    this.#handle = handle;
    handle.data = this;
    // Bun forgets the addresses when the connection ends, which may be before we hear that it began.
    const scoped = remote.host || local.host;
    const host = asWritten(handle.remoteAddress ?? remote.host, scoped, handle.localAddress);
    this.#remoteHost = host === lastHost ? lastHost : (lastHost = host);
    this.#remotePort = handle.remotePort ?? remote.port;
    const any = local.host === "0.0.0.0" || local.host === "::";
    this.#local = any
      ? {
          host: asWritten(handle.localAddress ?? local.host, host),
          port: handle.localPort ?? local.port,
        }
      : local;
  }

  /** Our end: Python's `getsockname()`. */
  get localAddress(): Address {
    return { ...this.#local };
  }

  /** The peer's end: Python's `getpeername()`. */
  get remoteAddress(): Address {
    return { host: this.#remoteHost, port: this.#remotePort };
  }

  // ---- receiving

  /**
   * Waits for bytes and gives 1 to `maxBytes` of them; an empty Buffer is EOF: the peer will send
   * no more. A chunk is not a message: TCP keeps the order, not the cuts. Python's `recv`, recv(2).
   *
   * The Buffer is the caller's own, and uncopied: a small one that is kept for long keeps the whole
   * read that it came in (up to 512 KiB), unless it is copied.
   *
   * Rejects with `ECONNRESET`, `ETIMEDOUT` (see `setTimeout`), `EBUSY` (another call is receiving).
   */
  recv(maxBytes: number, options?: WaitOptions): Promise<Buffer> {
    try {
      return this.#receive(1, checkCount("maxBytes", maxBytes, 1), options?.signal);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Waits for exactly `bytes` bytes: recv(2) with `MSG_WAITALL`.
   *
   * Rejects as `recv` does, and with `EINCOMPLETE` when the connection ends first; what did come is
   * the error's `partial`.
   */
  async recvExactly(bytes: number, options?: WaitOptions): Promise<Buffer> {
    checkCount("bytes", bytes, 0);
    this.#open("recv");
    if (bytes === 0) return EOF;
    const chunk = await this.#receive(bytes, bytes, options?.signal);
    if (chunk.length === bytes) return chunk;
    const error = this.#error("EINCOMPLETE", "recv", this.#failure);
    error.partial = chunk;
    throw error;
  }

  /** What is there now, up to `maxBytes`; null when nothing is yet, an empty Buffer at EOF. */
  tryRecv(maxBytes: number): Buffer | null {
    const most = checkCount("maxBytes", maxBytes, 1);
    if (this.#resolve !== null) return null; // what comes is spoken for
    return this.#take(1, most);
  }

  /** Resolves when `tryRecv` would not return null: data, EOF or an error. */
  waitReadable(): Promise<void> {
    return this.#waitFor(POLLIN, "recv");
  }

  /** Gives bytes back that were received too far ahead: the next `recv` gives them again, first. */
  unrecv(bytes: Buffer): void {
    if (this.#handle === null || this.#bits & DEAF || bytes.length === 0) return;
    const rest = this.#inbox;
    this.#inbox = new Inbox(bytes);
    if (rest !== null) this.#inbox.push(rest.take(rest.length));
    this.#serve();
    this.#changed();
  }

  /** The chunks as they come, until EOF. Breaking out closes nothing and loses nothing. */
  [Symbol.asyncIterator](): AsyncIterator<Buffer, undefined> {
    return { next: () => this.recv(CHUNK).then(toResult) };
  }

  /** The receiving side as a Web Stream. Reads nothing ahead; cancelling it ends a waiting read. */
  get readable(): ReadableStream<Uint8Array> {
    return (this.#needExtras().readable ??= readableSide(this));
  }

  #receive(least: number, most: number, signal?: AbortSignal): Promise<Buffer> {
    if (signal?.aborted) throw signal.reason;
    if (this.#resolve !== null) throw this.#error("EBUSY", "recv");
    const chunk = this.#take(least, most);
    if (chunk !== null) return Promise.resolve(chunk);
    const { promise, resolve } = Promise.withResolvers<Buffer>();
    this.#resolve = resolve;
    this.#least = least;
    this.#most = most;
    if (least > INBOX_LIMIT) this.#flow();
    if (signal !== undefined || this.#extras !== null) this.#limitReceive(signal);
    return promise;
  }

  // The non-blocking core: null while there are not `least` bytes and more may come.
  #take(least: number, most: number): Buffer | null {
    this.#open("recv");
    const inbox = this.#inbox;
    const ended = (this.#bits & ENDED) !== 0;
    if (inbox === null) {
      if (!ended) return null;
      if (this.#failure !== null) throw this.#failure;
      return EOF;
    }
    if (inbox.length < least && !ended) return null;
    const chunk = inbox.take(most);
    if (inbox.length === 0) this.#inbox = null;
    if (this.#bits & PAUSED) this.#flow();
    return chunk;
  }

  // Bun has read from the kernel.
  #received(chunk: Buffer): void {
    if (this.#bits & DEAF) return;
    const waiting = this.#resolve !== null && this.#inbox === null;
    if (waiting && chunk.length >= this.#least && chunk.length <= this.#most) {
      return this.#deliver(chunk); // straight to the receiver, uncopied
    }
    if (this.#inbox === null) this.#inbox = new Inbox(chunk);
    else this.#inbox.push(chunk);
    this.#serve();
    this.#flow();
    this.#changed();
  }

  // Gives the waiting receiver what it waits for, if that is there by now.
  #serve(): void {
    if (this.#resolve === null) return;
    try {
      const chunk = this.#take(this.#least, this.#most);
      if (chunk !== null) this.#deliver(chunk);
    } catch (error) {
      this.#refuse(error);
    }
  }

  #deliver(chunk: Buffer): void {
    const resolve = this.#resolve!;
    this.#resolve = null;
    resolve(chunk);
  }

  #refuse(reason: unknown): void {
    const resolve = this.#resolve;
    this.#resolve = null;
    resolve?.(Promise.reject(reason)); // which saves every idle connection a `reject` to keep
  }

  // Flow control: Bun reads while the inbox is below the limit, or a recvExactly waits for more.
  #flow(): void {
    if (this.#bits & (DEAF | GONE)) return;
    const wanted = this.#resolve === null ? 0 : this.#least - 1;
    const full = this.#inbox !== null && this.#inbox.length > Math.max(INBOX_LIMIT, wanted);
    if (full === ((this.#bits & PAUSED) !== 0)) return;
    this.#bits ^= PAUSED;
    if (full) this.#handle?.pause();
    else this.#handle?.resume();
  }

  // ---- sending

  /**
   * Waits for room and hands the kernel as much of `data` as fits (text as UTF-8). Resolves with how
   * many bytes that was, at least 1; the rest is for the caller to send. Python's `send`, send(2).
   *
   * Rejects with `EPIPE` or `ECONNRESET` when the peer is gone, and with `ETIMEDOUT`.
   */
  send(data: string | Uint8Array): Promise<number> {
    try {
      const bytes = toBytes(data);
      const sent = this.#trySend(bytes);
      if (sent > 0 || bytes.length === 0) return Promise.resolve(sent);
      return this.#queue(bytes, 0, false);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Sends all of `data`, waiting for room as often as it takes. Resolves when the kernel has it all,
   * which is before the peer does. Several may be under way: they go out whole, in the order of the
   * calls. Python's `sendall`.
   *
   * Rejects as `send` does; the error's `bytesSent` is how much the kernel took.
   */
  sendAll(data: string | Uint8Array): Promise<void> {
    try {
      const bytes = toBytes(data);
      const sent = this.#trySend(bytes);
      if (sent === bytes.length) return SENT;
      return this.#queue(bytes, sent, true) as Promise<any>;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Hands the kernel what fits right now: how many bytes that was, 0 when there is no room. */
  trySend(data: string | Uint8Array): number {
    return this.#trySend(toBytes(data));
  }

  /** Resolves when `trySend` is worth a try: there may be room, or there is an error to be told. */
  waitWritable(): Promise<void> {
    return this.#waitFor(POLLOUT, "send");
  }

  /** The sending side as a Web Stream. Closing it sends FIN, aborting it resets the connection. */
  get writable(): WritableStream<Uint8Array> {
    return (this.#needExtras().writable ??= writableSide(this));
  }

  #trySend(bytes: Uint8Array): number {
    this.#open("send");
    if (this.#bits & (SHUT | GONE)) throw this.#sendError(0);
    if (bytes.length === 0 || this.#queued()) return 0; // those that wait go first
    return this.#write(bytes);
  }

  #write(bytes: Uint8Array): number {
    const sent = this.#handle!.write(bytes);
    if (sent < bytes.length) this.#bits |= FULL;
    if (sent >= 0) return sent;
    this.#bits |= SHUT;
    throw this.#sendError(0);
  }

  #queued(): boolean {
    return this.#extras !== null && this.#extras.outbox.length > 0;
  }

  #queue(bytes: Uint8Array, sent: number, all: boolean): Promise<number> {
    const extras = this.#needExtras();
    const deadline = performance.now() + extras.timeout;
    const promise = extras.outbox.push(bytes, sent, all, deadline);
    extras.alarm.set(deadline);
    return promise;
  }

  // Bun says that there may be room.
  #drained(): void {
    this.#bits &= ~FULL;
    try {
      this.#extras?.outbox.flush((bytes) => this.#write(bytes));
    } catch {
      this.#failSends("EPIPE");
    }
    this.#finish();
    this.#changed();
  }

  #failSends(code: string): void {
    this.#extras?.outbox.fail((sent) => this.#sendError(sent, code));
  }

  // The FIN, once nothing is before it.
  #finish(): void {
    if (!(this.#bits & FIN_DUE) || this.#queued()) return;
    this.#bits ^= FIN_DUE;
    this.#handle?.shutdown();
  }

  // ---- ending

  /**
   * Ends one direction: shutdown(2). `"write"` sends FIN behind everything sent before: the peer's
   * `recv` gives EOF, and we still receive. (If a send before it runs out of time, it is as if it
   * had not been called: a FIN would call the part that went the whole.) `"read"` gives EOF to our
   * own `recv` and drops what still comes; the peer is not told. Twice is fine.
   */
  shutdown(how: "read" | "write" | "both"): void {
    if (how !== "read" && how !== "write" && how !== "both") {
      throw new TypeError(`shutdown takes "read", "write" or "both", not ${Bun.inspect(how)}`);
    }
    this.#open(how === "read" ? "recv" : "send");
    if (how !== "write" && !(this.#bits & DEAF)) this.#stopListening();
    if (how === "read" || this.#bits & (SHUT | GONE)) return;
    this.#bits |= SHUT | FIN_DUE;
    this.#finish();
    this.#changed();
  }

  #stopListening(): void {
    this.#inbox = null;
    this.#flow(); // what comes is read, to be dropped
    this.#bits |= ENDED | DEAF;
    this.#failure = null;
    this.#serve();
    this.#changed();
  }

  /**
   * Closes the connection: close(2). What was sent still arrives, then FIN; if received bytes are
   * left unread in the kernel, it resets the connection instead, as everywhere. Calls that wait
   * reject with `EBADF`. Twice is fine.
   */
  close(): void {
    this.#release((handle) => handle.end());
  }

  /**
   * Ends the connection at once with a reset (RST): what is under way either way is lost. (A
   * Unix-domain socket has no reset: its peer sees an end like any other.)
   */
  reset(): void {
    this.#release((handle) => handle.terminate());
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #release(end: (handle: Handle) => void): void {
    const handle = this.#handle;
    if (handle === null) return;
    this.#handle = null;
    this.#inbox = null;
    this.#refuse(this.#error("EBADF", "recv"));
    this.#failSends("EBADF");
    this.#settle();
    if (!(this.#bits & GONE)) end(handle);
  }

  // The peer's FIN.
  #ended(): void {
    this.#bits |= ENDED;
    this.#serve();
    this.#changed();
  }

  // Bun has let go of the descriptor: both sides have sent FIN, or the connection broke.
  #gone(cause?: Error & { code?: string }): void {
    if (this.#handle === null) return; // it was us
    if (cause !== undefined) {
      // A reset that comes behind the peer's FIN is EPIPE to Bun.
      const code = cause.code === undefined || cause.code === "EPIPE" ? "ECONNRESET" : cause.code;
      if (!(this.#bits & ENDED)) this.#failure = this.#error(code, "recv", cause);
      this.#bits |= BROKEN;
    }
    this.#bits |= ENDED | GONE;
    this.#serve();
    this.#failSends(this.#failure?.code ?? "EPIPE");
    this.#settle();
  }

  // Nothing will happen here any more: wakes those who wait, and lets go of timer and signal.
  #settle(): void {
    const extras = this.#extras;
    extras?.alarm.stop();
    extras?.signal?.removeEventListener("abort", extras.onAbort);
    this.#changed();
  }

  // ---- how long to wait

  /**
   * Bounds each later `recv`, `recvExactly`, `send` and `sendAll`, as a whole, to `ms` milliseconds;
   * then it rejects with `ETIMEDOUT`. `null` is for ever. After a `recv` that timed out the socket is
   * as before; after a `sendAll`, `bytesSent` tells how much went, and those behind it reject too.
   * Python's `settimeout`, in milliseconds.
   */
  setTimeout(ms: number | null): void {
    this.#open("recv");
    this.#needExtras().timeout = ms === null ? Infinity : checkTimeout(ms);
  }

  // A deadline and a signal for the waiting receiver. One timer and one listener serve the socket
  // from call to call: arming them for every message would cost more than the message.
  #limitReceive(signal: AbortSignal | undefined): void {
    const extras = this.#needExtras();
    const limited = extras.timeout < Infinity;
    extras.recvDeadline = limited ? performance.now() + extras.timeout : Infinity;
    extras.alarm.set(extras.recvDeadline);
    extras.abortable = signal !== undefined;
    if (signal === undefined || signal === extras.signal) return;
    extras.signal?.removeEventListener("abort", extras.onAbort);
    extras.signal = signal;
    extras.onAbort = () => {
      if (extras.abortable) this.#refuse(signal.reason);
    };
    signal.addEventListener("abort", extras.onAbort);
  }

  #expire(): void {
    const extras = this.#needExtras();
    const now = performance.now();
    if (extras.recvDeadline <= now) {
      extras.recvDeadline = Infinity;
      this.#refuse(this.#error("ETIMEDOUT", "recv"));
    }
    if (extras.outbox.expire(now, (sent) => this.#sendError(sent, "ETIMEDOUT"))) {
      if (this.#bits & FIN_DUE) this.#bits &= ~(FIN_DUE | SHUT);
      this.#changed();
    }
    extras.alarm.set(Math.min(extras.recvDeadline, extras.outbox.deadline));
  }

  // ---- options

  /** Sends small pieces at once instead of gathering them: `TCP_NODELAY`, tcp(7). */
  setNoDelay(on = true): void {
    this.#open("send").setNoDelay(on);
  }

  /**
   * Has the kernel probe a connection that has been silent for `initialDelayMs` (in whole seconds,
   * rounded up; 0 leaves the system's two hours) and end it with `ETIMEDOUT` when ten probes, a
   * second apart, go unanswered: `SO_KEEPALIVE`, tcp(7).
   */
  setKeepAlive(on = true, initialDelayMs = 0): void {
    const seconds = Math.ceil(checkCount("initialDelayMs", initialDelayMs, 0) / 1000);
    this.#open("send").setKeepAlive(on, seconds * 1000);
  }

  // ---- state

  /** What would not have to wait, as bits: poll(2) on this one socket, right now. */
  poll(): number {
    if (this.#handle === null) return POLLNVAL;
    const bits = this.#bits;
    const readable = bits & ENDED || (this.#inbox !== null && this.#resolve === null);
    const writable = bits & (SHUT | GONE) || !(bits & FULL || this.#queued());
    return (readable ? POLLIN : 0) | (writable ? POLLOUT : 0) | (bits & BROKEN ? POLLERR : 0);
  }

  async #waitFor(event: number, syscall: Syscall): Promise<void> {
    while (this.#open(syscall) && !(this.poll() & event)) await this.#needExtras().change.wait();
  }

  #changed(): void {
    this.#extras?.change.now();
    anyChange.now();
  }

  #open(syscall: Syscall): Handle {
    if (this.#handle === null) throw this.#error("EBADF", syscall);
    return this.#handle;
  }

  #needExtras(): Extras {
    return (this.#extras ??= new Extras(() => this.#expire()));
  }

  #error(code: string, syscall: Syscall, cause?: Error | null): SocketError {
    return new SocketError(code, syscall, this.remoteAddress, cause ? { cause } : undefined);
  }

  #sendError(bytesSent: number, code = this.#bits & SHUT ? "EPIPE" : this.#failure?.code): Error {
    const error = this.#error(code ?? "EPIPE", "send");
    error.bytesSent = bytesSent;
    return error;
  }

  /** @internal What Bun calls: one object for all sockets. */
  static readonly handlers: Bun.SocketHandler<Owner> = {
    open: (handle) => (handle.data as Exclude<Owner, Socket>).opened(handle),
    data: (handle, chunk) => (handle.data as Socket).#received(chunk),
    drain: (handle) => (handle.data as Socket).#drained(),
    end: (handle) => (handle.data as Socket).#ended(),
    close: (handle, error) => {
      if (handle.data instanceof Socket) handle.data.#gone(error);
    },
    connectError: () => {}, // `connect` hears of it through its promise
  };
}

function toResult(chunk: Buffer): IteratorResult<Buffer, undefined> {
  return chunk.length > 0 ? { value: chunk, done: false } : { value: undefined, done: true };
}
