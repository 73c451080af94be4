// One connection and its verbs: recv, send, shutdown, close. `connect` and `accept` make them.
//
// Bun calls back when bytes have come; those that nobody asked for yet wait in the inbox, and above
// a limit Bun stops reading, so that the kernel's window closes and the peer has to wait. Bun's
// `write` takes what the kernel has room for; the rest waits in the outbox, in its caller's array.
// Small sends after the first one of a turn wait there, too, and leave together when the turn ends.
//
// No function on the path of a message is async, and a promise is made only for a call that really
// has to wait: that is what keeps these verbs nearly as cheap as bare callbacks.

import { type Address, asWritten } from "../address.ts";
import { SocketError, type Syscall } from "../errors.ts";
import { Alarm } from "./alarm.ts";
import { checkCount, checkTimeout, toBytes } from "./check.ts";
import { Crowd } from "./crowd.ts";
import { CHUNK, Inbox, Outbox, waiting } from "./queues.ts";
import {
  anyChange,
  Change,
  POLLERR,
  POLLIN,
  POLLNVAL,
  POLLOUT,
  retry,
  type WaitOptions,
} from "./readiness.ts";
import { readableSide, writableSide } from "./streams.ts";
import { atTurnsEnd, hasTurned, isTooMany, nextTurn } from "./turn.ts";

export type { WaitOptions } from "./readiness.ts";

/** Received bytes held for a socket that nobody reads. One read of Bun (512 KiB) may come on top. */
const INBOX_LIMIT = 64 * 1024;
/** How long what was sent before a `close` may take to leave, in ms. */
const LINGER_MS = 12_000;

const EOF = Buffer.alloc(0);
const SENT: Promise<void> = Promise.resolve();
const nothing = () => {};
let lastHost = ""; // many connections come from one host: they share one text of it

/** A Bun socket, and what it belongs to: until `open` to whoever made it, from then on to a Socket. */
export type Handle = Bun.Socket<HandleData>;
export type HandleData = { opened(handle: Handle): void } | Socket;

// What a Socket remembers, as bits, and what each event does to them (+ sets, - clears):
//
//                          recv  recv  pau  full  send  fin  gone  bro   sent    torn
//                          ended shut  sed        shut  due        ken   lately
//   data                                                                  -
//   inbox over its limit                +
//   inbox below it again                -
//   peer's FIN              +
//   shutdown("read")        +     +     -
//   endReceiving()          +           -
//   kernel takes a part                       +
//   drain                                     -
//   first send of a turn                                                  +
//   end of such a turn                                                    -
//   shutdown("write")                               +     +
//   outbox empty                                          -
//   send meets a reset                  -           +                +
//   send is given up                                -     -                         +
//   reset, idle timeout     +                                   +    +
//   both FINs               +                                   +
const RECV_ENDED = 1; // nothing more will come
const RECV_SHUT = 2; // we have shut down receiving
const PAUSED = 4; // Bun is not reading
const FULL = 8; // the kernel had no room for all we wrote, and has not said since that it has
const SEND_SHUT = 16; // sending is EPIPE
const FIN_DUE = 32; // the FIN waits its turn behind the outbox
const GONE = 64; // Bun has let go of the descriptor
const BROKEN = 128; // the peer reset the connection, or stopped answering
const SENT_LATELY = 256; // something was written in this turn: what follows is gathered
const TORN = 512; // a send was given up: the peer must not see a clean end
const WATCHED = 1024; // one of the crowd

/** What most connections never need; made when one does, so that an idle one stays small. */
class Rare {
  readonly change = new Change();
  readonly outbox = new Outbox();
  timeout = Infinity;
  recvDeadline = Infinity;
  readonly alarm: Alarm;
  /** The signal that we listen to, and whether the waiting receiver was given it. */
  signal: AbortSignal | undefined;
  abortable = false;
  onAbort = nothing;
  /** After a `close` that could not hand everything over: what still sends, and until when. */
  lingering: Handle | null = null;
  lingerDeadline = Infinity;
  over: PromiseWithResolvers<void> | undefined;
  readable: ReadableStream<Uint8Array> | undefined;
  writable: WritableStream<Uint8Array> | undefined;

  constructor(
    ring: () => void,
    /** Run when a turn ends in which sends were gathered. */
    readonly flush: () => void,
  ) {
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
  #bytesReceived = 0;
  #bytesSent = 0;
  #inbox: Inbox | null = null; // null rather than empty
  #failure: SocketError | null = null;
  #rare: Rare | null = null;
  readonly #local: Address;
  readonly #remoteHost: string;
  readonly #remotePort: number;
  // The waiting receiver, if any, wants `least` to `most` bytes. (Without one, `least` is how many it
  // takes until a message is whole.)
  #resolve: ((chunk: Buffer | Promise<never>) => void) | null = null;
  #least = 1;
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
    this.#needHandle("recv");
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
    if (this.#resolve !== null) return null; // what comes is for the one that waits
    return this.#take(1, most);
  }

  /** Resolves when `tryRecv` would not return null: data, EOF or an error. */
  waitReadable(options?: WaitOptions): Promise<void> {
    return this.#waitFor(POLLIN, "recv", options);
  }

  /** Gives bytes back that were received too far ahead: the next `recv` gives them again, first. */
  unrecv(bytes: Buffer): void {
    if (this.#handle === null || this.#bits & RECV_SHUT || bytes.length === 0) return;
    const rest = this.#inbox;
    this.#inbox = new Inbox(bytes);
    if (rest !== null) this.#inbox.push(rest.take(rest.length));
    this.#wakeReceiver();
    this.#changed();
  }

  /** The chunks as they come, until EOF. Breaking out closes nothing and loses nothing. */
  [Symbol.asyncIterator](): AsyncIterator<Buffer, undefined> {
    return { next: () => this.recv(CHUNK).then(toResult) };
  }

  /** The receiving side as a Web Stream. Reads nothing ahead; cancelling it ends a waiting read. */
  get readable(): ReadableStream<Uint8Array> {
    return (this.#needRare().readable ??= readableSide(this));
  }

  /**
   * @internal What `take` takes out of the bytes that have come; null if it needs more, undefined at EOF.
   * An end that cuts it off is `EINCOMPLETE`.
   */
  takeWhole<T>(take: (inbox: Inbox) => T | null): T | null | undefined {
    this.#needHandle("recv");
    if (this.#resolve !== null) throw this.#error("EBUSY", "recv");
    const inbox = this.#inbox;
    const whole = inbox === null ? null : take(inbox);
    if (inbox !== null && inbox.length === 0) this.#inbox = null;
    if (whole !== null) this.#least = 1;
    if (this.#bits & PAUSED) this.#flow();
    if (whole !== null || !(this.#bits & RECV_ENDED)) return whole;
    if (this.#failure !== null) throw this.#failure;
    if (inbox === null) return undefined;
    const error = this.#error("EINCOMPLETE", "recv");
    error.partial = inbox.take(inbox.length);
    this.#inbox = null;
    throw error;
  }

  /**
   * @internal Waits for as long as `take`, a `takeWhole` of up to `most` bytes, gives null. What has
   * begun to come is to be whole within the idle timeout.
   */
  waitWhole<T>(take: () => T | null, most: number, options?: WaitOptions): Promise<T> {
    const { change, alarm, timeout } = this.#needRare();
    let begun = false;
    let deadline = performance.now() + timeout;
    const attempt = () => {
      const whole = take();
      if (whole !== null) return whole;
      const now = performance.now();
      if (!begun && this.#inbox !== null) deadline = Math.min(deadline, now + this.idleTimeout);
      begun = this.#inbox !== null;
      if (now >= deadline) throw this.#error("ETIMEDOUT", "recv");
      alarm.set(deadline);
      if (this.#least !== most) {
        this.#least = most;
        this.#flow();
      }
      return null;
    };
    return retry(change, attempt, options);
  }

  #receive(least: number, most: number, signal?: AbortSignal): Promise<Buffer> {
    if (signal?.aborted) throw signal.reason;
    if (this.#resolve !== null) throw this.#error("EBUSY", "recv");
    this.#needHandle("recv");
    if (isTooMany()) atTurnsEnd(() => this.#wakeReceiver());
    else {
      const chunk = this.#take(least, most);
      if (chunk !== null) return Promise.resolve(chunk);
    }
    const { promise, resolve } = Promise.withResolvers<Buffer>();
    this.#resolve = resolve;
    this.#least = least;
    this.#most = most;
    if (least > INBOX_LIMIT) this.#flow();
    if (signal !== undefined || this.#rare !== null) this.#limitReceive(signal);
    return promise;
  }

  // The non-blocking core: null while there are not `least` bytes and more may come.
  #take(least: number, most: number): Buffer | null {
    this.#needHandle("recv");
    const inbox = this.#inbox;
    const ended = (this.#bits & RECV_ENDED) !== 0;
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
    hasTurned();
    this.#bits &= ~SENT_LATELY;
    this.#bytesReceived += chunk.length;
    if (this.#bits & RECV_ENDED) return; // by our own will: it is dropped
    const { length } = chunk;
    const waits = this.#resolve !== null && this.#inbox === null;
    if (waits && length >= this.#least && length <= this.#most) {
      this.#deliver(chunk); // straight to the receiver, uncopied
      return waiting.isFull ? this.#flow() : undefined;
    }
    if (this.#inbox === null) this.#inbox = new Inbox(chunk);
    else this.#inbox.push(chunk, Math.max(INBOX_LIMIT, this.#least));
    this.#wakeReceiver();
    this.#flow();
    this.#changed();
  }

  // Gives the waiting receiver what it waits for, if that is there by now.
  #wakeReceiver(): void {
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
    this.#least = 1;
    resolve(chunk);
  }

  #refuse(reason: unknown): void {
    const resolve = this.#resolve;
    this.#resolve = null;
    this.#least = 1;
    resolve?.(Promise.reject(reason)); // which saves every idle connection a `reject` to keep
  }

  // Flow control: Bun reads while the inbox is below the limit, or a recvExactly waits for more.
  #flow(): void {
    const bits = this.#bits;
    if (bits & (GONE | BROKEN)) return;
    const over =
      this.#inbox !== null && this.#inbox.length > Math.max(INBOX_LIMIT, this.#least - 1);
    const full = !(bits & RECV_ENDED) && (over || (waiting.isFull && (bits & WATCHED) !== 0));
    if (full === ((bits & PAUSED) !== 0)) return;
    this.#bits ^= PAUSED;
    if (full) this.#handle?.pause();
    else (this.#handle ?? this.#rare?.lingering)?.resume();
  }

  // ---- sending

  /**
   * Waits for room and hands the kernel as much of `data` as fits (text as UTF-8). Resolves with how
   * many bytes that was, at least 1; the rest is for the caller to send. Python's `send`, send(2).
   *
   * Rejects with `EPIPE` or `ECONNRESET` when the peer is gone, and with `ETIMEDOUT`.
   */
  send(data: string | Uint8Array, options?: WaitOptions): Promise<number> {
    try {
      const bytes = toBytes(data);
      options?.signal?.throwIfAborted();
      const sent = this.#give(bytes);
      if (sent === 0 && bytes.length > 0) return this.#queue(bytes, 0, false, options);
      return isTooMany(sent) ? nextTurn().then(() => sent) : Promise.resolve(sent);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Sends all of `data`, waiting for room as often as it takes. Resolves when the kernel has it all,
   * which is before the peer does. Several may be under way: they go out whole, in the order of the
   * calls. Python's `sendall`.
   *
   * Small ones (up to 64 KiB together) that follow another one in the same turn of the event loop
   * resolve at once, and leave together when the turn ends. If the connection turns out to be broken
   * then, the next call says so, and `closed`.
   *
   * Rejects as `send` does; the error's `bytesSent` is how much the kernel took. The peer of a
   * connection on which a send was given up, by a timeout or a signal, never sees a clean end.
   */
  sendAll(data: string | Uint8Array, options?: WaitOptions): Promise<void> {
    try {
      const bytes = toBytes(data);
      options?.signal?.throwIfAborted();
      const sent = this.#give(bytes);
      if (sent < bytes.length) return this.#queue(bytes, sent, true, options);
      return isTooMany(sent) ? nextTurn() : SENT;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Hands over what fits right now, as `send` does: how many bytes that was, 0 when there is no room. */
  trySend(data: string | Uint8Array): number {
    return this.#give(toBytes(data));
  }

  /** Resolves when `trySend` is worth a try: there may be room, or there is an error to be told. */
  waitWritable(options?: WaitOptions): Promise<void> {
    return this.#waitFor(POLLOUT, "send", options);
  }

  /** The sending side as a Web Stream. Closing it sends FIN, aborting it resets the connection. */
  get writable(): WritableStream<Uint8Array> {
    return (this.#needRare().writable ??= writableSide(this));
  }

  // How many bytes the kernel took, or were gathered.
  #give(bytes: Uint8Array): number {
    this.#needHandle("send");
    if (this.#bits & (SEND_SHUT | GONE)) throw this.#sendError(0);
    if (bytes.length === 0) return 0;
    if (this.#bits & SENT_LATELY || this.#queued()) return this.#gather(bytes);
    this.#bits |= SENT_LATELY;
    return this.#write(bytes);
  }

  #gather(bytes: Uint8Array): number {
    const { outbox, flush } = this.#needRare();
    if (!(this.#bits & FULL)) {
      const isFirst = outbox.isEmpty;
      if (outbox.gather(bytes)) {
        if (isFirst) atTurnsEnd(flush);
        return bytes.length;
      }
      this.#flush();
    }
    return outbox.isEmpty ? this.#write(bytes) : 0; // others wait, and go first
  }

  #write(bytes: Uint8Array): number {
    const sent = (this.#handle ?? this.#rare!.lingering)!.write(bytes);
    if (sent < bytes.length) this.#bits |= FULL;
    if (sent < 0) return this.#meetReset();
    this.#bytesSent += sent;
    return sent;
  }

  // Bun tells of this reset once more, as an end; and not at all while it is paused.
  #meetReset(): never {
    this.#bits |= SEND_SHUT | BROKEN;
    if (this.#bits & PAUSED) {
      this.#bits ^= PAUSED;
      this.#handle?.resume();
    }
    this.#changed();
    throw this.#sendError(0);
  }

  #queued(): boolean {
    return this.#rare !== null && !this.#rare.outbox.isEmpty;
  }

  #queue(bytes: Uint8Array, sent: number, all: boolean, options?: WaitOptions): Promise<any> {
    const { outbox, timeout, alarm } = this.#needRare();
    const deadline = performance.now() + timeout;
    const signal = options?.signal;
    const promise = outbox.push(bytes, sent, all, deadline, signal);
    alarm.set(deadline);
    if (signal === undefined) return promise;
    const abort = () => {
      if (
        outbox.failFrom(
          (sending) => sending.signal === signal,
          () => signal.reason,
        )
      )
        this.#giveUp();
    };
    signal.addEventListener("abort", abort);
    return promise.finally(() => signal.removeEventListener("abort", abort));
  }

  // A send that nobody waits for any more has left a hole.
  #giveUp(): void {
    // A shutdown behind it is taken back.
    if (this.#bits & FIN_DUE) this.#bits &= ~(FIN_DUE | SEND_SHUT);
    this.#bits |= TORN;
    this.#changed();
  }

  #flush(): void {
    try {
      this.#rare!.outbox.flush((bytes) => this.#write(bytes));
    } catch {
      this.#failSends("EPIPE");
    }
  }

  #turnEnds(): void {
    this.#bits &= ~SENT_LATELY;
    if (this.#bits & FULL || !this.#queued()) return;
    this.#flush();
    this.#finish();
  }

  // Bun says that there may be room.
  #drained(): void {
    this.#bits &= ~FULL;
    if (this.#queued()) this.#flush();
    this.#finish();
    this.#changed();
  }

  #failSends(code: string): void {
    this.#rare?.outbox.fail((sent) => this.#sendError(sent, code));
  }

  // The FIN, or the end after a close, once nothing is before it.
  #finish(): void {
    if (this.#queued()) return;
    this.#rare?.lingering?.end();
    if (!(this.#bits & FIN_DUE)) return;
    this.#bits ^= FIN_DUE;
    this.#handle?.shutdown();
  }

  // ---- ending

  /**
   * Ends one direction: shutdown(2). `"write"` sends FIN behind everything sent before: the peer's
   * `recv` gives EOF, and we still receive. (After a send that was given up, the connection is reset
   * instead: a FIN would make a partial message look complete.) `"read"` gives EOF to our own `recv` and drops what still comes;
   * the peer is not told. Twice is fine.
   */
  shutdown(how: "read" | "write" | "both"): void {
    if (how !== "read" && how !== "write" && how !== "both") {
      throw new TypeError(`shutdown takes "read", "write" or "both", not ${Bun.inspect(how)}`);
    }
    this.#needHandle(how === "read" ? "recv" : "send");
    if (how !== "write" && !(this.#bits & RECV_SHUT)) {
      this.#bits |= RECV_SHUT;
      this.#dropInbox();
      this.#failure = null;
      this.endReceiving();
    }
    if (how === "read" || this.#bits & (SEND_SHUT | GONE)) return;
    if (this.#bits & TORN) return this.reset();
    this.#bits |= SEND_SHUT | FIN_DUE;
    this.#turnEnds();
    this.#finish();
    this.#changed();
  }

  /**
   * @internal For a server that stops: what has come is still received, and then EOF. What comes later
   * is dropped, so that a `close` is a FIN and no reset.
   */
  endReceiving(): void {
    this.#bits |= RECV_ENDED;
    this.#flow(); // what comes is read, to be dropped
    this.#wakeReceiver();
    this.#changed();
  }

  /**
   * Closes the connection: close(2). What was sent still arrives, then FIN; if received bytes are
   * left unread in the kernel, it resets the connection instead, as everywhere. Calls that wait
   * reject with `EBADF`. Twice is fine.
   *
   * A part is never called the whole: with a send under way, or after one that was given up, this
   * resets the connection. What was gathered and finds no room still leaves, within 12 s.
   */
  close(): void {
    if (this.#handle !== null) this.#turnEnds();
    const isTorn = this.#bits & TORN || this.#rare?.outbox.isAwaited;
    if (isTorn) this.reset();
    else this.#release((handle) => (this.#queued() ? this.#linger(handle) : handle.end()));
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

  /** Resolves when the connection is over, whoever ended it: also when nobody receives or sends. */
  get closed(): Promise<void> {
    const over = (this.#needRare().over ??= Promise.withResolvers());
    if (this.#isOver()) over.resolve();
    return over.promise;
  }

  #release(end: (handle: Handle) => void): void {
    const handle = this.#handle;
    if (handle === null) return;
    this.#handle = null;
    this.#dropInbox();
    this.#refuse(this.#error("EBADF", "recv"));
    if (!(this.#bits & GONE)) end(handle);
    if (this.#rare?.lingering) return this.#changed();
    this.#failSends("EBADF");
    this.#settle();
  }

  // Keeps the descriptor until the kernel has taken what was gathered.
  #linger(handle: Handle): void {
    const rare = this.#needRare();
    rare.lingering = handle;
    rare.lingerDeadline = performance.now() + LINGER_MS;
    rare.alarm.set(rare.lingerDeadline);
    this.#bits |= RECV_ENDED;
    this.#flow();
  }

  // The peer's FIN.
  #ended(): void {
    if (this.#bits & BROKEN) return; // a reset that a send has met: `close` follows
    this.#bits |= RECV_ENDED;
    this.#wakeReceiver();
    this.#changed();
  }

  // Bun has let go of the descriptor: both sides have sent FIN, or the connection broke.
  #gone(cause?: Error & { code?: string }): void {
    if (this.#isOver()) return; // it was us
    if (this.#rare !== null) this.#rare.lingering = null;
    let code = "EPIPE";
    if (cause !== undefined || this.#bits & BROKEN) {
      // A reset that comes behind the peer's FIN is EPIPE to Bun.
      code = cause?.code === undefined || cause.code === "EPIPE" ? "ECONNRESET" : cause.code;
      if (!(this.#bits & RECV_ENDED)) this.#failure = this.#error(code, "recv", cause);
      this.#bits |= BROKEN;
    }
    this.#bits |= RECV_ENDED | GONE;
    this.#wakeReceiver();
    this.#failSends(code);
    this.#settle();
  }

  #isOver(): boolean {
    return (this.#bits & GONE) !== 0 || (this.#handle === null && !this.#rare?.lingering);
  }

  // Nothing will happen here any more: wakes those who wait, and lets go of timer and signal.
  #settle(): void {
    if (this.#bits & WATCHED) Socket.#crowd.remove(this);
    const rare = this.#rare;
    rare?.alarm.stop();
    rare?.signal?.removeEventListener("abort", rare.onAbort);
    rare?.over?.resolve();
    this.#changed();
  }

  #dropInbox(): void {
    this.#inbox?.take(this.#inbox.length);
    this.#inbox = null;
  }

  // ---- how long to wait

  /**
   * Bounds each later `recv`, `recvExactly`, `send` and `sendAll`, as a whole, to `ms` milliseconds;
   * then it rejects with `ETIMEDOUT`. `null` is for ever. After a `recv` that timed out the socket is
   * as before; after a `sendAll`, `bytesSent` tells how much went, and those behind it reject too.
   * Python's `settimeout`, in milliseconds.
   */
  setTimeout(ms: number | null): void {
    this.#needHandle("recv");
    this.#needRare().timeout = ms === null ? Infinity : checkTimeout(ms);
  }

  /**
   * Ends the connection, with a reset, when no byte has moved either way for `ms` milliseconds (and at
   * most a quarter of that longer): then every call fails with `ETIMEDOUT`. `null` is for ever.
   *
   * @example
   * conn.setIdleTimeout(60_000);
   */
  setIdleTimeout(ms: number | null): void {
    this.#needHandle("recv");
    if (ms === null) return Socket.#crowd.remove(this);
    Socket.#crowd.add(this, checkTimeout(ms));
    this.#bits |= WATCHED;
  }

  /** @internal What `setIdleTimeout` was told, in ms; Infinity for none. */
  get idleTimeout(): number {
    return this.#bits & WATCHED ? Socket.#crowd.timeOf(this) : Infinity;
  }

  static readonly #crowd = new Crowd<Socket>({
    moved: (conn) => conn.#bytesReceived + conn.#bytesSent,
    flow: (conn) => conn.#flow(),
    expire(conn) {
      const handle = conn.#handle;
      conn.#gone(Object.assign(new Error("no byte has moved"), { code: "ETIMEDOUT" }));
      handle?.terminate();
    },
  });

  // A deadline and a signal for the waiting receiver. One timer and one listener serve the socket
  // from call to call: arming them for every message would cost more than the message.
  #limitReceive(signal: AbortSignal | undefined): void {
    const rare = this.#needRare();
    rare.recvDeadline = performance.now() + rare.timeout;
    rare.alarm.set(rare.recvDeadline);
    rare.abortable = signal !== undefined;
    if (signal === undefined || signal === rare.signal) return;
    rare.signal?.removeEventListener("abort", rare.onAbort);
    rare.signal = signal;
    rare.onAbort = () => {
      if (rare.abortable) this.#refuse(signal.reason);
    };
    signal.addEventListener("abort", rare.onAbort);
  }

  #expire(): void {
    const rare = this.#needRare();
    const now = performance.now();
    if (rare.lingerDeadline <= now) rare.lingering?.terminate();
    if (rare.recvDeadline <= now) {
      rare.recvDeadline = Infinity;
      this.#refuse(this.#error("ETIMEDOUT", "recv"));
    }
    const isLate = ({ deadline }: { deadline: number }) => deadline <= now;
    if (rare.outbox.failFrom(isLate, (sent) => this.#sendError(sent, "ETIMEDOUT"))) this.#giveUp();
    rare.alarm.set(Math.min(rare.recvDeadline, rare.outbox.deadline, rare.lingerDeadline));
    rare.change.tell(); // a `waitWhole` knows its own deadline
  }

  // ---- options

  /** Sends small pieces at once instead of gathering them: `TCP_NODELAY`, tcp(7). */
  setNoDelay(on = true): void {
    this.#needHandle("send").setNoDelay(on);
  }

  /**
   * Has the kernel probe a connection that has been silent for `initialDelayMs` (in whole seconds,
   * rounded up; 0 leaves the system's two hours) and end it with `ETIMEDOUT` when ten probes, a
   * second apart, go unanswered: `SO_KEEPALIVE`, tcp(7).
   */
  setKeepAlive(on = true, initialDelayMs = 0): void {
    const seconds = Math.ceil(checkCount("initialDelayMs", initialDelayMs, 0) / 1000);
    this.#needHandle("send").setKeepAlive(on, seconds * 1000);
  }

  // ---- state

  /** Bytes that have come so far. */
  get bytesReceived(): number {
    return this.#bytesReceived;
  }

  /** Bytes that the kernel has taken so far. */
  get bytesSent(): number {
    return this.#bytesSent;
  }

  /** Bytes that were given to `send`, `sendAll` and `trySend` and that the kernel has not taken yet. */
  get bufferedAmount(): number {
    return this.#rare === null ? 0 : this.#rare.outbox.bytes;
  }

  /** What would not have to wait, as bits: poll(2) on this one socket, right now. */
  poll(): number {
    if (this.#handle === null) return POLLNVAL;
    const bits = this.#bits;
    const readable = bits & RECV_ENDED || (this.#inbox !== null && this.#resolve === null);
    const writable = bits & (SEND_SHUT | GONE) || !(bits & FULL || this.#rare?.outbox.isAwaited);
    return (readable ? POLLIN : 0) | (writable ? POLLOUT : 0) | (bits & BROKEN ? POLLERR : 0);
  }

  #waitFor(event: number, syscall: Syscall, options?: WaitOptions): Promise<any> {
    const ready = () => {
      this.#needHandle(syscall);
      return this.poll() & event ? true : null;
    };
    return retry(this.#needRare().change, ready, options);
  }

  #changed(): void {
    this.#rare?.change.tell();
    anyChange.tell();
  }

  #needHandle(syscall: Syscall): Handle {
    if (this.#handle === null) throw this.#error("EBADF", syscall);
    return this.#handle;
  }

  #needRare(): Rare {
    return (this.#rare ??= new Rare(
      () => this.#expire(),
      () => this.#turnEnds(),
    ));
  }

  #error(code: string, syscall: Syscall, cause?: object | null): SocketError {
    return new SocketError(code, syscall, this.remoteAddress, cause ? { cause } : undefined);
  }

  #sendError(
    bytesSent: number,
    code = this.#bits & SEND_SHUT ? "EPIPE" : this.#failure?.code,
  ): Error {
    const error = this.#error(code ?? "EPIPE", "send");
    error.bytesSent = bytesSent;
    return error;
  }

  /** @internal What Bun calls: one object for all sockets. */
  static readonly handlers: Bun.SocketHandler<HandleData> = {
    open: (handle) => (handle.data as Exclude<HandleData, Socket>).opened(handle),
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
