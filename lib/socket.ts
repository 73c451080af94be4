// The BSD verbs over Bun's TCP sockets, with `await` where Python blocks: listen, accept, connect
// here; send, recv, shutdown, close in `lib/connection.ts`.
//
// A blocking call is a non-blocking call plus a wait. So there is one non-blocking core (`tryRecv`,
// `trySend`, `tryAccept`), one way to wait (`lib/readiness.ts`), and each awaitable verb is the two
// together. `lib/select.ts` stands on the same two.

import { checkCount, checkHost, checkPort, checkTimeout } from "./check.ts";
import { type Handle, MAX_DELAY, type Owner, Socket, type WaitOptions } from "./connection.ts";
import { type Address, SocketError, type Syscall } from "./errors.ts";
import { anyChange, Change, POLLERR, POLLIN, POLLNVAL } from "./readiness.ts";

export { Socket, type WaitOptions } from "./connection.ts";
export type { Address } from "./errors.ts";

export interface ListenOptions {
  /** An address of this machine, or its name. Default `127.0.0.1`; `0.0.0.0` is all of IPv4, `::` all. */
  host?: string;
  /** 0 is any free one: `server.address.port` tells which. */
  port: number;
  /** How many connections may wait for `accept()`, at least 1. Default 511. */
  backlog?: number;
  /** Share the port with others that say so too: `SO_REUSEPORT`, socket(7). */
  reusePort?: boolean;
  /** Closes the server. */
  signal?: AbortSignal;
}

export interface ConnectOptions {
  /** An address or a name. Default `127.0.0.1`. */
  host?: string;
  port: number;
  /** Milliseconds until the attempt ends in `ETIMEDOUT`. Default: the system's, about two minutes. */
  timeout?: number;
  /** Ends the attempt, which rejects with its reason. */
  signal?: AbortSignal;
}

const ANY: Address = { host: "0.0.0.0", port: 0 };

/**
 * Opens a server: Python's `socket()`, `bind()` and `listen()` in one; bind(2), listen(2).
 *
 * Throws `SocketError` (`EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`, `ENOTFOUND`).
 *
 * @example
 * using server = listen({ port: 4000 });
 * for await (const conn of server) conn.close();
 */
export function listen(options: ListenOptions): ServerSocket {
  return new ServerSocket(options);
}

/**
 * Opens a connection: Python's `socket()` and `connect()`; connect(2).
 *
 * Rejects with `SocketError` (`ECONNREFUSED`, `ENOTFOUND`, `ETIMEDOUT`, …) or the signal's reason.
 *
 * @example
 * using conn = await connect({ port: 4000, timeout: 5_000 });
 * await conn.sendAll("hello");
 */
export async function connect({ host, port, timeout, signal }: ConnectOptions): Promise<Socket> {
  const address = { host: checkHost(host), port: checkPort(port, 1) };
  const delay = timeout === undefined ? undefined : Math.min(checkTimeout(timeout), MAX_DELAY);
  signal?.throwIfAborted();

  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const abort = () => reject(signal?.reason);
  const expire = () => reject(new SocketError("ETIMEDOUT", "connect", address));
  signal?.addEventListener("abort", abort);
  const timer = delay === undefined ? undefined : setTimeout(expire, delay);

  // Bun cannot call off an attempt: one that nobody waits for any more is reset when it succeeds.
  let waiting = true;
  const opened = (handle: Handle) =>
    waiting ? resolve(new Socket(handle, ANY, address)) : handle.terminate();
  const data: Owner = { opened };
  const target = { hostname: address.host, port, allowHalfOpen: true };
  Bun.connect({ ...target, data, socket: Socket.handlers }).catch((cause) =>
    reject(systemError(cause, "connect", address)),
  );
  try {
    return await promise;
  } finally {
    waiting = false;
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

/** A listening socket. It carries no data: each `accept()` gives a new `Socket` that does. */
export class ServerSocket implements Disposable, AsyncIterable<Socket> {
  /** Where it listens, with the real port when 0 was asked for: Python's `getsockname()`. */
  readonly address: Address;
  readonly #listener: Bun.TCPSocketListener<Owner>;
  readonly #backlog: number;
  readonly #change = new Change();
  #queue: Socket[] = [];
  #accepted = 0;
  #trimming = false;
  #closed = false;

  /** @internal Use `listen()`. */
  constructor({ host, port, backlog = 511, reusePort = false, signal }: ListenOptions) {
    const asked = { host: checkHost(host), port: checkPort(port, 0) };
    this.#backlog = checkCount("backlog", backlog, 1);
    const own = { hostname: asked.host, port, reusePort, allowHalfOpen: true };
    try {
      this.#listener = Bun.listen<Owner>({ ...own, data: this, socket: Socket.handlers });
    } catch (cause) {
      throw systemError(cause, "listen", asked);
    }
    this.address = boundAddress(this.#listener);
    if (signal?.aborted) this.close();
    else signal?.addEventListener("abort", () => this.close(), { once: true });
  }

  /**
   * Waits for the next connection. Whose it is tells its `remoteAddress`. Python's `accept`, accept(2).
   *
   * Rejects with `EBADF` when the server is closed, or with the signal's reason.
   */
  async accept({ signal }: WaitOptions = {}): Promise<Socket> {
    const wake = () => this.#change.now();
    signal?.addEventListener("abort", wake);
    try {
      for (;;) {
        signal?.throwIfAborted();
        const conn = this.tryAccept();
        if (conn !== null) return conn;
        await this.#change.wait();
      }
    } finally {
      signal?.removeEventListener("abort", wake);
    }
  }

  /** The next connection, or null when none waits. */
  tryAccept(): Socket | null {
    if (this.poll() & POLLNVAL) throw this.#closedError();
    const conn = this.#queue.shift();
    if (conn === undefined) return null;
    this.#accepted++;
    return conn;
  }

  /** Resolves when `tryAccept` would not return null. */
  async waitReadable(): Promise<void> {
    while (!(this.poll() & POLLIN)) {
      if (this.#closed) throw this.#closedError();
      await this.#change.wait();
    }
  }

  /** The connections as they come, until the server is closed. Breaking out closes nothing. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Socket, void, undefined> {
    while (!this.#closed) {
      const conn = this.tryAccept();
      if (conn !== null) yield conn;
      else await this.#change.wait();
    }
  }

  /**
   * Stops listening. Accepted connections live on; those that nobody accepted are reset, as the
   * kernel does it. A waiting `accept` rejects with `EBADF`. Twice is fine.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#listener.stop();
    for (const conn of this.#queue.splice(0)) conn.reset();
    this.#changed();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** What would not have to wait, as bits: poll(2) on this one socket, right now. */
  poll(): number {
    if (this.#closed) return POLLNVAL;
    // A connection that its peer has reset is not worth accepting.
    while (this.#queue[0] !== undefined && isBroken(this.#queue[0])) this.#queue.shift()?.close();
    return this.#queue.length > 0 ? POLLIN : 0;
  }

  /** @internal Bun has accepted a connection. */
  opened(handle: Handle): void {
    // A peer that is gone already has no address any more.
    if (this.#closed || handle.remoteAddress === undefined) return handle.terminate();
    this.#queue.push(new Socket(handle, this.address));
    if (this.#queue.length > this.#backlog) this.#trim();
    this.#changed();
  }

  // Bun empties the kernel's queue in one go, so a burst is here before an accept loop has had a
  // turn. Who is one too many shows after it; and while the server takes some each turn, nobody is.
  #trim(): void {
    if (this.#trimming) return;
    this.#trimming = true;
    const before = this.#accepted;
    setImmediate(() => {
      this.#trimming = false;
      this.#queue = this.#queue.filter((conn) => !isBroken(conn));
      if (this.#queue.length <= this.#backlog) return;
      if (this.#accepted > before) return this.#trim();
      for (const conn of this.#queue.splice(this.#backlog)) conn.reset();
    });
  }

  #changed(): void {
    this.#change.now();
    anyChange.now();
  }

  #closedError(): SocketError {
    return new SocketError("EBADF", "accept", this.address);
  }
}

function isBroken(conn: Socket): boolean {
  return (conn.poll() & POLLERR) !== 0;
}

function systemError(cause: unknown, syscall: Syscall, address: Address): SocketError {
  // For a name that does not resolve, `Bun.listen` gives no code.
  const { code = "ENOTFOUND" } = cause as { code?: string };
  return new SocketError(code, syscall, address, { cause });
}

// getsockname(2) fills in the object that it is given. Bun has it, though its types leave it out.
function boundAddress(listener: Bun.TCPSocketListener<Owner>): Address {
  const name = { address: listener.hostname, port: listener.port };
  (listener as unknown as { getsockname(into: object): void }).getsockname(name);
  return { host: name.address, port: name.port };
}
