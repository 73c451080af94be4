// The one error of this lib. It knows what was called, on which address, and what the system
// answered; how to say that to a person is `lib/cli.ts`'s business.

/** One end of a connection, as `getsockname()` and `getpeername()` tell it. */
export interface Address {
  /** An IP address; the name that was asked for, where none is known; a Unix socket's absolute path. */
  host: string;
  /** 0 for a Unix socket. */
  port: number;
}

/** The call that failed. */
export type Syscall =
  "listen" | "connect" | "accept" | "recv" | "send" | "select" | "gethostbyname";

/** `127.0.0.1:4000`; `[::1]:4000`, as IPv6 takes brackets (RFC 3986, section 3.2.2); or a path. */
export function formatAddress({ host, port }: Address): string {
  if (isPath(host)) return host;
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Whether this is the address of a Unix-domain socket. */
export function isPath(host: string): boolean {
  return /^([a-z]:)?[/\\]/i.test(host); // on Windows too
}

/**
 * What a socket call failed with: Python's `OSError`, C's `errno`.
 *
 * `code` is the errno's name (`ECONNREFUSED`, `ECONNRESET`, `EPIPE`, `EADDRINUSE`, `ETIMEDOUT`,
 * `EBADF`: closed on our side, `EBUSY`: somebody else is receiving, …), or one of the lib's own:
 * `ENOTFOUND` (the host name does not resolve) and `EINCOMPLETE` (the connection ended before all
 * the bytes were there, Python's `asyncio.IncompleteReadError`).
 *
 * @example
 * try {
 *   await connect({ port: 4000 });
 * } catch (error) {
 *   if (error instanceof SocketError && error.code === "ECONNREFUSED") console.log("nobody there");
 * }
 */
export class SocketError extends Error {
  override readonly name = "SocketError";
  readonly code: string;
  readonly syscall: Syscall;
  readonly address: Address;
  /** After a `send` or `sendAll` that failed: how many of its bytes the kernel took. */
  bytesSent?: number;
  /** With `EINCOMPLETE`: the bytes that did come. */
  partial?: Buffer;

  constructor(code: string, syscall: Syscall, address: Address, options?: ErrorOptions) {
    const where = code === "ENOTFOUND" ? address.host : formatAddress(address);
    super(`${syscall} ${code} ${where}`, options);
    this.code = code;
    this.syscall = syscall;
    this.address = address;
  }
}
