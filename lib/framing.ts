// Messages over a stream of bytes. TCP keeps the order of what is sent, not where one send ended and
// the next began; where a message ends must be on the wire itself. The HOWTO names four ways: a fixed
// length, a delimiter, a length in front, and the end of the connection, which needs no code
// (receive until EOF).

import { SocketError, type Syscall } from "./errors.ts";
import type { Socket } from "./socket.ts";
import { checkCount, toBytes } from "./socket/check.ts";
import { CHUNK, Inbox } from "./socket/queues.ts";

const MIB = 1 << 20;

/** One way to draw the boundaries. Made by `fixedLength`, `delimited` or `lengthPrefixed`. */
export interface Framing {
  /** A message as it goes on the wire; or the code of why the other side could not read it back. */
  frame(message: Uint8Array): Uint8Array | "EMSGSIZE" | "EINVAL";
  /** The messages that arrive, until EOF between two of them. */
  receive(conn: Socket): AsyncGenerator<Buffer, void, undefined>;
}

/** Every message is `bytes` long, at least 1. */
export function fixedLength(bytes: number): Framing {
  checkCount("the length of a message", bytes, 1);
  return {
    frame: (message) => (message.length === bytes ? message : "EMSGSIZE"),
    async *receive(conn) {
      for (;;) {
        const message = await recvOrEnd(conn, bytes);
        if (message === null) return;
        yield message;
      }
    },
  };
}

/**
 * Every message ends with `delimiter`, which is not part of it and must not occur in it. Longer than
 * `maxBytes` (default: 1 MiB) is refused.
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
      // Not within the message, and not across its end either: "ab" + "bc" would end at the "b".
      const framed = Buffer.concat([message, mark]);
      if (framed.indexOf(mark) < message.length) return "EINVAL";
      return message.length > maxBytes ? "EMSGSIZE" : framed;
    },
    async *receive(conn) {
      const ahead = new Inbox();
      let searched = 0;
      try {
        for (;;) {
          const end = ahead.indexOf(mark, searched);
          if (end >= 0) {
            const message = ahead.take(end);
            ahead.take(mark.length);
            searched = 0;
            yield message;
            continue;
          }
          // A delimiter may have begun in the last bytes; nothing before them is looked at again.
          searched = Math.max(0, ahead.length - mark.length + 1);
          const room = maxBytes + mark.length - ahead.length;
          if (room === 0) throw failure("EMSGSIZE", "recv", conn);
          const chunk = await conn.recv(Math.min(room, CHUNK));
          if (chunk.length === 0) return endOf(conn, ahead);
          ahead.push(chunk);
        }
      } finally {
        // Whoever leaves the loop early finds on the socket what was read ahead.
        if (ahead.length > 0) conn.unrecv(ahead.take(ahead.length));
      }
    },
  };
}

/**
 * Every message comes behind its length, a big-endian number of 1, 2 or 4 `bytes` (default: 4). A
 * length over `maxBytes` (default: 1 MiB) is refused before anything of the message is received.
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
      const framed = Buffer.allocUnsafe(bytes + message.length);
      framed.writeUIntBE(message.length, 0, bytes);
      framed.set(message, bytes);
      return framed;
    },
    async *receive(conn) {
      for (;;) {
        const prefix = await recvOrEnd(conn, bytes);
        if (prefix === null) return;
        const length = prefix.readUIntBE(0, bytes);
        yield await recvBody(conn, prefix, length, max);
      }
    },
  };
}

/**
 * The messages that arrive on `conn`. Ends at EOF between two messages; breaking out closes nothing,
 * and leaves the socket right behind the last message, so that a protocol can go on differently.
 *
 * Rejects with `SocketError`: `EMSGSIZE` for a message over the limit, `EINCOMPLETE` when the end of
 * the connection cuts one off, and whatever `recv` rejects with.
 *
 * @example
 * for await (const line of messages(conn, delimited("\n"))) console.log(String(line));
 */
export function messages(conn: Socket, framing: Framing): AsyncGenerator<Buffer, void, undefined> {
  return framing.receive(conn);
}

/**
 * Sends one message. Rejects with `SocketError`, before anything is sent, for one that the other
 * side could not read back: `EMSGSIZE` (not the fixed length, or over the limit) and `EINVAL` (holds
 * the delimiter); and as `sendAll` does.
 */
export async function sendMessage(
  conn: Socket,
  framing: Framing,
  message: string | Uint8Array,
): Promise<void> {
  const framed = framing.frame(toBytes(message));
  if (framed === "EINVAL") throw failure(framed, "send", conn, "the message holds the delimiter");
  if (framed === "EMSGSIZE") throw failure(framed, "send", conn);
  await conn.sendAll(framed);
}

// A FIN between two messages is the end (null); within one, it cuts that one off.
async function recvOrEnd(conn: Socket, bytes: number): Promise<Buffer | null> {
  try {
    return await conn.recvExactly(bytes);
  } catch (error) {
    if (error instanceof SocketError && error.partial?.length === 0) return null;
    throw error;
  }
}

// A body that does not come leaves its length on the socket too: whoever tries again is still in step.
async function recvBody(conn: Socket, prefix: Buffer, length: number, max: number) {
  try {
    if (length > max) throw failure("EMSGSIZE", "recv", conn);
    return await conn.recvExactly(length);
  } catch (error) {
    const cutOff = error instanceof SocketError && error.partial !== undefined;
    if (!cutOff) conn.unrecv(prefix);
    throw error;
  }
}

function endOf(conn: Socket, ahead: Inbox): void {
  if (ahead.length === 0) return;
  const error = failure("EINCOMPLETE", "recv", conn);
  error.partial = ahead.take(ahead.length);
  throw error;
}

function failure(code: string, syscall: Syscall, conn: Socket, reason?: string): SocketError {
  return new SocketError(code, syscall, conn.remoteAddress, { reason });
}
