// The frames of RFC 6455, section 5, without a socket: encodes a message as bytes, and decodes messages from
// bytes that come in any pieces.

import { toBytes } from "../socket/check.ts";
import type { Inbox } from "../socket/queues.ts";

export const [MORE, TEXT, BINARY, CLOSE, PING, PONG] = [0, 1, 2, 8, 9, 10] as const;
/** The most bytes of a frame before its payload. */
export const MAX_FRONT = 14;

/** The peer has broken the protocol: the status for a Close frame, and the error code. */
export class Breach extends Error {
  status = 1002;
  code = "EPROTO";
}

function breach(what: string, status = 1002, code = "EPROTO"): never {
  throw Object.assign(new Breach(what), { status, code });
}

/** One unfragmented frame as it goes on the wire; masked with a `key` (32 bits), as clients do it. */
export function encode(opcode: number, data: string | Uint8Array, key?: number): Buffer {
  const length = Buffer.byteLength(data);
  const extended = length < 126 ? 0 : length < 65_536 ? 2 : 8;
  const start = 2 + extended + (key === undefined ? 0 : 4);
  const frame = Buffer.allocUnsafe(start + length);
  frame[0] = 0x80 | opcode;
  frame[1] = extended === 0 ? length : extended === 2 ? 126 : 127;
  if (extended === 2) frame.writeUInt16BE(length, 2);
  if (extended === 8) frame.writeBigUInt64BE(BigInt(length), 2);
  if (typeof data === "string") frame.write(data, start);
  else frame.set(toBytes(data), start);
  if (key === undefined) return frame;
  frame[1] |= 0x80;
  frame.writeInt32LE(key, start - 4);
  mask(frame.subarray(start), key);
  return frame;
}

/** Masks bytes, or unmasks them, in place: byte i is XORed with byte i % 4 of the key. */
export function mask(bytes: Buffer, key: number): void {
  // Four at a time, which takes a quarter of the time. A typed array of words is even faster at 64 KiB, but
  // slower at 1,000 bytes, and needs aligned memory.
  const words = bytes.length & ~3;
  for (let i = 0; i < words; i += 4) bytes.writeInt32LE(bytes.readInt32LE(i) ^ key, i);
  for (let i = words; i < bytes.length; i++) bytes[i]! ^= key >>> (8 * (i & 3));
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The text of a message. */
export function textOf(payload: Buffer): string {
  try {
    return utf8.decode(payload);
  } catch {
    return breach("a text is not UTF-8", 1007, "EILSEQ");
  }
}

// Whether a Close frame may have this code: RFC 6455, section 7.4, and IANA's registry of WebSocket codes.
function maySay(code: number): boolean {
  const isReserved = code < 1000 || code === 1004 || code === 1005 || code === 1006 || code > 1014;
  return Number.isInteger(code) && (!isReserved || (code >= 3000 && code <= 4999));
}

/** The payload of a Close frame. */
export function closing(code: number, reason = ""): Buffer {
  if (!maySay(code)) throw new RangeError(`no Close frame may have the code ${Bun.inspect(code)}`);
  const bytes = Buffer.byteLength(reason);
  if (bytes > 123) throw new RangeError(`the reason must be at most 123 bytes, not ${bytes}`);
  return Buffer.concat([Buffer.of(code >> 8, code), Buffer.from(reason)]);
}

/** Code and reason of a Close frame; the code is 1005 if its payload is empty. */
export function closeOf(payload: Buffer): { code: number; reason: string } {
  if (payload.length === 0) return { code: 1005, reason: "" };
  const code = payload.length === 1 ? 0 : payload.readUInt16BE();
  if (!maySay(code)) breach("a Close frame has a code that must not be sent");
  return { code, reason: textOf(payload.subarray(2)) };
}

/** A control frame, or a whole message with its fragments joined; `MORE` for a fragment that is not the last. */
export type Frame = { opcode: number; payload: Buffer };

/**
 * Makes a function for one connection, which takes the next frame out of the received bytes. It gives null
 * while the frame is incomplete, and takes nothing then; fragments wait in `joined`, copied, until the last one
 * comes. `isMasked`: whether the peer has to mask its frames. It throws a `Breach`, and must not be called again
 * after that.
 */
export function splitter(isMasked: boolean, maxBytes: number, joined: Inbox) {
  let begun = 0; // the opcode of the message whose fragments wait
  return (inbox: Inbox): Frame | null => {
    if (inbox.length < 2) return null;
    const head = inbox.readUInt(2);
    const isLast = head >= 0x8000;
    const opcode = (head >> 8) & 0x0f;
    const isControl = opcode >= CLOSE;
    let length = head & 0x7f;
    if (head & 0x7000) breach("a reserved bit is set");
    if ((opcode > BINARY && opcode < CLOSE) || opcode > PONG) breach("an unknown opcode");
    if (isControl && (!isLast || length > 125)) breach("a control frame is a fragment or too long");
    if (!isControl && (opcode === MORE) !== begun > 0) breach("a fragment is out of place");
    if ((head & 0x80) > 0 !== isMasked) breach(`a frame is ${isMasked ? "not " : ""}masked`);

    const [extended, least] = length < 126 ? [0, 0] : length === 126 ? [2, 126] : [8, 65_536];
    if (inbox.length < 2 + extended) return null;
    if (extended > 0) length = inbox.readUInt(2, 2);
    if (extended === 8) length = length * 2 ** 48 + inbox.readUInt(6, 4);
    if (length < least || length >= 2 ** 63) breach("a length is not written as it has to be");
    const isTooLong = !isControl && joined.length + length > maxBytes;
    if (isTooLong) breach(`a message is longer than ${maxBytes} bytes`, 1009, "EMSGSIZE");

    const start = 2 + extended + (isMasked ? 4 : 0);
    if (inbox.length < start + length) return null;
    const frame = inbox.take(start + length);
    const payload = frame.subarray(start);
    if (isMasked) mask(payload, frame.readInt32LE(start - 4));
    if (isControl || (isLast && begun === 0)) return { opcode, payload };
    begun ||= opcode;
    joined.push(Buffer.from(payload), maxBytes);
    if (!isLast) return { opcode: MORE, payload };
    const whole = { opcode: begun, payload: joined.take(Infinity) };
    begun = 0;
    return whole;
  };
}
