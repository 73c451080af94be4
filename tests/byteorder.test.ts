// lib/byteorder.ts: the same numbers as CPython, and the same bytes on the wire.

import { expect, setDefaultTimeout, test } from "bun:test";

import { htonl, htons, ntohl, ntohs } from "../lib/byteorder.ts";
import { connect } from "../lib/socket.ts";
import { failure, PATIENCE_MS, python, testPython } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const SHORTS = [0, 1, 255, 256, 258, 0x1234, 0x8000, 0xffff];
const LONGS = [0, 1, 255, 65_536, 0x12345678, 0x7fffffff, 0x80000000, 0xffffffff];

test("there and back is the same number, unsigned", () => {
  for (const short of SHORTS) expect(ntohs(htons(short))).toBe(short);
  for (const long of LONGS) expect(ntohl(htonl(long))).toBe(long);
  for (const long of LONGS) expect(htonl(long)).toBeGreaterThanOrEqual(0);
});

test("in memory, a number in network order is big-endian", () => {
  for (const short of SHORTS) {
    expect(Buffer.from(Uint16Array.of(htons(short)).buffer).readUInt16BE()).toBe(short);
  }
  for (const long of LONGS) {
    expect(Buffer.from(Uint32Array.of(htonl(long)).buffer).readUInt32BE()).toBe(long);
  }
});

test("refuses what does not fit, with the value", async () => {
  for (const [call, value] of [
    [htons, 65_536],
    [ntohs, -1],
    [htonl, 2 ** 32],
    [ntohl, -1],
    [htons, 1.5],
    [htonl, NaN],
  ] as const) {
    const error = await failure(() => call(value));
    expect(error).toBeInstanceOf(RangeError);
    expect(error.message).toContain(String(value));
  }
  expect(await failure(() => htons("1" as any))).toBeInstanceOf(TypeError);
});

testPython("agrees with CPython, number by number and on the wire", async () => {
  await using peer = python(
    `
shorts, longs = eval(sys.argv[1]), eval(sys.argv[2])
print("numbers", [socket.htons(n) for n in shorts], [socket.htonl(n) for n in longs])
conn, _ = listen().accept()
for n in longs: assert struct.unpack("!I", conn.recv(4, socket.MSG_WAITALL)) == (n,)
print("all read")`,
    JSON.stringify(SHORTS),
    JSON.stringify(LONGS),
  );
  const [, shorts, longs] = await peer.until(/numbers (\[.*\]) (\[.*\])\n/);
  expect(SHORTS.map(htons)).toEqual(JSON.parse(shorts!));
  expect(LONGS.map(htonl)).toEqual(JSON.parse(longs!));
  using conn = await connect({ port: await peer.port() });
  for (const long of LONGS) await conn.sendAll(Buffer.from(Uint32Array.of(htonl(long)).buffer));
  await peer.until(/all read/);
});
