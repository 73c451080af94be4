// A listening socket: the queue of connections that wait for `accept()`, and its limit.

import { type Address, asWritten, isPath } from "../address.ts";
import { SocketError } from "../errors.ts";
import { checkCount } from "./check.ts";
import { type Handle, type HandleData, Socket, type WaitOptions } from "./connection.ts";
import { descriptorLimit } from "./descriptors.ts";
import { Change, POLLERR, POLLIN, POLLNVAL, onAbort, retry } from "./readiness.ts";
import { checkTls, rawHandlers, type Secrets, secure, type UnderWay } from "./tls.ts";
import { done } from "./turn.ts";
import { checkAddress, isLocal, type ListenOptions, systemError, unixFiles } from "./where.ts";

/** How many connections one turn of the loop can bring: the kernel's queue is as long. */
const ONE_TURN = 512;

/** Descriptors that no connection gets: with none left, Bun would try to accept for ever. */
const RESERVE = 16;

/** After how many ms the number of TLS handshakes is limited. */
const GRACE_MS = 1_000;

/** A listening socket. It carries no data: each `accept()` gives a new `Socket` that does. */
export class ServerSocket implements Disposable, AsyncIterable<Socket> {
  /** Where it listens, with the real port when 0 was asked for: Python's `getsockname()`. */
  readonly address: Address;
  /**
   * Called when connections are refused because no descriptor is left: once, until one is accepted
   * again. Also called for each TLS handshake that failed, with a `SocketError`.
   */
  onRefused: (why: unknown) => void = console.error;
  readonly #listener: Bun.SocketListener<HandleData>;
  readonly #backlog: number;
  readonly #change = new Change();
  #queue: Socket[] = [];
  #isTaking = false; // a connection was taken since the last check of the backlog
  #overfull = false; // checked in this turn of the loop
  #isKnown = false; // `waitReadable` has told of a connection that nobody has taken yet
  #lastDescriptor = Infinity;
  #refusing = false;
  #closed = false;
  readonly #tls: Secrets | undefined;
  /** TLS handshakes that are under way, the newest last. */
  readonly #handshakes: UnderWay = new Set();
  #sweep: Timer | undefined;
  readonly #listening: Disposable | undefined; // to the signal
  readonly #stop: () => void;

  /** @internal Use `listen()`. */
  constructor(options: ListenOptions) {
    const { backlog = 511, reusePort = false, ipv6Only = false, signal } = options;
    this.#backlog = checkCount("backlog", backlog, 1);
    const address = checkAddress(options, 0);
    const { host, port } = address;
    if (options.tls !== undefined) this.#tls = checkTls("listen", options.tls, address);
    const file = "path" in options;
    const own = file ? { unix: host } : { hostname: isLocal(host) ? "127.0.0.1" : host, port };
    const socket = options.tls === undefined ? Socket.handlers : rawHandlers;
    try {
      using _whileTakingOver = file ? unixFiles().takeOver(host) : null;
      const shared = { socket, data: this, allowHalfOpen: true, reusePort, ipv6Only };
      // Bun's types allow a host or a path, but not a value that may be one or the other.
      this.#listener = Bun.listen({ ...own, ...shared } as Bun.UnixSocketOptions<HandleData>);
    } catch (cause) {
      throw systemError(cause, "listen", address);
    }
    this.address = file ? address : boundAddress(this.#listener, address);
    const stop = () => this.#listener.stop();
    this.#stop = file ? unixFiles().removing(host, stop) : stop;
    descriptorLimit().then((limit) => (this.#lastDescriptor = limit - RESERVE));
    this.#listening = signal && onAbort(signal, () => this.close());
  }

  /**
   * Waits for the next connection. Its `remoteAddress` identifies the client. Python's `accept`, accept(2).
   *
   * Rejects with `EBADF` when the server is closed, or with the signal's reason.
   */
  accept(options?: WaitOptions): Promise<Socket> {
    // Not counted as in `turn.ts`: only a turn of the loop can refill the queue.
    return retry(this.#change, () => this.#next(), options);
  }

  /** The next connection, or null when none waits. */
  tryAccept(): Socket | null {
    return this.#next();
  }

  /** Resolves when `tryAccept` would not return null. */
  async waitReadable(options?: WaitOptions): Promise<void> {
    if (this.#isKnown) await done();
    await retry(this.#change, () => this.poll() || null, options);
    if (this.#closed) throw this.#closedError();
    this.#isKnown = true;
  }

  /** The connections as they come, until the server is closed. Leaving the loop closes nothing. */
  [Symbol.asyncIterator](): AsyncIterator<Socket, undefined> {
    const ended = (error: unknown): IteratorResult<Socket, undefined> => {
      if (!this.#closed) throw error;
      return { value: undefined, done: true };
    };
    return { next: () => this.accept().then((value) => ({ value, done: false }), ended) };
  }

  /**
   * Stops listening. Accepted connections stay open; those not accepted yet are reset, as by the
   * kernel. A waiting `accept` rejects with `EBADF`. Closing twice is fine.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#listening?.[Symbol.dispose]();
    this.#stop();
    for (const callOff of this.#handshakes) callOff();
    for (const conn of this.#queue.splice(0)) conn.reset();
    this.#change.tell();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** The calls that would not have to wait, as bits: poll(2) on this socket. */
  poll(): number {
    if (this.#closed) return POLLNVAL;
    // A connection that its peer has reset is not worth accepting.
    while (this.#queue[0] !== undefined && isBroken(this.#queue[0])) this.#queue.shift();
    return this.#queue.length > 0 ? POLLIN : 0;
  }

  /** @internal Bun has accepted a connection. */
  opened(handle: Handle): void {
    if (this.#closed) return handle.terminate();
    // The kernel gives the lowest number that is free.
    if ((handle as unknown as { fd: number }).fd > this.#lastDescriptor)
      return this.#refuse(handle);
    this.#refusing = false;
    if (this.#tls === undefined) return this.#ready(handle);
    const { remoteAddress = "", remotePort: port, localAddress } = handle;
    const host = asWritten(remoteAddress, "", localAddress);
    const peer = host === "" ? this.address : { host, port }; // the peer has gone, or is a Unix socket
    secure(handle, this.#tls, this.#handshakes, {
      opened: (secured) => this.#ready(secured),
      failed: (cause) => this.onRefused(systemError(cause, "accept", peer)),
    });
    this.#sweep ??= setTimeout(() => this.#limitHandshakes(), GRACE_MS).unref();
  }

  // Handshakes of a burst have had `GRACE_MS`. Now their number is limited: some may never finish.
  #limitHandshakes(): void {
    const most = Math.max(0, this.#backlog - this.#queue.length);
    for (const callOff of [...this.#handshakes].slice(most)) callOff();
    this.#sweep = undefined;
  }

  #ready(handle: Handle): void {
    const unknown = isPath(this.address.host) ? this.address : { host: "", port: 0 };
    const conn = new Socket(handle, this.address, unknown);
    const { host, port } = conn.remoteAddress;
    // A peer that has reset by now has no address any more.
    if (host === "" || (port === 0 && !isPath(host))) return conn.reset();
    if (this.#queue.length >= this.#backlog) this.#limit();
    this.#queue.push(conn);
    this.#change.tell();
  }

  // The non-blocking core: null while no connection waits.
  #next(): Socket | null {
    if (this.poll() & POLLNVAL) throw this.#closedError();
    const conn = this.#queue.shift() ?? null;
    if (conn !== null) this.#isTaking = true;
    this.#isKnown = false;
    return conn;
  }

  // A burst comes before the server can run, so the queue is cut only in the next turn: to the backlog,
  // or to `ONE_TURN` more if the server has taken a connection since the last check.
  #limit(): void {
    if (this.#overfull) return;
    this.#queue = this.#queue.filter((conn) => !isBroken(conn));
    const most = this.#backlog + (this.#isTaking ? ONE_TURN : 0);
    for (const conn of this.#queue.splice(most)) conn.reset();
    this.#isTaking = false;
    this.#overfull = true;
    setImmediate(() => {
      this.#overfull = false;
      setImmediate(() => this.#queue.length > this.#backlog && this.#limit());
    });
  }

  #refuse(handle: Handle): void {
    handle.terminate();
    if (!this.#refusing) this.onRefused("no descriptor is left: more connections are refused");
    this.#refusing = true;
  }

  #closedError(): SocketError {
    return new SocketError("EBADF", "accept", this.address);
  }
}

/** Whether the peer has reset it. Then it is closed: what it has received waits no more. */
function isBroken(conn: Socket): boolean {
  const isReset = (conn.poll() & POLLERR) !== 0;
  if (isReset) conn.close();
  return isReset;
}

// getsockname(2) fills in the object that it is given. Bun has it, though its types leave it out.
function boundAddress(listener: Bun.SocketListener<HandleData>, asked: Address): Address {
  const name = { address: "", port: 0 };
  (listener as unknown as { getsockname(into: object): void }).getsockname(name);
  return { host: asWritten(name.address, asked.host), port: name.port };
}
