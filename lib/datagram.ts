// Datagrams: UDP with calls like those of `socket.ts`. There is no connection, no order, and no promise that a
// datagram arrives; but one that arrives is whole.
//
// Bun calls back for each datagram, and receiving cannot be paused. Datagrams that no call waits for are kept
// in a queue; when it is full, new ones are dropped, as the kernel does with its own queue. Bun reads until
// the kernel has no more, and the program runs after each datagram. So after a few hundred of them the
// receiver continues only in the next turn: a flood does not block timers, signals and other sockets.

import { type Address, asWritten, isNumeric } from "./address.ts";
import { SocketError, type Syscall } from "./errors.ts";
import { Alarm } from "./socket/alarm.ts";
import { calls } from "./socket/calls.ts";
import { checkCount, checkTimeout, toBytes } from "./socket/check.ts";
import { lookUp } from "./socket/dial.ts";
import { Change, retry, type WaitOptions } from "./socket/readiness.ts";
import { POLLERR, POLLIN, POLLNVAL, POLLOUT } from "./socket/readiness.ts";
import { atTurnsEnd, done, isTooMany } from "./socket/turn.ts";
import { checkHost, isLocal, systemError } from "./socket/where.ts";

/** The most bytes that may wait to be received. Each datagram counts `OVERHEAD` bytes more than it has. */
const QUEUE_LIMIT = 1024 * 1024;
const OVERHEAD = 256;

/** More than a datagram can hold. */
const WHOLE = 65_535;

/** One datagram, and where it came from. */
export type Datagram = [data: Buffer, from: Address];

type Handle = Bun.udp.Socket<"buffer"> & Bun.udp.ConnectedSocket<"buffer">;

export interface DatagramOptions {
  /**
   * Our own end. Default `127.0.0.1`, which reaches only this machine; `0.0.0.0` is all of IPv4, `::` all
   * of both families. With a `peer`, the system chooses it.
   */
  host?: string;
  /** 0, the default, is any free port. */
  port?: number;
  /** The only address to send to and to receive from: Python's `connect()` on a datagram socket, connect(2). */
  peer?: Address;
}

/**
 * Opens a datagram socket: Python's `socket(AF_INET, SOCK_DGRAM)` and `bind()`; udp(7), bind(2).
 *
 * A name is looked up and its first address is used: UDP has no way to find out which of several answers.
 * `localhost` is `127.0.0.1`, as for `listen`.
 *
 * Rejects with `SocketError` (`EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`, `ENOTFOUND`, `EMFILE`).
 *
 * @example
 * using socket = await datagram({ port: 4000 });
 * using client = await datagram({ peer: socket.address });
 * await client.send("hello");
 * const [data, from] = await socket.recvFrom();
 * await socket.sendTo(data, from);
 * console.log(String(await client.recv())); // "hello"
 */
export function datagram(options: DatagramOptions = {}): Promise<DatagramSocket> {
  return calls.run("datagram", DatagramSocket.open, options);
}

/**
 * A datagram socket, returned by `datagram()`. Any number of calls may receive and send at the same time. On a
 * closed socket every call but `close` fails with `EBADF`.
 *
 * The network may report that a datagram could not be delivered (ICMP). On a socket with a `peer` the next call
 * then fails, usually with `ECONNREFUSED`. Without a `peer` the report is ignored: it does not say which datagram
 * it is about.
 */
export class DatagramSocket implements Disposable, AsyncIterable<Datagram> {
  /** Our end, with the real port when 0 was asked for: Python's `getsockname()`. */
  readonly address: Address;
  /** The other end: Python's `getpeername()`; null without one. */
  readonly peer: Address | null;
  /** The datagrams dropped because our queue was full; those that the kernel dropped are not counted. */
  dropped = 0;
  #handle: Handle | null;
  #queue: Datagram[] = [];
  #queued = 0; // bytes, as QUEUE_LIMIT counts them
  #failure: SocketError | null = null; // reported for an earlier datagram; the next call throws it
  #full = false; // the kernel's buffer was full, and `drain` has not come yet
  #timeout = Infinity;
  // The receiver that waits without timeout and signal. Others wait in `retry`, which costs more.
  #resolve: ((datagram: Datagram | Promise<Datagram>) => void) | null = null;
  #most = 0;
  readonly #change = new Change();
  readonly #alarm = new Alarm(() => this.#change.tell());

  /** @internal Use `datagram()`. */
  static async open({ host, port = 0, peer }: DatagramOptions): Promise<DatagramSocket> {
    const own = checkHost({ host, port }, 0);
    const other = peer && checkHost(peer, 1);
    const near = host === undefined ? undefined : await addressFor(own, "bind");
    const far = other && (await addressFor(other, "connect", near));
    const hostname = near ?? (far?.includes(":") ? "::" : far ? "0.0.0.0" : own.host);
    const connect = far ? { connect: { hostname: far, port: other!.port } } : {};
    let made: DatagramSocket;
    const socket = {
      data: (_: unknown, bytes: Buffer, port: number, host: string) =>
        made.#received(bytes, { host: asWritten(host, made.address.host), port }),
      drain: () => {
        made.#full = false;
        made.#changed();
      },
      error: (...told: unknown[]) => made.#failed(told.at(-1) as Error), // Bun leaves out the socket
    };
    try {
      const handle = await Bun.udpSocket({ hostname, port, socket, ...connect });
      return (made = new DatagramSocket(handle as Handle, own));
    } catch (cause) {
      const connecting = (cause as NodeJS.ErrnoException).syscall === "connect";
      throw systemError(cause, connecting ? "connect" : "bind", connecting ? other! : own);
    }
  }

  private constructor(handle: Handle, asked: Address) {
    const { address: near, remoteAddress: far } = handle;
    this.#handle = handle;
    this.address = { host: asWritten(near.address, asked.host), port: near.port };
    this.peer = far ? { host: asWritten(far.address, this.address.host), port: far.port } : null;
  }

  // ---- receiving

  /**
   * Waits for a datagram. Gives its bytes, at most `maxBytes` (the rest of a longer one is lost), and the address
   * of its sender. A datagram may be empty. Python's `recvfrom`, recvfrom(2).
   *
   * Rejects with `ETIMEDOUT` (see `setTimeout`), with the error reported for an earlier datagram to the `peer`, or
   * with the signal's reason.
   */
  recvFrom(maxBytes = WHOLE, options?: WaitOptions): Promise<Datagram> {
    const limited = options?.signal !== undefined || this.#timeout < Infinity;
    const waits = this.#resolve === null && !(this.poll() & (POLLIN | POLLNVAL));
    if (limited || !waits || !Number.isInteger(maxBytes) || maxBytes < 1) {
      return this.#retry(() => this.#take(maxBytes), "recvfrom", this.peer, options);
    }
    this.#most = maxBytes;
    return new Promise((resolve) => (this.#resolve = resolve));
  }

  /** The same without the sender's address: Python's `recv`. */
  async recv(maxBytes?: number, options?: WaitOptions): Promise<Buffer> {
    return (await this.recvFrom(maxBytes, options))[0];
  }

  /** The next datagram that has come; null if there is none. */
  tryRecvFrom(maxBytes = WHOLE): Datagram | null {
    return this.#take(maxBytes);
  }

  /** Resolves when `tryRecvFrom` would not return null. */
  async waitReadable(): Promise<void> {
    await done();
    await retry(this.#change, () => this.poll() & (POLLIN | POLLNVAL) || null);
    if (this.#handle === null) throw this.#error("EBADF", "recvfrom");
  }

  /** The datagrams as they come, until the socket is closed. Leaving the loop closes nothing. */
  [Symbol.asyncIterator](): AsyncIterator<Datagram, undefined> {
    const ended = (error: unknown): IteratorResult<Datagram, undefined> => {
      if (this.#handle !== null) throw error;
      return { value: undefined, done: true };
    };
    return { next: () => this.recvFrom().then((value) => ({ value, done: false }), ended) };
  }

  // The non-blocking core: null while none is there.
  #take(maxBytes: number): Datagram | null {
    const most = checkCount("maxBytes", maxBytes, 1);
    this.#open("recvfrom");
    const first = this.#queue.shift();
    if (first === undefined) return null;
    const [data, from] = first;
    this.#queued -= data.length + OVERHEAD;
    return data.length > most ? [data.subarray(0, most), from] : first;
  }

  // Bun has read a datagram.
  #received(data: Buffer, from: Address): void {
    if (this.peer !== null && !isSame(from, this.peer)) return; // it was queued before connect(2)
    const bytes = data.length + OVERHEAD;
    if (this.#queued + bytes > QUEUE_LIMIT) return void this.dropped++;
    this.#queued += bytes;
    this.#queue.push([data, from]);
    if (!isTooMany()) this.#changed();
    else if (this.#queue.length === 1) atTurnsEnd(() => this.#changed());
  }

  // Wakes the waiting calls.
  #changed(): void {
    const resolve = this.#resolve;
    if (resolve !== null && this.poll() & (POLLIN | POLLNVAL)) {
      this.#resolve = null;
      const take = async () => this.#take(this.#most)!;
      resolve(this.#queue.length > 0 ? this.#take(this.#most)! : take());
    }
    this.#change.tell();
  }

  // ---- sending

  /**
   * Sends one datagram, which may be empty, to an address or a name. Resolves when the kernel has it, which does
   * not mean that it arrives. Python's `sendto`, sendto(2).
   *
   * Rejects with `EMSGSIZE` (over 65,507 bytes, over IPv6 65,527), `EISCONN` (not to the `peer`),
   * `ENOTFOUND`, `ENOBUFS` (the kernel dropped it), `EACCES` (broadcast: see `options`), `ETIMEDOUT`.
   */
  sendTo(data: string | Uint8Array, to: Address | null): Promise<void> {
    try {
      if (to !== null && !isNumeric(to.host)) return this.#sendToName(data, checkHost(to, 1));
      return this.#sendNow(data, to);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Sends one datagram to the `peer`: `EDESTADDRREQ` without one. Python's `send`. */
  send(data: string | Uint8Array): Promise<void> {
    return this.sendTo(data, this.peer);
  }

  /** Sends one datagram, by default to the `peer`; false when the kernel has no room for it now. */
  trySendTo(data: string | Uint8Array, to: Address | null = this.peer): boolean {
    return this.#write(data, to);
  }

  async #sendToName(data: string | Uint8Array, { host, port }: Address): Promise<void> {
    const named = { host: await addressFor({ host, port }, "sendto", this.address.host), port };
    return this.#sendNow(data, named);
  }

  #sendNow(data: string | Uint8Array, to: Address | null): Promise<void> {
    if (this.#write(data, to)) return done();
    return this.#retry(() => (this.#write(data, to) ? undefined : null), "sendto", to);
  }

  // The non-blocking core: false while there is no room.
  #write(data: string | Uint8Array, to: Address | null, isSecond = false): boolean {
    const bytes = toBytes(data);
    const handle = this.#open("sendto", to);
    if (to === null) throw this.#error("EDESTADDRREQ", "sendto");
    checkCount("port", to.port, 1, 65_535);
    if (!isNumeric(to.host)) throw new TypeError(`${Bun.inspect(to.host)} is no IP address`);
    if (this.peer !== null && !isSame(to, this.peer)) throw this.#error("EISCONN", "sendto", to);
    if (this.#full) return false;
    try {
      const sent = this.peer === null ? handle.send(bytes, to.port, to.host) : handle.send(bytes);
      return !(this.#full = !sent);
    } catch (cause) {
      // The error may be about an earlier datagram. Then this one has not been sent, and is tried once more.
      if (isSecond) throw systemError(cause, "sendto", to);
      return this.#write(bytes, to, true);
    }
  }

  // An ICMP error. Linux queues it (ip(7), IP_RECVERR) and may report it by recvmsg(2) as well: it counts once.
  #failed(cause: NodeJS.ErrnoException & { errqueue?: boolean }): void {
    const isKnown = process.platform === "linux" && !cause.errqueue;
    if (this.peer === null || isKnown || cause.code === "EMSGSIZE") return; // EMSGSIZE was thrown by the call itself
    this.#failure = systemError(cause, "recvfrom", this.peer);
    this.#changed();
  }

  // ---- waiting, closing

  /**
   * Limits each later `recvFrom`, `recv`, `sendTo` and `send` to `ms` milliseconds; then the call rejects
   * with `ETIMEDOUT`. `null`: no limit. Python's `settimeout`, in milliseconds.
   */
  setTimeout(ms: number | null): void {
    this.#open("recvfrom");
    this.#timeout = ms === null ? Infinity : checkTimeout(ms);
  }

  // Retries a call until it succeeds or its time is up.
  #retry<T>(attempt: () => T | null, syscall: Syscall, to: Address | null, options?: WaitOptions) {
    const deadline = performance.now() + this.#timeout;
    const inTime = () => {
      const value = attempt();
      if (value !== null) return value;
      if (deadline <= performance.now()) throw this.#error("ETIMEDOUT", syscall, to);
      this.#alarm.set(deadline);
      return null;
    };
    return retry(this.#change, inTime, options);
  }

  /**
   * Bun's methods for broadcast and multicast options: Python's `setsockopt`; ip(7).
   *
   * @example
   * using socket = await datagram({ host: "0.0.0.0" });
   * socket.options.setBroadcast(true);
   * await socket.sendTo("is anybody there?", { host: "255.255.255.255", port: 4000 });
   */
  get options(): Bun.udp.BaseUDPSocket {
    return this.#open("sendto");
  }

  /** Closes the socket: close(2). Datagrams that nobody has received yet are lost. Closing twice is fine. */
  close(): void {
    this.#handle?.close();
    this.#handle = null;
    this.#queue = [];
    this.#changed();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** The calls that would not have to wait, as bits: poll(2) on this socket. */
  poll(): number {
    if (this.#handle === null) return POLLNVAL;
    if (this.#failure !== null) return POLLIN | POLLOUT | POLLERR;
    return (this.#queue.length > 0 ? POLLIN : 0) | (this.#full ? 0 : POLLOUT);
  }

  #open(syscall: Syscall, to?: Address | null): Handle {
    if (this.#handle === null) throw this.#error("EBADF", syscall, to);
    const failure = this.#failure;
    this.#failure = null;
    if (failure !== null) throw failure;
    return this.#handle;
  }

  #error(code: string, syscall: Syscall, to?: Address | null): SocketError {
    return new SocketError(code, syscall, to ?? this.peer ?? this.address);
  }
}

// The address for a name, in the family of our own address `near` if there is one.
async function addressFor(to: Address, syscall: Syscall, near = "::"): Promise<string> {
  const hosts = isLocal(to.host) ? ["127.0.0.1", "::1"] : await lookUp(to, syscall);
  const fits = (host: string) => near === "::" || near.includes(":") === host.includes(":");
  return hosts.find(fits) ?? hosts[0]!;
}

function isSame(a: Address, b: Address): boolean {
  return a.port === b.port && a.host === b.host;
}
