// The BSD verbs over Bun's TCP sockets, with `await` where Python blocks: listen, accept, connect
// here; send, recv, shutdown, close in `lib/connection.ts`.
//
// A blocking call is a non-blocking call plus a wait. So there is one non-blocking core (`tryRecv`,
// `trySend`, `tryAccept`), one way to wait (`lib/readiness.ts`), and each awaitable verb is the two
// together. `lib/select.ts` stands on the same two.

import { MAX_DELAY } from "./alarm.ts";
import { checkCount, checkText, checkTimeout } from "./check.ts";
import { type Handle, type Owner, Socket, type WaitOptions } from "./connection.ts";
import { type Address, isPath, SocketError, type Syscall } from "./errors.ts";
import { anyChange, Change, POLLERR, POLLIN, POLLNVAL } from "./readiness.ts";

export { Socket, type WaitOptions } from "./connection.ts";
export type { Address } from "./errors.ts";

/** Where to listen or connect to on the network. */
export interface HostAndPort {
  /** An address or a name. Default `127.0.0.1`. To listen on: `0.0.0.0` is all of IPv4, `::` all. */
  host?: string;
  /** To listen on: 0 is any free one, and `server.address.port` tells which. */
  port: number;
}

/** A Unix-domain socket, unix(7): for processes of one machine. */
export interface SocketFile {
  /** The socket's file. Made by `listen`, which refuses one in use, and removed by `close`. */
  path: string;
}

export type ListenOptions = (HostAndPort | SocketFile) & {
  /** How many connections may wait for `accept()`, at least 1. Default 511. */
  backlog?: number;
  /** Share the port with others that say so too: `SO_REUSEPORT`, socket(7). */
  reusePort?: boolean;
  /** Closes the server. */
  signal?: AbortSignal;
};

export type ConnectOptions = (HostAndPort | SocketFile) & {
  /**
   * Milliseconds until the attempt is given up with `ETIMEDOUT`. Default: the system's, about two
   * minutes. As long as that, the kernel goes on trying: Bun cannot call it off, and the descriptor
   * is in use until then.
   */
  timeout?: number;
  /** Ends the attempt, which rejects with its reason. */
  signal?: AbortSignal;
};

/** Our end of a connection that Bun has not told us about: any address. */
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
export async function connect(options: ConnectOptions): Promise<Socket> {
  const { timeout, signal } = options;
  const { address, own } = checkAddress(options, 1);
  const near = "path" in options ? address : ANY;
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
    waiting ? resolve(new Socket(handle, near, address)) : handle.terminate();
  const data: Owner = { opened };
  Bun.connect({ ...own, data }).catch((cause) => reject(systemError(cause, "connect", address)));
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
  readonly #listener: Bun.SocketListener<Owner>;
  readonly #backlog: number;
  readonly #change = new Change();
  #queue: Socket[] = [];
  #accepted = 0;
  #trimming = false;
  #closed = false;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = () => this.close();

  /** @internal Use `listen()`. */
  constructor(options: ListenOptions) {
    const { backlog = 511, reusePort = false, signal } = options;
    this.#backlog = checkCount("backlog", backlog, 1);
    const { address, own } = checkAddress(options, 0);
    const file = "path" in options;
    try {
      using _whileTakingOver = file ? unixFiles().takeOver(address.host) : null;
      const shared = { ...own, reusePort };
      this.#listener = Bun.listen({ ...shared, data: this });
    } catch (cause) {
      throw systemError(cause, "listen", address);
    }
    this.address = file ? address : boundAddress(this.#listener);
    this.#signal = signal;
    signal?.addEventListener("abort", this.#onAbort);
    if (signal?.aborted) this.close();
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
        const conn = this.#next();
        if (conn !== null) return conn;
        await this.#change.wait();
      }
    } finally {
      signal?.removeEventListener("abort", wake);
    }
  }

  /** The next connection, or null when none waits. */
  tryAccept(): Socket | null {
    return this.#next();
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
      const conn = this.#next();
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
    this.#signal?.removeEventListener("abort", this.#onAbort);
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
    if (this.#closed) return handle.terminate();
    const unknown = isPath(this.address.host) ? this.address : { host: "", port: 0 };
    const conn = new Socket(handle, this.address, unknown);
    const { host, port } = conn.remoteAddress;
    // A peer that has reset by now has no address any more.
    if (host === "" || (port === 0 && !isPath(host))) return conn.reset();
    this.#queue.push(conn);
    if (this.#queue.length > this.#backlog) this.#trim();
    this.#changed();
  }

  // The non-blocking core: null while nobody waits.
  #next(): Socket | null {
    if (this.poll() & POLLNVAL) throw this.#closedError();
    const conn = this.#queue.shift();
    if (conn === undefined) return null;
    this.#accepted++;
    return conn;
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

// Loaded with the first Unix-domain socket: most programs have none, and start without node:fs.
function unixFiles() {
  return require("./unix.ts") as typeof import("./unix.ts");
}

// Where to listen or connect to: as people read it, and as Bun wants it.
function checkAddress(options: HostAndPort | SocketFile, minPort: 0 | 1) {
  const common = { allowHalfOpen: true, socket: Socket.handlers };
  if ("path" in options) {
    const unix = unixFiles().absolute(checkText("path", options.path));
    return { address: { host: unix, port: 0 }, own: { unix, ...common } };
  }
  const hostname = checkText("host", options.host ?? "127.0.0.1");
  const port = checkCount("port", options.port, minPort, 65_535);
  // Bun's types have one signature for each kind of address, and none for either.
  const own = { hostname, port, ...common } as unknown as Bun.UnixSocketOptions<Owner>;
  return { address: { host: hostname, port }, own };
}

/**
 * A name that one process of this machine can have at a time: in Linux's abstract namespace, unix(7).
 * Goes with its process at the latest. Throws `EADDRINUSE`; elsewhere it is null.
 */
export function lockName(name: string): Disposable | null {
  if (process.platform !== "linux") return null;
  return Bun.listen({ unix: `\0${name}`, socket: { data() {} } });
}

function systemError(cause: unknown, syscall: Syscall, address: Address): SocketError {
  // For a name that does not resolve, `Bun.listen` gives no code.
  const { code = "ENOTFOUND" } = cause as { code?: string };
  return new SocketError(code, syscall, address, { cause });
}

// getsockname(2) fills in the object that it is given. Bun has it, though its types leave it out.
function boundAddress(listener: Bun.SocketListener<Owner>): Address {
  const name = { address: "", port: 0 };
  (listener as unknown as { getsockname(into: object): void }).getsockname(name);
  return { host: name.address, port: name.port };
}
