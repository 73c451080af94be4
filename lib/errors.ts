// The errors of this lib. A `SocketError` has the call that failed, its address, and the system's error code;
// `lib/cli/describe.ts` turns it into a sentence.

import { type Address, formatAddress } from "./address.ts";

/** The call that failed. */
export type Syscall = StreamCall | DatagramCall | "select" | "gethostbyname";
type StreamCall = "listen" | "connect" | "accept" | "recv" | "send";
type DatagramCall = "bind" | "connect" | "recvfrom" | "sendto";

/** An error whose message is all that a person needs: it is printed without a stack. */
export class Failure extends Error {}

/**
 * What a socket call failed with: Python's `OSError`, C's `errno`.
 *
 * `code` is the errno's name (`ECONNREFUSED`, `ECONNRESET`, `EPIPE`, `EADDRINUSE`, `ETIMEDOUT`,
 * `EBADF`: closed on our side, `EBUSY`: another call is receiving, …), or one of the lib's own:
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
  /** After a `send` or `sendAll` that failed: how many of its bytes the kernel took. */
  bytesSent?: number;
  /** With `EINCOMPLETE`: the bytes that did come. */
  partial?: Buffer;
  /** What is wrong, in a few words, where `code` alone does not say it. */
  reason?: string;

  constructor(
    readonly code: string,
    readonly syscall: Syscall,
    readonly address: Address,
    options?: ErrorOptions & { reason?: string },
  ) {
    const where = code === "ENOTFOUND" ? address.host : formatAddress(address);
    super(`${syscall} ${code} ${where}`, options);
    this.reason = options?.reason ?? (options?.cause as Partial<SocketError> | undefined)?.reason;
  }
}

/** Whether `signal` has aborted and `error` is its reason, or has it as `cause`. */
export function isAbort(error: unknown, signal: AbortSignal): boolean {
  if (!signal.aborted) return false;
  return error === signal.reason || Object(error).cause === signal.reason;
}
