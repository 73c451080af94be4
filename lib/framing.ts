// Messages over a stream of bytes. TCP keeps the order of the bytes, but not where one send ended and the
// next began, so the bytes themselves must say where a message ends. The HOWTO names four ways: a fixed
// length, a delimiter, a length in front, and the end of the connection, which needs no code (receive
// until EOF).

import { SocketError, type Syscall } from "./errors.ts";
import type { Socket, WaitOptions } from "./socket.ts";
import { checkCount, toBytes } from "./socket/check.ts";
import type { Inbox } from "./socket/queues.ts";
import type { Whole } from "./socket/receiving.ts";

const MIB = 1 << 20;

/** A message of up to this many bytes is copied after its length, so that both go out in one send. */
const SMALL = 64 * 1024;

/** A way to mark where messages end. Made by `fixedLength`, `delimited` or `lengthPrefixed`. */
export interface Framing {
  /** A message as bytes on the wire, or the error code if the other side could not read it back. */
  frame(message: Uint8Array): Uint8Array[] | "EMSGSIZE" | "EINVAL";
  /**
   * Takes the next message out of the received bytes. Gives null while the message is incomplete, and "EMSGSIZE"
   * for one that is too long; then it takes nothing.
   */
  take(inbox: Inbox): Buffer | null | "EMSGSIZE";
  /** The most bytes that a message can have on the wire. */
  readonly most: number;
}

/** What `messages` and `sendMessage` use of a connection. */
export type Framed = Pick<Socket, "sendAll" | "recvMessage" | "remoteAddress">;

/** Every message is `bytes` long, at least 1. */
export function fixedLength(bytes: number): Framing {
  checkCount("the length of a message", bytes, 1);
  return {
    frame: (message) => (message.length === bytes ? [message] : "EMSGSIZE"),
    take: (inbox) => (inbox.length < bytes ? null : inbox.take(bytes)),
    most: bytes,
  };
}

/**
 * Every message ends with `delimiter`, which is not part of it and must not occur in it. A message
 * longer than `maxBytes` (default: 1 MiB) is refused.
 */
export function delimited(
  delimiter: string | Uint8Array = "\n",
  { maxBytes = MIB }: { maxBytes?: number } = {},
): Framing {
  const mark = Buffer.from(toBytes(delimiter));
  if (mark.length === 0) throw new RangeError("the delimiter must not be empty");
  checkCount("maxBytes", maxBytes, 1);
  return {
    frame(message) {
      // The delimiter must not be found within the message, nor across its end: "xa" with the delimiter "aa"
      // is "xaaa", in which the message seems to end after the "x".
      const framed = Buffer.concat([message, mark]);
      if (framed.indexOf(mark) < message.length) return "EINVAL";
      return message.length > maxBytes ? "EMSGSIZE" : [framed];
    },
    take(inbox) {
      const end = inbox.indexOf(mark);
      // The delimiter may begin in the last bytes.
      const atLeast = end < 0 ? inbox.length - mark.length + 1 : end;
      if (atLeast > maxBytes) return "EMSGSIZE";
      if (end < 0) return null;
      return inbox.take(end + mark.length).subarray(0, end);
    },
    most: maxBytes + mark.length,
  };
}

/**
 * Every message comes after its length, a big-endian number of 1, 2 or 4 `bytes` (default: 4). A
 * length over `maxBytes` (default: 1 MiB) is refused without waiting for the message.
 */
export function lengthPrefixed(
  bytes: 1 | 2 | 4 = 4,
  { maxBytes = MIB }: { maxBytes?: number } = {},
): Framing {
  if (![1, 2, 4].includes(bytes)) {
    throw new RangeError(`the length takes 1, 2 or 4 bytes, not ${Bun.inspect(bytes)}`);
  }
  const max = Math.min(checkCount("maxBytes", maxBytes, 1), 256 ** bytes - 1);
  return {
    frame(message) {
      if (message.length > max) return "EMSGSIZE";
      const front = Buffer.allocUnsafe(bytes);
      front.writeUIntBE(message.length, 0, bytes);
      return message.length > SMALL ? [front, message] : [Buffer.concat([front, message])];
    },
    take(inbox) {
      if (inbox.length < bytes) return null;
      const length = inbox.readUInt(bytes);
      if (length > max) return "EMSGSIZE";
      if (inbox.length < bytes + length) return null;
      inbox.take(bytes);
      return inbox.take(length);
    },
    most: bytes + max,
  };
}

/**
 * The messages that arrive on `conn`. Ends at EOF between two messages. Leaving the loop closes nothing:
 * the next `recv` gives what follows the last message, so a protocol can continue differently.
 *
 * On a connection with an idle timeout, a message that has begun must be complete within that time.
 *
 * Rejects with `SocketError`: `EMSGSIZE` for a message over the limit, `EINCOMPLETE` when the end of
 * the connection cuts one off (the error's `partial` has the bytes that came), `ETIMEDOUT`, and whatever
 * `recv` rejects with.
 *
 * @example
 * for await (const line of messages(conn, delimited("\n"))) console.log(String(line));
 */
export function messages(
  conn: Framed,
  framing: Framing,
  options?: WaitOptions,
): AsyncIterableIterator<Buffer, undefined> {
  const whole: Whole<IteratorResult<Buffer, undefined>> = {
    take(inbox) {
      const message = framing.take(inbox);
      if (message === "EMSGSIZE") throw failure(message, "recv", conn);
      return message === null ? null : { value: message, done: false };
    },
    end: { value: undefined, done: true },
    most: framing.most,
  };
  return {
    next: () => conn.recvMessage(whole, options),
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

/**
 * The lines of text that arrive on `conn`, without the `\n` or `\r\n` at their ends. The last line before
 * EOF needs no `\n`. Python's `for line in conn.makefile()`.
 *
 * Rejects as `messages` does; `EMSGSIZE` for a line longer than `maxBytes` (default: 1 MiB).
 *
 * @example
 * for await (const line of lines(conn, { maxBytes: 1024 })) console.log(line);
 */
export async function* lines(
  conn: Framed,
  { maxBytes, ...options }: { maxBytes?: number } & WaitOptions = {},
): AsyncGenerator<string, void, undefined> {
  const text = (line: Buffer) =>
    line.toString("utf8", 0, line.length - (line.at(-1) === 13 ? 1 : 0));
  try {
    for await (const line of messages(conn, delimited("\n", { maxBytes }), options))
      yield text(line);
  } catch (error) {
    const isEof = error instanceof SocketError && error.code === "EINCOMPLETE" && !error.cause;
    if (!isEof) throw error; // a part that a reset cut off is no line
    yield text(error.partial!);
  }
}

/**
 * Sends one message. Rejects with `SocketError`, before anything is sent, for one that the other
 * side could not read back: `EMSGSIZE` (not the fixed length, or over the limit) and `EINVAL` (holds
 * the delimiter); and as `sendAll` does.
 *
 * @example
 * const framing = delimited();
 * for await (const message of messages(conn, framing)) await sendMessage(conn, framing, message);
 */
export function sendMessage(
  conn: Framed,
  framing: Framing,
  message: string | Uint8Array,
  options?: WaitOptions,
): Promise<void> {
  try {
    const framed = framing.frame(toBytes(message));
    if (framed === "EINVAL") throw failure(framed, "send", conn, "the message holds the delimiter");
    if (framed === "EMSGSIZE") throw failure(framed, "send", conn);
    if (framed.length === 1) return conn.sendAll(framed[0]!, options);
    return Promise.all(framed.map((part) => conn.sendAll(part, options))) as Promise<any>;
  } catch (error) {
    return Promise.reject(error);
  }
}

function failure(code: string, syscall: Syscall, conn: Framed, reason?: string): SocketError {
  return new SocketError(code, syscall, conn.remoteAddress, { reason });
}
