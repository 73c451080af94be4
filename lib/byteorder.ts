// Converts numbers between this machine's byte order and the network's (big-endian): byteorder(3).

import { checkCount } from "./socket/check.ts";

/**
 * A 16-bit number from host to network order: Python's `socket.htons`. It swaps the two bytes on a
 * little-endian machine and does nothing on a big-endian one. `RangeError` for a number that does not fit.
 *
 * @example
 * htons(1).toString(16); // "100" on Intel and ARM: the bytes 01 00 have become 00 01
 */
export function htons(host: number): number {
  checkCount("a 16-bit number", host, 0, 0xffff);
  return new DataView(Uint16Array.of(host).buffer).getUint16(0); // in memory it is in host order
}

/**
 * A 32-bit number from host to network order, unsigned: Python's `socket.htonl`. `RangeError` for a number
 * that does not fit.
 *
 * @example
 * const bytes = Buffer.from(Uint32Array.of(htonl(1)).buffer); // as they lie in memory
 * console.log(bytes.toString("hex")); // "00000001"
 */
export function htonl(host: number): number {
  checkCount("a 32-bit number", host, 0, 0xffff_ffff);
  return new DataView(Uint32Array.of(host).buffer).getUint32(0);
}

/**
 * A 16-bit number from network to host order: Python's `socket.ntohs`. The same swap as `htons`.
 *
 * @example
 * ntohs(htons(4000)); // 4000
 */
export const ntohs: (network: number) => number = htons;

/**
 * A 32-bit number from network to host order, unsigned: Python's `socket.ntohl`. The same swap as `htonl`.
 *
 * @example
 * ntohl(htonl(4000)); // 4000
 */
export const ntohl: (network: number) => number = htonl;
