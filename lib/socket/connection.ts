// One connection and its verbs: recv, send, shutdown, close. `connect` and `accept` make them.
//
// Bun calls back when bytes have come. Bytes that no call waits for are kept in the inbox; above a
// limit Bun stops reading, so the kernel's receive window closes and the peer has to wait
// (`receiving.ts`). Bun's `write` takes what the kernel has room for; the rest waits in the outbox,
// uncopied. Small sends after the first one of a turn wait there, too, and are sent together when the
// turn ends.
//
// The functions that every message passes through are not async and make as few promises as
// possible: that keeps these verbs nearly as cheap as bare callbacks.

import { type Address, asWritten } from "../address.ts";
import * as is from "./bits.ts";
import { checkCount, checkTimeout, toBytes } from "./check.ts";
import { crowd, watch } from "./crowd.ts";
import { onAbort, POLLERR, POLLIN, POLLNVAL, POLLOUT, type WaitOptions } from "./readiness.ts";
import { type Handle, type HandleData, Receiving } from "./receiving.ts";
import { writableSide } from "./streams.ts";
import { atTurnsEnd, done, thisTurn } from "./turn.ts";

export type { WaitOptions } from "./readiness.ts";
export type { Handle, HandleData } from "./receiving.ts";

/** How long bytes may wait for room in the kernel after a `close`, in ms. */
const LINGER_MS = 12_000;

/** What `end` of a TLS handle returns while Bun holds data that the kernel had no room for. */
export const UNSENT = -2;

let lastHost = ""; // many connections come from one host: they share this string

/**
 * One end of a connection: what `connect()` and `accept()` give. Only one call may receive at a time;
 * any number may send. On a closed socket `close`, `reset` and `unrecv` do nothing, `poll` gives
 * `POLLNVAL`, and every other call fails with `EBADF`.
 *
 * @example
 * for await (const chunk of conn) await conn.sendAll(chunk); // an echo server's work
 */
export class Socket extends Receiving implements Disposable {
  #bytesSent = 0;
  #sentIn = -1; // the turn of the last send that was not gathered
  readonly #local: Address;
  #remoteHost: string;
  #remotePort: number;
  /** @internal Use `connect()` or `server.accept()`. `local`, `remote`: as far as known. */
  constructor(handle: Handle, local: Address, remote: Address) {
    super(handle);
    // Bun forgets the addresses when a connection ends, possibly before it has called `open`.
    const scoped = remote.host || local.host;
    const host = asWritten(handle.remoteAddress ?? remote.host, scoped, handle.localAddress);
    this.#remoteHost = host === lastHost ? lastHost : (lastHost = host);
    this.#remotePort = handle.remotePort ?? remote.port;
    const isAny = local.host === "0.0.0.0" || local.host === "::";
    const { localAddress = local.host, localPort = local.port } = handle;
    this.#local = isAny ? { host: asWritten(localAddress, host), port: localPort } : local;
  }

  /** Our end: Python's `getsockname()`. */
  get localAddress(): Address {
    return { ...this.#local };
  }

  /** The peer's end: Python's `getpeername()`. */
  get remoteAddress(): Address {
    return { host: this.#remoteHost, port: this.#remotePort };
  }

  /** @internal Sets `remoteAddress` to the client that a proxy has named. */
  cameFrom({ host, port }: Address): void {
    [this.#remoteHost, this.#remotePort] = [host, port];
  }

  // ---- sending

  /**
   * Waits for room and sends as much of `data` as fits (text as UTF-8). Resolves with the number of
   * those bytes, 0 only for empty `data`; the caller has to send the rest. Python's `send`, send(2).
   *
   * Rejects with `EPIPE` or `ECONNRESET` when the peer is gone, and with `ETIMEDOUT`.
   */
  send(data: string | Uint8Array, options?: WaitOptions): Promise<number> {
    return this.#send(data, false, options?.signal);
  }

  /**
   * Sends all of `data`, waiting for room as often as needed. Resolves when the kernel has all of it;
   * the peer may not have it yet. Several calls may be under way: their data goes out whole, in
   * the order of the calls. Python's `sendall`.
   *
   * Small sends (up to 64 KiB together) that follow another one in the same turn of the event loop
   * resolve at once, and go out together when the turn ends. If the connection turns out to be broken
   * then, the next send rejects, and `closed` resolves.
   *
   * Rejects as `send` does; the error's `bytesSent` is how much the kernel took. A send that is given
   * up, by a timeout or a signal, leaves a gap: from then on the connection can only end with a reset.
   */
  sendAll(data: string | Uint8Array, options?: WaitOptions): Promise<void> {
    return this.#send(data, true, options?.signal);
  }

  /** Sends what fits right now, and gives the number of those bytes: 0 when there is no room. */
  trySend(data: string | Uint8Array): number {
    // The kernel reports room only once a third of its buffer is free, so this tries to send before that.
    if (this._bits & is.FULL && this.#queued()) this.#drained();
    return this.#give(toBytes(data));
  }

  /** Resolves when `trySend` is worth a try: there may be room, or `trySend` would throw. */
  waitWritable(options?: WaitOptions): Promise<void> {
    return this._waitFor(POLLOUT, "send", options);
  }

  /** The sending side as a Web Stream. Closing it sends FIN, aborting it resets the connection. */
  get writable(): WritableStream<Uint8Array> {
    return (this._needRare().writable ??= writableSide(this));
  }

  #send(data: string | Uint8Array, all: boolean, signal?: AbortSignal): Promise<any> {
    try {
      const bytes = toBytes(data);
      signal?.throwIfAborted();
      const sent = this.#give(bytes);
      const isDone = sent === bytes.length || (!all && sent > 0);
      if (!isDone) return this.#queue(bytes, sent, all, signal);
      return all ? done(sent) : done(sent).then(() => sent);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  // Gives how many bytes the kernel took, or were gathered.
  #give(bytes: Uint8Array): number {
    this._needHandle("send");
    if (this._bits & (is.SEND_SHUT | is.GONE)) throw this.#sendError(0);
    if (bytes.length === 0) return 0;
    const turn = thisTurn();
    if (turn === this.#sentIn || this.#queued()) return this.#gather(bytes);
    this.#sentIn = turn;
    return this.#write(bytes);
  }

  #gather(bytes: Uint8Array): number {
    const { outbox } = this._needRare();
    if (!(this._bits & is.FULL)) {
      const isFirst = outbox.isEmpty;
      if (outbox.gather(bytes)) {
        if (isFirst) atTurnsEnd(() => this.#advance());
        return bytes.length;
      }
      this.#flush();
    }
    return outbox.isEmpty ? this.#write(bytes) : 0; // others wait, and go first
  }

  #write(bytes: Uint8Array, from = 0, length = bytes.length): number {
    const sent = (this._handle ?? this._rare!.lingering)!.write(bytes, from, length);
    if (sent < length) this._bits |= is.FULL;
    if (sent < 0) return this.#meetReset();
    this.#bytesSent += sent;
    return sent;
  }

  // Bun reports this reset again, as an end, but not while it is paused.
  #meetReset(): never {
    this._bits |= is.SEND_SHUT | is.BROKEN;
    this._flow();
    this._changed();
    throw this.#sendError(0);
  }

  #queued(): boolean {
    return this._rare !== null && !this._rare.outbox.isEmpty;
  }

  #queue(bytes: Uint8Array, sent: number, all: boolean, signal?: AbortSignal): Promise<any> {
    const { outbox, timeout, alarm } = this._needRare();
    const deadline = performance.now() + timeout;
    const promise = outbox.push({ bytes, sent, all, deadline, signal });
    alarm.set(deadline);
    if (!signal) return promise;
    const isOurs = (sending: { signal?: AbortSignal }) => sending.signal === signal;
    const abort = () => outbox.failFrom(isOurs, () => signal.reason) && this.#giveUp();
    const listening = onAbort(signal, abort);
    return promise.finally(() => listening[Symbol.dispose]());
  }

  // A send was given up: a part of the stream is missing.
  #giveUp(): void {
    // A shutdown after it is cancelled.
    if (this._bits & is.FIN_DUE) this._bits &= ~(is.FIN_DUE | is.SEND_SHUT);
    this._bits |= is.TORN;
    this._changed();
  }

  #flush(): void {
    try {
      this._rare!.outbox.flush((bytes, from, length) => this.#write(bytes, from, length));
    } catch {
      this._bits |= is.TORN;
      this.#failSends("EPIPE");
    }
  }

  // Bun says that there may be room.
  #drained(): void {
    this._bits &= ~is.FULL;
    this.#advance();
    this._changed();
  }

  // Sends what waits. When nothing waits, sends the FIN, or ends a closed connection.
  #advance(): void {
    if (this.#queued() && !(this._bits & is.FULL)) this.#flush();
    if (this.#queued()) return;
    this._rare?.lingering?.end();
    if (!(this._bits & is.FIN_DUE)) return;
    this._bits ^= is.FIN_DUE;
    this._handle?.shutdown();
  }

  #failSends(code: string): void {
    this._rare?.outbox.fail((sent) => this.#sendError(sent, code));
  }

  // ---- ending

  /**
   * Ends one direction or both: shutdown(2). `"write"` sends FIN after everything sent before: the
   * peer's `recv` gives EOF, and we still receive. (After a send that was given up, the connection is
   * reset instead: a FIN would make a partial message look complete.) `"read"` gives EOF to our own
   * `recv` and drops what still comes; the peer is not told. Calling it twice is fine.
   */
  shutdown(how: "read" | "write" | "both"): void {
    if (how !== "read" && how !== "write" && how !== "both") {
      throw new TypeError(`shutdown takes "read", "write" or "both", not ${Bun.inspect(how)}`);
    }
    this._needHandle(how === "read" ? "recv" : "send");
    if (how !== "write" && !(this._bits & is.RECV_SHUT)) {
      this._bits |= is.RECV_SHUT;
      this._failure = null;
      this.endReceiving();
      this._dropInbox();
    }
    if (how === "read" || this._bits & (is.SEND_SHUT | is.GONE)) return;
    if (this._bits & is.TORN) return this.reset();
    this._bits |= is.SEND_SHUT | is.FIN_DUE;
    this.#advance();
    this._changed();
  }

  /**
   * @internal For a server that stops: what has come is still received, and then EOF. What comes later
   * is dropped, so that a `close` sends FIN and not a reset.
   */
  endReceiving(): void {
    this._bits |= is.RECV_ENDED;
    this._flow(); // what comes is read, to be dropped
    this._wakeReceiver();
    this._changed();
  }

  /**
   * Closes the connection: close(2). What was sent still arrives, then FIN; but if received bytes are
   * unread in the kernel, the kernel sends a reset instead. Calls that wait reject with `EBADF`.
   * Closing twice is fine.
   *
   * While a send waits, or after one was given up, this resets the connection, so that a partial
   * message does not look complete. Gathered bytes that find no room have 12 s to be sent.
   */
  close(): void {
    if (this._handle !== null) this.#advance();
    if (this._bits & is.TORN || this._rare?.outbox.isAwaited) return this.reset();
    this.#release((handle) => {
      if (this.#queued() || handle.end() === UNSENT) this.#linger(handle);
    });
  }

  /**
   * Ends the connection at once with a reset (RST): bytes on their way, in or out, are lost. (A
   * Unix-domain socket has no RST: its peer sees the same as after a `close`.)
   */
  reset(): void {
    this.#release((handle) => handle.terminate());
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Resolves when the connection is over, whichever side ended it, even if no call receives or sends. */
  get closed(): Promise<void> {
    const over = (this._needRare().over ??= Promise.withResolvers());
    if (this.#isOver()) over.resolve();
    return over.promise;
  }

  #release(end: (handle: Handle) => void): void {
    const handle = this._handle;
    if (handle === null) return;
    this._handle = null;
    this._dropInbox();
    this._refuse(this._error("EBADF", "recv"));
    if (!(this._bits & is.GONE)) end(handle);
    if (this._rare?.lingering) return this._changed();
    this.#failSends("EBADF");
    this.#settle();
  }

  // Keeps the descriptor until the kernel has taken everything.
  #linger(handle: Handle): void {
    const rare = this._needRare();
    rare.lingering = handle;
    rare.lingerDeadline = performance.now() + LINGER_MS;
    rare.alarm.set(rare.lingerDeadline);
    this.endReceiving();
  }

  // The peer's FIN.
  #ended(): void {
    if (!(this._bits & is.BROKEN)) this.endReceiving(); // else a send has met a reset, and `close` follows
  }

  // Bun has closed the descriptor: both sides have sent FIN, or the connection broke.
  #gone(cause?: Error & { code?: string }): void {
    if (this.#isOver()) return; // we ended it
    if (this._rare !== null) this._rare.lingering = null;
    let code = "EPIPE";
    if (cause !== undefined || this._bits & is.BROKEN) {
      // Bun reports a reset after the peer's FIN as EPIPE.
      code = cause?.code === undefined || cause.code === "EPIPE" ? "ECONNRESET" : cause.code;
      if (!(this._bits & is.RECV_ENDED)) this._failure = this._error(code, "recv", cause);
      this._bits |= is.BROKEN;
    }
    this._bits |= is.RECV_ENDED | is.GONE;
    this._wakeReceiver();
    this.#failSends(code);
    this.#settle();
  }

  #isOver(): boolean {
    return (this._bits & is.GONE) !== 0 || (this._handle === null && !this._rare?.lingering);
  }

  // The connection is over: wakes the calls that wait, and releases the timer and the signal.
  #settle(): void {
    crowd.delete(this);
    const rare = this._rare;
    rare?.alarm.stop();
    rare?.listening?.[Symbol.dispose]();
    rare?.over?.resolve();
    this._changed();
  }

  // ---- how long to wait

  /**
   * Limits each later `recv`, `recvExactly`, `send` and `sendAll`, as a whole, to `ms` milliseconds;
   * then the call rejects with `ETIMEDOUT`. `null`: no limit. A `recv` that timed out loses nothing;
   * for a `sendAll`, `bytesSent` is how much was sent, and the sends queued after it reject, too.
   * Python's `settimeout`, in milliseconds.
   */
  setTimeout(ms: number | null): void {
    this._needHandle("recv");
    this._needRare().timeout = ms === null ? Infinity : checkTimeout(ms);
  }

  /**
   * Resets the connection when no byte has moved in either direction for `ms` milliseconds (or up to
   * a quarter longer): then calls fail with `ETIMEDOUT`. After the peer's FIN, `recv` still gives EOF, and a
   * send fails with `EPIPE`. `null`: no limit.
   *
   * @example
   * conn.setIdleTimeout(60_000);
   * for await (const chunk of conn) await conn.sendAll(chunk);
   */
  setIdleTimeout(ms: number | null): void {
    this._needHandle("recv");
    watch(this, ms === null ? Infinity : checkTimeout(ms));
    this._flow(); // all together may hold too much
  }

  /** @internal No byte has moved for too long. */
  _endIdle(): void {
    const handle = this._handle ?? this._rare?.lingering;
    this.#gone(Object.assign(new Error("no byte has moved"), { code: "ETIMEDOUT" }));
    handle?.terminate();
  }

  protected _expire(): void {
    const rare = this._needRare();
    const now = performance.now();
    if (rare.lingerDeadline <= now) return rare.lingering?.terminate();
    if (rare.recvDeadline <= now) {
      rare.recvDeadline = Infinity;
      this._refuse(this._error("ETIMEDOUT", "recv"));
    }
    const isLate = ({ deadline }: { deadline: number }) => deadline <= now;
    if (rare.outbox.failFrom(isLate, (sent) => this.#sendError(sent, "ETIMEDOUT"))) this.#giveUp();
    rare.alarm.set(Math.min(rare.recvDeadline, rare.outbox.deadline, rare.lingerDeadline));
  }

  // ---- options

  /** Sends small pieces at once, without Nagle's algorithm: `TCP_NODELAY`, tcp(7). */
  setNoDelay(on = true): void {
    this._needHandle("send").setNoDelay(on);
  }

  /**
   * Has the kernel probe a connection that has been silent for `initialDelayMs` (in whole seconds,
   * rounded up; 0 leaves the system's two hours) and end it with `ETIMEDOUT` when ten probes, a
   * second apart, go unanswered: `SO_KEEPALIVE`, tcp(7).
   */
  setKeepAlive(on = true, initialDelayMs = 0): void {
    const seconds = Math.ceil(checkCount("initialDelayMs", initialDelayMs, 0) / 1000);
    this._needHandle("send").setKeepAlive(on, seconds * 1000);
  }

  // ---- state

  /** Bytes that the kernel has taken so far. */
  get bytesSent(): number {
    return this.#bytesSent;
  }

  /** Bytes that were given to `send`, `sendAll` and `trySend` and that the kernel has not taken yet. */
  get bufferedAmount(): number {
    return this._rare === null ? 0 : this._rare.outbox.bytes;
  }

  /** The calls that would not have to wait, as bits: poll(2) on this socket. */
  poll(): number {
    if (this._handle === null) return POLLNVAL;
    const bits = this._bits;
    const mayWrite =
      bits & (is.SEND_SHUT | is.GONE) || !(bits & is.FULL || this._rare?.outbox.isAwaited);
    const [input, output] = [this._hasInput() ? POLLIN : 0, mayWrite ? POLLOUT : 0];
    return input | output | (bits & is.BROKEN ? POLLERR : 0);
  }

  #sendError(bytesSent: number, code?: string): Error {
    const broken = this._bits & is.SEND_SHUT ? undefined : this._failure?.code;
    const error = this._error(code ?? broken ?? "EPIPE", "send");
    error.bytesSent = bytesSent;
    return error;
  }

  /** @internal The callbacks for Bun: one object for all sockets. */
  static readonly handlers: Bun.SocketHandler<HandleData> = {
    open: (handle) => (handle.data as Exclude<HandleData, Receiving>).opened(handle),
    data: (handle, chunk) => (handle.data as Socket)._received(chunk),
    drain: (handle) => (handle.data as Socket).#drained(),
    end: (handle) => (handle.data as Socket).#ended(),
    close: (handle, error) => {
      if (handle.data instanceof Socket) handle.data.#gone(error);
    },
  };
}
