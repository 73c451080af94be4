// The receiving side of a connection: recv, the other calls that empty the inbox, and flow control. What
// both sides share (the connection's state, how calls wait) is here, too; `connection.ts` adds sending and
// closing.

import type { Address } from "../address.ts";
import { SocketError, type Syscall } from "../errors.ts";
import { Alarm } from "./alarm.ts";
import * as is from "./bits.ts";
import { checkCount } from "./check.ts";
import { crowd } from "./crowd.ts";
import { CHUNK, finished, Inbox, mayFinish, Outbox, rejection, waiting } from "./queues.ts";
import { anyChange, Change, onAbort, POLLIN, retry, type WaitOptions } from "./readiness.ts";
import { readableSide } from "./streams.ts";
import { atTurnsEnd, done, hasTurned, isTooMany } from "./turn.ts";

/** The most bytes held while no call takes them. One more read of Bun (512 KiB) may be added. */
const INBOX_LIMIT = 64 * 1024;

const EOF = Buffer.alloc(0);

/** A Bun socket, and its `data`: until `open`, the object that made it; from then on, its Socket. */
export type Handle = Bun.Socket<HandleData>;
export type HandleData = { opened(handle: Handle): void } | Receiving;

/** What most connections never need: made on first use, so that others stay small. */
export class Rare {
  readonly change = new Change();
  readonly outbox = new Outbox();
  timeout = Infinity;
  recvDeadline = Infinity;
  /** Where parts of a message wait that were taken before it was whole, and when it has to be whole. */
  kept: Inbox | undefined;
  wholeDeadline = Infinity;
  /** The signal of the last receive that had to wait: we listen to it. */
  signal: AbortSignal | undefined;
  listening: Disposable | undefined;
  /** After a `close` with bytes unsent: the handle that still sends, and until when. */
  lingering: Handle | null = null;
  lingerDeadline = Infinity;
  over: PromiseWithResolvers<void> | undefined;
  readable: ReadableStream<Uint8Array> | undefined;
  writable: WritableStream<Uint8Array> | undefined;

  constructor(readonly alarm: Alarm) {}
}

/** Bytes to be received only together: a message, or a fixed number. */
export interface Whole<T> {
  /** Takes the whole out of the inbox; null if it is not there yet. */
  take(inbox: Inbox): T | null;
  /** What is given at EOF. EOF in the middle is `EINCOMPLETE`. */
  end: T;
  /** How many bytes it has, at most. */
  most: number;
}

export abstract class Receiving implements AsyncIterable<Buffer> {
  protected _handle: Handle | null;
  protected _bits = 0;
  protected _failure: SocketError | null = null;
  protected _rare: Rare | null = null;
  #bytesReceived = 0;
  #inbox: Inbox | null = null; // null when empty
  // The waiting receiver, if any, and how much it takes.
  #resolve: ((given: any) => void) | null = null;
  #most = 0;
  #whole: Whole<any> | null = null;

  constructor(handle: Handle) {
    this._handle = handle;
    handle.data = this;
  }

  /** The peer's end: Python's `getpeername()`. */
  abstract get remoteAddress(): Address;
  abstract poll(): number;
  protected abstract _expire(): void;
  abstract get bytesSent(): number;
  abstract _endIdle(): void;

  /**
   * Waits for bytes and gives 1 to `maxBytes` of them; an empty Buffer is EOF: the peer will send
   * no more. A chunk is not a message: TCP keeps no message boundaries. Python's `recv`, recv(2).
   *
   * Over TLS, EOF is either TLS's own close_notify or just a FIN, which an attacker on the network could
   * have sent. A message with its length in front (`framing.ts`) cannot be cut off unnoticed.
   *
   * The Buffer is uncopied and belongs to the caller: a small one that is kept for long keeps the memory
   * of its whole read (up to 512 KiB), unless the caller copies it.
   *
   * Rejects with `ECONNRESET`, `ETIMEDOUT` (see `setTimeout`), `EBUSY` (another call is receiving), and
   * `EPROTO` (a TLS record was tampered with, or the peer has refused our certificate).
   */
  recv(maxBytes: number, options?: WaitOptions): Promise<Buffer> {
    return this.#receive(maxBytes, options?.signal);
  }

  /**
   * Waits for exactly `bytes` bytes: recv(2) with `MSG_WAITALL`.
   *
   * Rejects as `recv` does, and with `EINCOMPLETE` when the connection ends first; what did come is
   * the error's `partial`. On a connection with an idle timeout, the bytes must be complete within that
   * time after the first of them.
   */
  async recvExactly(bytes: number, options?: WaitOptions): Promise<Buffer> {
    checkCount("bytes", bytes, 0);
    this._needHandle("recv");
    if (bytes === 0) return EOF;
    const take = (inbox: Inbox) => (inbox.length < bytes ? null : inbox.take(bytes));
    const whole = await this.recvMessage({ take, end: EOF, most: bytes }, options);
    if (whole === EOF) throw this.#incomplete(EOF);
    return whole;
  }

  /** @internal Waits until a whole message has come, and gives it. */
  recvMessage<T>(whole: Whole<T>, options?: WaitOptions): Promise<T> {
    return this.#receive(whole.most, options?.signal, whole);
  }

  /** @internal Parts of a message wait in `kept`; a `close` drops them. */
  _keepIn(kept: Inbox): void {
    this._needRare().kept = kept;
  }

  /** Gives up to `maxBytes` that have come; null when none have yet, an empty Buffer at EOF. */
  tryRecv(maxBytes: number): Buffer | null {
    const most = checkCount("maxBytes", maxBytes, 1);
    return this.#resolve !== null ? null : this.#take(most); // what comes is for the call that waits
  }

  /** Resolves when `tryRecv` would not return null: data, EOF or an error. */
  waitReadable(options?: WaitOptions): Promise<void> {
    return this._waitFor(POLLIN, "recv", options);
  }

  /** Puts received bytes back: the next `recv` gives them again, before any others. */
  unrecv(bytes: Buffer): void {
    if (this._handle === null || this._bits & is.RECV_SHUT || bytes.length === 0) return;
    const rest = this.#inbox;
    this.#inbox = new Inbox();
    this.#inbox.push(bytes);
    if (rest !== null) this.#inbox.push(rest.take(rest.length));
    this._wakeReceiver();
    this._changed();
  }

  /** The chunks as they come, until EOF. Leaving the loop closes and loses nothing. */
  [Symbol.asyncIterator](): AsyncIterator<Buffer, undefined> {
    return { next: () => this.recv(CHUNK).then(toResult) };
  }

  /** The receiving side as a Web Stream. Reads nothing ahead; cancelling it ends a waiting read. */
  get readable(): ReadableStream<Uint8Array> {
    return (this._needRare().readable ??= readableSide(this));
  }

  /** Bytes that have come so far. */
  get bytesReceived(): number {
    return this.#bytesReceived;
  }

  #receive<T>(most: number, signal?: AbortSignal, whole: Whole<T> | null = null): Promise<any> {
    try {
      checkCount("maxBytes", most, 1);
      signal?.throwIfAborted();
      if (this.#resolve !== null) throw this._error("EBUSY", "recv");
      this._needHandle("recv");
      if (isTooMany()) atTurnsEnd(() => this._wakeReceiver());
      else {
        const given = whole === null ? this.#take(most) : this.#takeWhole(whole);
        if (given !== null) return Promise.resolve(given);
      }
    } catch (error) {
      return Promise.reject(error);
    }
    const { promise, resolve } = Promise.withResolvers<any>();
    this.#resolve = resolve;
    this.#most = most;
    this.#whole = whole;
    if (this._bits & is.PAUSED) this._flow(); // more may come now
    if (signal || this._rare !== null) this.#limitReceive(signal);
    if (this._rare !== null && !this.#keeps()) this._rare.wholeDeadline = Infinity;
    this.#limitWhole();
    return promise;
  }

  // The non-blocking core: null while nothing is there and more may come.
  #take(most: number): Buffer | null {
    this._needHandle("recv");
    if (this.#inbox === null) return this._bits & is.RECV_ENDED ? this.#end() : null;
    const chunk = this.#inbox.take(most);
    this.#taken();
    return chunk;
  }

  #takeWhole<T>({ take, end }: Whole<T>): T | null {
    this._needHandle("recv");
    const inbox = this.#inbox;
    const given = inbox === null ? null : take(inbox);
    if (given !== null) this.#taken();
    if (given !== null || !(this._bits & is.RECV_ENDED)) return given;
    if (inbox === null && this.#end()) return end;
    const partial = inbox!.take(inbox!.length);
    this.#inbox = null;
    throw this.#incomplete(partial);
  }

  #taken(): void {
    if (this.#inbox!.length === 0) this.#inbox = null;
    if (this._bits & is.PAUSED) this._flow();
  }

  #end(): Buffer {
    if (this._failure !== null) throw this._failure;
    return EOF;
  }

  #incomplete(partial: Buffer): SocketError {
    const error = this._error("EINCOMPLETE", "recv", this._failure);
    error.partial = partial;
    return error;
  }

  /** Bun has read from the kernel. */
  protected _received(chunk: Buffer): void {
    hasTurned();
    this.#bytesReceived += chunk.length;
    if (this._bits & is.RECV_ENDED) return; // we ended receiving: it is dropped
    const goesStraight = this.#inbox === null && this.#whole === null;
    if (goesStraight && this.#resolve !== null && chunk.length <= this.#most) {
      this.#deliver(chunk); // uncopied
      return waiting.isFull ? this._flow() : undefined;
    }
    this.#inbox ??= new Inbox();
    this.#inbox.push(chunk, this.#limit());
    this._wakeReceiver();
    this._flow();
    this._changed();
  }

  /** Gives the waiting receiver what it waits for, if that is there by now. */
  protected _wakeReceiver(): void {
    if (this.#resolve === null) return;
    try {
      const given = this.#whole === null ? this.#take(this.#most) : this.#takeWhole(this.#whole);
      if (given !== null) this.#deliver(given);
      else this.#limitWhole();
    } catch (error) {
      this._refuse(error);
    }
  }

  #deliver(given: unknown): void {
    const resolve = this.#resolve;
    this.#resolve = this.#whole = null;
    if (waiting.isFull && !this.#keeps()) finished(this);
    resolve?.(given);
    if (this.#inbox !== null) this._changed(); // what is left is for others
  }

  protected _refuse(reason: unknown): void {
    this.#deliver(this.#resolve && rejection(reason));
  }

  /** @internal Flow control: pauses Bun while this inbox, or all connections together, hold too much. */
  _flow(): void {
    const bits = this._bits;
    if (bits & is.GONE) return;
    const isOver = this.#inbox !== null && this.#inbox.length > this.#limit();
    const isHeld = waiting.isFull && crowd.has(this) && !(this.#isMiddle() && mayFinish(this));
    const isFull = !(bits & (is.RECV_ENDED | is.BROKEN)) && (isOver || isHeld);
    if (isFull === ((bits & is.PAUSED) !== 0)) return;
    this._bits ^= is.PAUSED;
    if (isFull) this._handle?.pause();
    else (this._handle ?? this._rare?.lingering)?.resume();
  }

  // Whether a part of the message that a call waits for has come.
  #isMiddle(): boolean {
    return this.#whole !== null && (this.#inbox !== null || this.#keeps());
  }

  #keeps(): boolean {
    return (this._rare?.kept?.length ?? 0) > 0;
  }

  // How much the inbox may hold: more while a call waits for a longer message.
  #limit(): number {
    return this.#whole === null ? INBOX_LIMIT : Math.max(INBOX_LIMIT, this.#whole.most);
  }

  protected _hasInput(): boolean {
    return (this._bits & is.RECV_ENDED) !== 0 || (this.#inbox !== null && this.#resolve === null);
  }

  protected _dropInbox(): void {
    this.#inbox?.take(this.#inbox.length);
    this._rare?.kept?.take(Infinity);
    this.#inbox = null;
  }

  // A deadline and a signal for the receive that waits. All calls on the socket share one timer and one
  // listener: arming them for every message would cost more than the message.
  #limitReceive(signal: AbortSignal | undefined): void {
    const rare = this._needRare();
    rare.recvDeadline = performance.now() + rare.timeout;
    rare.alarm.set(rare.recvDeadline);
    if (signal === rare.signal) return;
    rare.listening?.[Symbol.dispose]();
    rare.signal = signal;
    rare.listening = signal && onAbort(signal, () => this._refuse(signal.reason));
  }

  // A message that has begun must be complete within the idle timeout, even if bytes move.
  #limitWhole(): void {
    const watched = crowd.get(this);
    if (watched === undefined || !this.#isMiddle()) return;
    const rare = this._needRare();
    rare.wholeDeadline = Math.min(rare.wholeDeadline, performance.now() + watched.timeout);
    rare.recvDeadline = Math.min(rare.recvDeadline, rare.wholeDeadline);
    rare.alarm.set(rare.recvDeadline);
  }

  // ---- shared with sending

  protected async _waitFor(event: number, syscall: Syscall, options?: WaitOptions) {
    const ready = () => {
      this._needHandle(syscall);
      return this.poll() & event ? true : null;
    };
    await done();
    await retry(this._needRare().change, ready, options);
  }

  protected _changed(): void {
    (this._rare?.change ?? anyChange).tell();
  }

  protected _needHandle(syscall: Syscall): Handle {
    if (this._handle === null) throw this._error("EBADF", syscall);
    return this._handle;
  }

  protected _needRare(): Rare {
    return (this._rare ??= new Rare(new Alarm(() => this._expire())));
  }

  protected _error(code: string, syscall: Syscall, cause?: object | null): SocketError {
    return new SocketError(code, syscall, this.remoteAddress, cause ? { cause } : undefined);
  }
}

function toResult(chunk: Buffer): IteratorResult<Buffer, undefined> {
  return chunk.length > 0 ? { value: chunk, done: false } : { value: undefined, done: true };
}
