// lib/websocket.ts, RFC 6455 clause by clause, against raw sockets; websocket-server and websocket-client;
// and other people's code as peers: Bun's, Node's, the package `ws`, a real browser.

import fc from "fast-check";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, jest, test } from "bun:test";

import { serve } from "../lib/serve.ts";
import { connect, listen, type Socket, socketpair } from "../lib/socket.ts";
import { Inbox, waiting } from "../lib/socket/queues.ts";
import {
  acceptWebSocket,
  type Message,
  openWebSocket,
  type WebSocketConnection,
} from "../lib/websocket.ts";
import * as frames from "../lib/websocket/frames.ts";
import { makeCertificate } from "../scripts/secure/certificate.ts";
import {
  failure,
  fails,
  openPage,
  pattern,
  Process,
  recvAll,
  script,
  testBrowser,
  turn,
  untilTrue,
} from "./helpers.ts";

const MIB = 1 << 20;

// As in fuzz.test.ts.
const seed = process.env.FUZZ_SEED === undefined ? {} : { seed: Number(process.env.FUZZ_SEED) };
const runs = (times: number) => ({ numRuns: Number(process.env.FUZZ_RUNS ?? times), ...seed });

// ---- frames

/** A frame built byte by byte, as the RFC defines it; the options can also make it invalid. */
function frame(
  opcode: number,
  payload: string | Uint8Array = "",
  { final = true, reserved = 0, masked = true, form = 0, length = -1 } = {},
): Buffer {
  const data = Buffer.from(payload as Uint8Array);
  const told = length < 0 ? data.length : length;
  const bytes = form || (told < 126 ? 1 : told < 65_536 ? 3 : 9);
  const size = Buffer.alloc(bytes);
  if (bytes === 1) size[0] = told;
  if (bytes === 3) size.writeUInt16BE(told, 1);
  if (bytes === 9) size.writeBigUInt64BE(BigInt(told), 1);
  if (bytes > 1) size[0] = bytes === 3 ? 126 : 127;
  if (masked) size[0]! |= 0x80;
  const key = masked ? Buffer.from([0x37, 0xfa, 0x21, 0x3d]) : Buffer.alloc(0);
  if (masked) data.forEach((byte, i) => (data[i] = byte ^ key[i % 4]!));
  return Buffer.concat([Buffer.of((final ? 0x80 : 0) | (reserved << 4) | opcode), size, key, data]);
}

const { MORE, TEXT, BINARY, CLOSE, PING, PONG } = frames;
const open = { final: false };
const status = (code: number, reason = "") =>
  Buffer.concat([Buffer.of(code >> 8, code), Buffer.from(reason)]);

/** What a decoder makes of these pieces: `opcode:payload` for each frame. */
function decoded(pieces: Uint8Array[], masked = true, maxBytes = MIB): string[] {
  const inbox = new Inbox();
  const take = frames.splitter(masked, maxBytes, new Inbox());
  const got: string[] = [];
  for (const piece of pieces) {
    inbox.push(Buffer.from(piece));
    for (let one = take(inbox); one !== null; one = take(inbox)) {
      if (one.opcode !== MORE) got.push(`${one.opcode}:${one.payload.toString("latin1")}`);
    }
  }
  return got;
}

describe("frames", () => {
  test("the examples of section 5.7", () => {
    const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");
    expect(frames.encode(TEXT, "Hello")).toEqual(hex("81 05 48 65 6c 6c 6f"));
    const masked = hex("81 85 37 fa 21 3d 7f 9f 4d 51 58");
    expect(frames.encode(TEXT, "Hello", hex("37fa213d").readInt32LE())).toEqual(masked);
    expect(decoded([masked])).toEqual(["1:Hello"]);
    expect(decoded([hex("01 03 48 65 6c"), hex("80 02 6c 6f")], false)).toEqual(["1:Hello"]);
    expect(frames.encode(PING, "Hello")).toEqual(hex("89 05 48 65 6c 6c 6f"));
    const head = (bytes: number, length: number) =>
      frames.encode(BINARY, new Uint8Array(bytes)).subarray(0, length);
    expect(head(256, 4)).toEqual(hex("82 7e 01 00"));
    expect(head(65_536, 10)).toEqual(hex("82 7f 00 00 00 00 00 01 00 00"));
  });

  test.each([0, 1, 3, 125, 126, 127, 65_535, 65_536, MIB])(
    "a message of %i bytes, both ways, in the shortest form",
    (length) => {
      const payload = pattern(length);
      const wire = frame(BINARY, payload);
      expect(frames.encode(BINARY, payload, wire.readInt32LE(wire.length - length - 4))).toEqual(
        wire,
      );
      expect(frames.encode(BINARY, payload)).toEqual(frame(BINARY, payload, { masked: false }));
      const cuts = length > 200 ? [1, 2, 9, wire.length - 1] : wire.keys();
      for (const cut of cuts) {
        const got = decoded([wire.subarray(0, cut), wire.subarray(cut)]);
        expect(got).toEqual([`2:${payload.toString("latin1")}`]);
      }
    },
  );

  test("masking is the RFC's, byte for byte, wherever in memory the bytes are", () => {
    fc.assert(
      fc.property(fc.nat(70), fc.nat(9), fc.integer(), (length, offset, key) => {
        const bytes = pattern(length + offset).subarray(offset);
        const keys = Buffer.alloc(4);
        keys.writeInt32LE(key);
        const wanted = Buffer.from(bytes);
        for (let i = 0; i < length; i++) wanted[i]! ^= keys[i % 4]!;
        frames.mask(bytes, key);
        expect(bytes.equals(wanted)).toBe(true);
      }),
      runs(2_000),
    );
  });

  test("any messages, in any fragments with control frames between them, however cut: the same", () => {
    const message = fc.record({
      text: fc.boolean(),
      fragments: fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 5 }),
      between: fc.array(fc.constantFrom(PING, PONG), { maxLength: 2 }),
    });
    const cuts = fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 9 });
    fc.assert(
      fc.property(
        fc.array(message, { maxLength: 8 }),
        cuts,
        fc.boolean(),
        (list, sizes, masked) => {
          const wire: Buffer[] = [];
          const wanted: string[] = [];
          for (const { text, fragments, between } of list) {
            const opcode = text ? TEXT : BINARY;
            for (const [i, payload] of fragments.entries()) {
              const final = i === fragments.length - 1;
              wire.push(frame(i === 0 ? opcode : MORE, payload, { final, masked }));
              if (final) continue;
              wire.push(...between.map((control) => frame(control, `${i}`, { masked })));
              wanted.push(...between.map((control) => `${control}:${i}`));
            }
            wanted.push(`${opcode}:${Buffer.concat(fragments).toString("latin1")}`);
          }
          const all = Buffer.concat(wire);
          const pieces: Buffer[] = [];
          for (let at = 0, i = 0; at < all.length; at += sizes[i++ % sizes.length]!) {
            pieces.push(all.subarray(at, at + sizes[i % sizes.length]!));
          }
          expect(decoded(pieces, masked)).toEqual(wanted);
        },
      ),
      runs(1_000),
    );
  });

  test("any bytes at all are frames or a breach, and nothing else", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), fc.boolean(), (bytes, masked) => {
        try {
          decoded([bytes], masked, 100);
        } catch (error) {
          expect(error).toBeInstanceOf(frames.Breach);
          expect([1002, 1009]).toContain((error as frames.Breach).status);
        }
      }),
      runs(3_000),
    );
  });

  test("the limit is that of a message, not of all that are in fragments", () => {
    const message = [frame(TEXT, "x".repeat(60), open), frame(MORE, "y".repeat(40))];
    const got = decoded([...message, ...message, ...message], true, 100);
    expect(got).toEqual(Array(3).fill(`1:${"x".repeat(60)}${"y".repeat(40)}`));
  });

  test("a megabyte in fragments of one byte is held in little more than that", async () => {
    const inbox = new Inbox();
    const take = frames.splitter(true, MIB, new Inbox());
    const piece = frame(MORE, "x", open);
    const block = Buffer.concat(Array.from({ length: 1024 }, () => piece));
    inbox.push(frame(TEXT, "", open));
    Bun.gc(true);
    const before = process.memoryUsage().rss;
    for (let i = 0; i < 1024; i++) {
      inbox.push(Buffer.from(block));
      while (take(inbox) !== null);
    }
    while (process.memoryUsage().rss - before > 40 * MIB) {
      Bun.gc(true); // free memory that is not returned to the system yet does not count
      await turn();
    }
    inbox.push(frame(MORE));
    expect(take(inbox)!.payload.length).toBe(MIB);
  });
});

// ---- one side of ours, and a raw socket

const KEY = "dGhlIHNhbXBsZSBub25jZQ==";

/** A client's request, with some fields changed (undefined: left out) or added. */
function request(changes: Record<string, string | undefined> = {}, line = "GET /chat HTTP/1.1") {
  const fields = {
    Host: "server.example",
    Upgrade: "websocket",
    Connection: "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
    ...changes,
  };
  const lines = Object.entries(fields).filter(([, value]) => value !== undefined);
  return [line, ...lines.map(([name, value]) => `${name}: ${value}`), "", ""].join("\r\n");
}

/** Receives up to the empty line. */
async function recvHead(conn: Socket): Promise<string> {
  let head = "";
  while (!head.endsWith("\r\n\r\n")) head += await conn.recvExactly(1);
  return head;
}

/** Our server's end, and a raw socket as its client, after the handshake. */
async function served(
  options = {},
): Promise<{ ours: WebSocketConnection; conn: Socket; raw: Socket } & Disposable> {
  const both = await socketpair();
  await both.far.sendAll(request());
  const ours = await acceptWebSocket(both.near, options);
  await recvHead(both.far);
  const dispose = () => both[Symbol.dispose]();
  return { ours: ours!, conn: both.near, raw: both.far, [Symbol.dispose]: dispose };
}

async function all(socket: WebSocketConnection): Promise<Message[]> {
  return Array.fromAsync(socket);
}

/** Receives the next frame from a raw socket, and unmasks it. */
async function recvFrame(
  conn: Socket,
): Promise<{ opcode: number; payload: Buffer; masked: boolean }> {
  const head = await conn.recvExactly(2);
  let length = head[1]! & 0x7f;
  if (length === 126) length = (await conn.recvExactly(2)).readUInt16BE();
  else if (length === 127) length = Number((await conn.recvExactly(8)).readBigUInt64BE());
  const masked = head[1]! >= 0x80;
  const key = masked ? await conn.recvExactly(4) : Buffer.alloc(4);
  const payload = (await conn.recvExactly(length)).map((byte, i) => byte ^ key[i % 4]!);
  expect(head[0]! & 0xf0).toBe(0x80);
  return { opcode: head[0]! & 0x0f, payload: Buffer.from(payload), masked };
}

/** Checks that the next frame is a Close with this status, and that FIN follows. Gives the reason. */
async function closesWith(conn: Socket, code: number): Promise<string> {
  const { opcode, payload } = await recvFrame(conn);
  expect(opcode).toBe(CLOSE);
  expect(payload.length === 0 ? 1005 : payload.readUInt16BE()).toBe(code);
  expect(await conn.recv(1)).toHaveLength(0);
  return String(payload.subarray(2));
}

describe("messages", () => {
  test("text is a string, binary is bytes, both ways; the server does not mask, the client does", async () => {
    using both = await socketpair();
    const opening = openWebSocket(both.near);
    const server = (await acceptWebSocket(both.far))!;
    const client = await opening;
    for (const message of [
      "",
      "안녕 👋",
      "\ufeffkept",
      "x".repeat(MIB),
      Buffer.alloc(0),
      pattern(300),
    ]) {
      await client.send(message);
      const got = await server[Symbol.asyncIterator]().next();
      expect(got).toEqual({ value: message, done: false });
      await server.send(got.value!);
      expect((await client[Symbol.asyncIterator]().next()).value).toEqual(message);
    }
    await Promise.all([client.send("last"), server.send("last")]);
    const [theirs] = await Promise.all([all(server), client.close(4000, "enough")]);
    expect(theirs).toEqual(["last"]);
    expect(server.peerClose).toEqual({ code: 4000, reason: "enough" });
    expect(client.peerClose).toEqual({ code: 4000, reason: "" });
    await fails(client.send("more"), "EPIPE");
    await fails(server.send("more"), "EPIPE");
    await fails(both.near.recv(1), "EBADF");
  });

  test("what the server sends is unmasked, what the client sends is masked anew each time", async () => {
    using both = await served();
    await both.ours.send("hello");
    expect(await both.raw.recvExactly(7)).toEqual(Buffer.from("\x81\x05hello", "latin1"));
    using other = await socketpair();
    const opening = openWebSocket(other.near, { host: "server.example", path: "/chat?a=b" });
    const head = await recvHead(other.far);
    expect(head).toStartWith("GET /chat?a=b HTTP/1.1\r\nHost: server.example\r\n");
    const key = /^sec-websocket-key: (.*)\r$/im.exec(head)![1]!;
    expect(Buffer.from(key, "base64")).toHaveLength(16);
    await other.far.sendAll(answerTo(key));
    const client = await opening;
    const seen = new Set<string>();
    for (let i = 0; i < 3; i++) {
      await client.send("hello");
      const wire = await other.far.recvExactly(11);
      seen.add(String(wire));
      expect(decoded([wire])).toEqual(["1:hello"]);
    }
    expect(seen.size).toBe(3);
  });

  test.each([
    ["a fragment", frame(MORE, "x", open)],
    ["a ping", frame(PING)],
  ])(
    "one in fragments has the idle timeout as a whole, however often %s comes",
    async (_, bytes) => {
      using both = await served();
      both.conn.setIdleTimeout(300);
      const receiving = all(both.ours);
      receiving.catch(() => {});
      await both.raw.sendAll(frame(TEXT, "x", open));
      const dribbling = setInterval(() => both.raw.trySend(bytes), 20);
      await fails(receiving, "ETIMEDOUT");
      clearInterval(dribbling);
      expect(both.conn.bytesReceived).toBeGreaterThan(request().length + 3 * bytes.length);
    },
  );

  test("above the limit for all connections, messages in fragments with pings between are completed", async () => {
    const pairs = [await served(), await served(), await served()];
    const before = waiting.limit;
    waiting.limit = waiting.bytes + MIB;
    const part = pattern(450_000);
    const got = pairs.map(async ({ ours, conn }) => {
      conn.setIdleTimeout(10_000);
      return (await ours[Symbol.asyncIterator]().next()).value;
    });
    for (const { raw } of pairs) await raw.sendAll(frame(BINARY, part, open));
    while (!waiting.isFull) await turn();
    for (const { raw } of pairs) await raw.sendAll(frame(PING));
    for (const { raw } of pairs) expect((await recvFrame(raw)).opcode).toBe(PONG);
    for (const { raw } of pairs) await raw.sendAll(frame(MORE, part));
    for (const message of await Promise.all(got)) expect(message).toHaveLength(900_000);
    waiting.limit = before;
    for (const pair of pairs) pair[Symbol.dispose]();
  });

  test("a fragment that came before a reset is not forgotten: a part is never called the whole", async () => {
    using both = await served();
    both.conn.setTimeout(50);
    const messages = both.ours[Symbol.asyncIterator]();
    await both.raw.sendAll(frame(TEXT, "pay 1000 to ", open));
    await fails(messages.next(), "ETIMEDOUT");
    await both.raw.sendAll(frame(MORE, "nobody"));
    const came = both.conn.bytesReceived + frame(MORE, "nobody").length;
    while (both.conn.bytesReceived < came) await turn();
    both.raw.reset();
    await both.conn.closed;
    expect((await messages.next()).value).toBe("pay 1000 to nobody");
  });

  test("fragments count in what waits at all connections, until the message is whole or the end", async () => {
    using both = await served();
    const before = waiting.bytes;
    const receiving = both.ours[Symbol.asyncIterator]();
    const first = receiving.next();
    await both.raw.sendAll(frame(TEXT, "x".repeat(1000), open));
    while (waiting.bytes !== before + 1000) await turn();
    await both.raw.sendAll(frame(MORE));
    expect((await first).value).toBe("x".repeat(1000));
    expect(waiting.bytes).toBe(before);
    const second = receiving.next();
    second.catch(() => {});
    await both.raw.sendAll(frame(TEXT, "x".repeat(1000), open));
    while (waiting.bytes !== before + 1000) await turn();
    both.conn.reset();
    await fails(second, "EBADF");
    expect(waiting.bytes).toBe(before);
  });

  test("5,000 fragments, pings between them: one message, and each ping its pong", async () => {
    using both = await served();
    const received = both.ours[Symbol.asyncIterator]().next();
    const sending = (async () => {
      for (let i = 0; i < 5_000; i++) {
        const final = i === 4_999;
        await both.raw.sendAll(frame(i === 0 ? TEXT : MORE, "한", { final }));
        if (i % 1_000 === 0) await both.raw.sendAll(frame(PING, `${i}`));
      }
    })();
    expect((await received).value).toBe("한".repeat(5_000));
    await sending;
    for (let i = 0; i < 5_000; i += 1_000) {
      expect(await recvFrame(both.raw)).toEqual({
        opcode: PONG,
        payload: Buffer.from(`${i}`),
        masked: false,
      });
    }
  });

  test("byte by byte, and what comes right behind the handshake", async () => {
    using both = await socketpair();
    const wire = Buffer.concat([
      Buffer.from(request()),
      frame(TEXT, "안", open),
      frame(MORE, "녕"),
      frame(PING, ""),
      frame(BINARY, pattern(200)),
      frame(CLOSE, status(1000)),
    ]);
    const receiving = (async () => all((await acceptWebSocket(both.near))!))();
    for (const byte of wire.subarray(0, 150)) await both.far.sendAll(Buffer.of(byte));
    await turn();
    for (const byte of wire.subarray(150)) await both.far.sendAll(Buffer.of(byte));
    expect(await receiving).toEqual(["안녕", pattern(200)]);
    using other = await socketpair();
    await other.far.sendAll(wire);
    expect(await all((await acceptWebSocket(other.near))!)).toEqual(["안녕", pattern(200)]);
  });

  test("UTF-8 may be cut between fragments, within a character", async () => {
    using both = await served();
    const bytes = Buffer.from("가👋");
    for (const [i, byte] of bytes.entries()) {
      await both.raw.sendAll(
        frame(i === 0 ? TEXT : MORE, Buffer.of(byte), { final: i === bytes.length - 1 }),
      );
    }
    await both.raw.sendAll(frame(CLOSE));
    expect(await all(both.ours)).toEqual(["가👋"]);
  });

  test("one receives at a time; breaking out loses nothing", async () => {
    using both = await served();
    const first = both.ours[Symbol.asyncIterator]().next();
    await fails(all(both.ours), "EBUSY");
    await both.raw.sendAll(Buffer.concat([frame(TEXT, "a"), frame(TEXT, "b"), frame(TEXT, "c")]));
    expect((await first).value).toBe("a");
    for await (const message of both.ours) {
      expect(message).toBe("b");
      break;
    }
    const rest = all(both.ours);
    await turn();
    await fails(all(both.ours), "EBUSY"); // and the first receiver is not disturbed
    const closing = both.ours.close();
    await both.raw.sendAll(frame(CLOSE));
    await closesWith(both.raw, 1000);
    both.raw.close();
    await closing;
    expect(await rest).toEqual(["c"]);
    expect(both.ours.peerClose).toEqual({ code: 1005, reason: "" });
    expect(await all(both.ours)).toEqual([]);
  });

  test("refuses to send what is no message", async () => {
    using both = await served();
    expect(await failure(both.ours.send(5 as never))).toBeInstanceOf(TypeError);
    expect(await failure(both.ours.send(new ArrayBuffer(3) as never))).toBeInstanceOf(TypeError);
    expect(await failure(openWebSocket(both.raw, { path: "a b" }))).toBeInstanceOf(TypeError);
    expect(await failure(openWebSocket(both.raw, { host: "a\r\nb" }))).toBeInstanceOf(TypeError);
    await both.ours.send("fine");
  });
});

const lone = Buffer.from([0xed, 0xa0, 0x80]); // half of a surrogate pair
const breaches: [string, number, Buffer[]][] = [
  ["a reserved bit", 1002, [frame(TEXT, "x", { reserved: 4 })]],
  ["another", 1002, [frame(PING, "", { reserved: 1 })]],
  ...[3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map(
    (opcode) => [`opcode ${opcode}`, 1002, [frame(opcode, "x")]] as [string, number, Buffer[]],
  ),
  ["an unmasked frame", 1002, [frame(TEXT, "x", { masked: false })]],
  ["a ping of 126 bytes", 1002, [frame(PING, "x".repeat(126))]],
  ["a fragment of a ping", 1002, [frame(PING, "x", open)]],
  ["a Close of 126 bytes", 1002, [frame(CLOSE, status(1000, "x".repeat(124)))]],
  ["a fragment without a beginning", 1002, [frame(MORE, "x")]],
  ["a second beginning", 1002, [frame(TEXT, "x", open), frame(TEXT, "y")]],
  [
    "a fragment behind the last",
    1002,
    [frame(TEXT, "x", open), frame(MORE, "y"), frame(MORE, "z")],
  ],
  ["a length of 125 in the second form", 1002, [frame(TEXT, "x".repeat(125), { form: 3 })]],
  ["a length of 65,535 in the third", 1002, [frame(TEXT, "x".repeat(65_535), { form: 9 })]],
  ["a length with the highest bit", 1002, [Buffer.from("82ffffffffffffffffff", "hex")]],
  ["a length of 2^62", 1009, [Buffer.from("82ff4000000000000000", "hex")]],
  ["a byte too many", 1009, [frame(BINARY, "", { length: 1001 })]],
  ["fragments too many", 1009, [frame(TEXT, "x".repeat(999), open), frame(MORE, "yz", open)]],
  ["text that is no UTF-8", 1007, [frame(TEXT, Buffer.of(0xff))]],
  ["UTF-8 cut off", 1007, [frame(TEXT, Buffer.from("가").subarray(0, 2))]],
  ["half a surrogate pair", 1007, [frame(TEXT, lone, open), frame(MORE)]],
  ["an overlong form", 1007, [frame(TEXT, Buffer.of(0xc0, 0xaf))]],
  ["a Close of one byte", 1002, [frame(CLOSE, "x")]],
  ["a Close whose reason is no UTF-8", 1007, [frame(CLOSE, Buffer.concat([status(1000), lone]))]],
  ...[0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535].map(
    (code) =>
      [`a Close of ${code}`, 1002, [frame(CLOSE, status(code))]] as [string, number, Buffer[]],
  ),
];
const codes: Record<number, string> = { 1002: "EPROTO", 1007: "EILSEQ", 1009: "EMSGSIZE" };

describe("what breaks the protocol is told, and ends the connection", () => {
  test.each(breaches)("%s: %i", async (_, code, wire) => {
    using both = await served({ maxBytes: 1000 });
    const receiving = all(both.ours);
    receiving.catch(() => {});
    await both.raw.sendAll(Buffer.concat(wire));
    expect(await closesWith(both.raw, code)).not.toBe("");
    both.raw.close();
    const error = await fails(receiving, codes[code]!);
    expect(error.reason).toBeString();
    await fails(both.ours.send("x"), "EPIPE");
    await both.ours.close();
  });

  test("what came before it is delivered", async () => {
    using both = await served();
    await both.raw.sendAll(Buffer.concat([frame(TEXT, "good"), frame(3), frame(TEXT, "late")]));
    both.raw.shutdown("write");
    const got: Message[] = [];
    const loop = async () => {
      for await (const message of both.ours) got.push(message);
    };
    await fails(loop(), "EPROTO");
    expect(got).toEqual(["good"]);
    await closesWith(both.raw, 1002);
  });

  test("a client refuses masked frames", async () => {
    using both = await opened();
    const receiving = all(both.ours);
    receiving.catch(() => {});
    await both.raw.sendAll(frame(TEXT, "x"));
    const { opcode, payload, masked } = await recvFrame(both.raw);
    expect([opcode, payload.readUInt16BE(), masked]).toEqual([CLOSE, 1002, true]);
    both.raw.close();
    await fails(receiving, "EPROTO");
  });

  test("a length that lies costs nothing: what does not come is waited for, and cut off by the end", async () => {
    using both = await served();
    const receiving = all(both.ours);
    receiving.catch(() => {});
    await both.raw.sendAll(frame(BINARY, "abc", { length: MIB }));
    await turn();
    both.raw.shutdown("write");
    await fails(receiving, "EINCOMPLETE");
  });

  test("an end without a closing handshake is an error; so is a reset", async () => {
    using cut = await served();
    await cut.raw.sendAll(frame(TEXT, "whole"));
    cut.raw.close();
    const error = await fails(all(cut.ours), "EINCOMPLETE");
    expect(error.reason).toBe("it ended without a closing handshake");
    expect(cut.ours.peerClose).toBe(null);
    using broken = await served();
    const receiving = all(broken.ours);
    receiving.catch(() => {});
    broken.raw.reset();
    await fails(receiving, "ECONNRESET");
    await broken.ours.close();
  });
});

describe("closing", () => {
  test.each([
    1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999,
  ])("%i may be said, and is answered", async (code) => {
    using both = await served();
    await both.raw.sendAll(frame(CLOSE, status(code, "이유")));
    expect(await all(both.ours)).toEqual([]);
    expect(both.ours.peerClose).toEqual({ code, reason: "이유" });
    expect(await closesWith(both.raw, code)).toBe("");
    using other = await served();
    const closing = other.ours.close(code, "이유");
    const { payload } = await recvFrame(other.raw);
    expect([payload.readUInt16BE(), String(payload.subarray(2))]).toEqual([code, "이유"]);
    await other.raw.sendAll(frame(CLOSE, status(code)));
    other.raw.close();
    await closing;
  });

  test.each([0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 1000.5, Number.NaN, 65_536])(
    "%d may not be said",
    async (code) => {
      using both = await served();
      const error = await failure(both.ours.close(code));
      expect(error).toBeInstanceOf(RangeError);
      expect(error.message).toContain(`${code}`);
      await both.ours.send("it goes on");
    },
  );

  test("a reason has at most 123 bytes", async () => {
    using both = await served();
    expect(await failure(both.ours.close(1000, `${"이".repeat(41)}.`))).toBeInstanceOf(RangeError);
    const closing = both.ours.close(1000, "이".repeat(41));
    expect((await recvFrame(both.raw)).payload).toHaveLength(125);
    both.raw.close();
    await closing;
  });

  test("an empty Close is 1005 here, and answered by one", async () => {
    using both = await served();
    await both.raw.sendAll(frame(CLOSE));
    expect(await all(both.ours)).toEqual([]);
    expect(both.ours.peerClose).toEqual({ code: 1005, reason: "" });
    await closesWith(both.raw, 1005);
  });

  test("nothing is sent behind a Close, and what comes before its answer is dropped", async () => {
    using both = await served();
    const receiving = all(both.ours);
    await turn();
    const closing = both.ours.close();
    await fails(both.ours.send("late"), "EPIPE");
    await both.raw.sendAll(
      Buffer.concat([frame(TEXT, "crossing"), frame(PING), frame(CLOSE, status(1000))]),
    );
    await closesWith(both.raw, 1000); // and no pong
    both.raw.close();
    await closing;
    expect(await receiving).toEqual([]);
  });

  test("without a receiver the closing handshake is whole, too; twice is fine", async () => {
    using both = await served();
    await both.raw.sendAll(frame(TEXT, "unread"));
    const closing = [both.ours.close(1000), both.ours.close(1001)];
    await both.raw.sendAll(frame(CLOSE, status(1000)));
    await closesWith(both.raw, 1000);
    both.raw.close();
    await Promise.all(closing);
    expect(both.ours.peerClose).toEqual({ code: 1000, reason: "" });
    expect(await all(both.ours)).toEqual([]);
  });

  test("the client leaves it to the server to end the connection", async () => {
    using both = await opened();
    const closing = both.ours.close();
    expect((await recvFrame(both.raw)).opcode).toBe(CLOSE);
    await both.raw.sendAll(frame(CLOSE, status(1000), { masked: false }));
    for (let i = 0; i < 3; i++) await turn();
    expect(both.raw.tryRecv(1)).toBe(null); // no FIN yet
    both.raw.shutdown("write");
    await closing;
    expect(await both.raw.recv(1)).toHaveLength(0);
  });

  test("a peer that does not answer, or does not even read, is waited for 2 s at most", async () => {
    using mute = await served();
    using deaf = await served();
    let pending = 0;
    while (pending === 0) {
      const sent = deaf.ours.send(new Uint8Array(MIB));
      sent.catch(() => {});
      pending = (await Promise.race([sent.then(() => 0), turn().then(() => 1)])) as number;
    }
    const before = performance.now();
    const receiving = all(mute.ours);
    await Promise.all([mute.ours.close(), deaf.ours.close()]);
    expect(performance.now() - before).toBeGreaterThan(900);
    expect(await receiving).toEqual([]);
  });

  test("a signal ends what a server receives: behind what had come, with 1001", async () => {
    const stop = new AbortController();
    using server = listen({ port: 0 });
    const got: Message[] = [];
    const handle = async (conn: Socket, signal: AbortSignal) => {
      const socket = await acceptWebSocket(conn, { signal });
      for await (const message of socket!) {
        got.push(message);
        if (message === "one") {
          // Two more frames that have arrived and are not read yet: a message, and the beginning of one.
          await raw.sendAll(Buffer.concat([frame(TEXT, "two"), frame(TEXT, "cut", open)]));
          await conn.waitReadable();
          stop.abort();
        }
        await socket!.send(message);
      }
    };
    const limits = { maxConnections: 10, idleTimeout: 60, signal: stop.signal };
    const serving = serve(server, handle, limits);
    using idle = await connect(server.address);
    using raw = await connect(server.address);
    for (const conn of [idle, raw]) {
      await conn.sendAll(request());
      await recvHead(conn);
    }
    await raw.sendAll(frame(TEXT, "one"));
    for (const text of ["one", "two"]) expect(String((await recvFrame(raw)).payload)).toBe(text);
    for (const conn of [idle, raw]) {
      await closesWith(conn, 1001);
      // The server has sent FIN, and does not reset the connection when something still comes.
      await conn.sendAll(frame(TEXT, "late"));
      for (let i = 0; i < 3; i++) await turn();
      await conn.sendAll(frame(CLOSE, status(1001)));
      conn.close();
    }
    await serving;
    expect(got).toEqual(["one", "two"]);
  });
});

// ---- the opening handshake

function answerTo(
  key: string,
  changes: Record<string, string | undefined> = {},
  line = "HTTP/1.1 101 Switching Protocols",
) {
  const accept = new Bun.CryptoHasher("sha1")
    .update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
    .digest("base64");
  const fields = {
    Upgrade: "websocket",
    Connection: "Upgrade",
    "Sec-WebSocket-Accept": accept,
    ...changes,
  };
  const lines = Object.entries(fields).filter(([, value]) => value !== undefined);
  return [line, ...lines.map(([name, value]) => `${name}: ${value}`), "", ""].join("\r\n");
}

/** Our client's end, and a raw socket as its server, after the handshake. */
async function opened(
  changes: Record<string, string | undefined> = {},
  line?: string,
  behind: Uint8Array = Buffer.alloc(0),
): Promise<{ ours: WebSocketConnection; raw: Socket } & Disposable> {
  const both = await socketpair();
  const opening = openWebSocket(both.near);
  const key = /^sec-websocket-key: (.*)\r$/im.exec(await recvHead(both.far))![1]!;
  await both.far.sendAll(Buffer.concat([Buffer.from(answerTo(key, changes, line)), behind]));
  return { ours: await opening, raw: both.far, [Symbol.dispose]: () => both[Symbol.dispose]() };
}

describe("the opening handshake", () => {
  test("the example of section 1.3", async () => {
    using both = await socketpair();
    await both.far.sendAll(request());
    await acceptWebSocket(both.near);
    const head = await recvHead(both.far);
    expect(head).toStartWith("HTTP/1.1 101 Switching Protocols\r\n");
    expect(head).toContain("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n");
  });

  const huge = "x".repeat(16 * 1024);
  test.each([
    ["as it should be", 101, request()],
    [
      "in other words",
      101,
      request({ Upgrade: "h2c, WebSocket", Connection: "keep-alive,upgrade" }),
    ],
    ["a page of the same host", 101, request({ Origin: "https://server.example" })],
    ["a page of a host that may", 101, request({ Origin: "http://friend.example:8080" })],
    ["a page of another host", 403, request({ Origin: "http://evil.example" })],
    ["a page of another port", 403, request({ Origin: "http://server.example:81" })],
    ["a page of no host", 403, request({ Origin: "null" })],
    ["two origins", 403, request({ Origin: "http://server.example, http://evil.example" })],
    ["another version", 426, request({ "Sec-WebSocket-Version": "8" })],
    ["no version", 426, request({ "Sec-WebSocket-Version": undefined })],
    ["no key", 400, request({ "Sec-WebSocket-Key": undefined })],
    ["a key that is none", 400, request({ "Sec-WebSocket-Key": "c2hvcnQ=" })],
    ["two keys", 400, request({ "sec-websocket-key": KEY })],
    ["no Connection", 400, request({ Connection: undefined })],
    ["another Connection", 400, request({ Connection: "close" })],
    ["no Host", 400, request({ Host: undefined })],
    ["two Hosts", 400, request({ host: "other.example" })],
    ["HTTP/1.0", 400, request({}, "GET / HTTP/1.0")],
    ["a field that is none", 400, request({ "a b": "c" })],
    ["a line break that is none", 400, request({ a: "b\nUpgrade: c" })],
    ["no HTTP", 400, "hello\r\n\r\n"],
    ["bytes", 400, "\0\r\n\r\n"],
    ["a POST", 405, request({}, "POST / HTTP/1.1")],
    ["a HEAD", 405, request({}, "HEAD / HTTP/1.1")],
    ["no upgrade", 426, request({ Upgrade: undefined })],
    ["another upgrade", 426, request({ Upgrade: "h2c" })],
    ["a head that is too long", 431, request({ a: huge })],
    ["a head without an end", 431, huge + huge],
  ])("%s: %i", async (_, code, wire) => {
    using both = await socketpair();
    const accepting = acceptWebSocket(both.near, { origins: ["http://friend.example:8080"] });
    await both.far.sendAll(wire);
    const head = await recvHead(both.far);
    expect(head).toStartWith(`HTTP/1.1 ${code} `);
    if (code === 101) return expect(await accepting).not.toBe(null);
    if (code === 426) expect(head).toMatch(/^sec-websocket-version: 13\r$/im);
    if (code === 405) expect(head).toMatch(/^allow: GET\r$/im);
    const length = Number(/^content-length: (\d+)\r$/im.exec(head)![1]);
    const rest = await recvAll(both.far);
    expect(rest).toHaveLength(length);
    both.far.close();
    expect(await accepting).toBe(null);
  });

  test("a head that is cut off is 400; nothing at all is no error", async () => {
    using cut = await socketpair();
    await cut.far.sendAll(request().slice(0, 50));
    cut.far.shutdown("write");
    expect(await acceptWebSocket(cut.near)).toBe(null);
    expect(await recvHead(cut.far)).toStartWith("HTTP/1.1 400 ");
    using silent = await socketpair();
    silent.far.shutdown("write");
    expect(await acceptWebSocket(silent.near)).toBe(null);
    silent.near.close();
    expect(await recvAll(silent.far)).toHaveLength(0);
  });

  test("a head has 10 s to be whole, however often a byte of it comes", async () => {
    using both = await socketpair();
    jest.useFakeTimers();
    try {
      const accepting = acceptWebSocket(both.near);
      await both.far.sendAll("GET / HTTP/1.1\r\n");
      jest.advanceTimersByTime(9_999);
      await both.far.sendAll("Host: server.example\r\n");
      for (let i = 0; i < 3; i++) await turn();
      expect(both.far.tryRecv(1)).toBe(null);
      jest.advanceTimersByTime(1);
      expect(await recvHead(both.far)).toStartWith("HTTP/1.1 400 ");
      both.far.close();
      expect(await accepting).toBe(null);
      using quick = await served();
      jest.advanceTimersByTime(60_000);
      await quick.raw.sendAll(frame(TEXT, "later"));
      expect((await quick.ours[Symbol.asyncIterator]().next()).value).toBe("later");
    } finally {
      jest.useRealTimers();
    }
  });

  test.each([
    ["it refuses", {}, "HTTP/1.1 403 Forbidden", "it answers 403 Forbidden"],
    ["it redirects", {}, "HTTP/1.1 302 Found", "it answers 302 Found"],
    ["another proof", { "Sec-WebSocket-Accept": "x" }, undefined, "its answer opens no WebSocket"],
    ["no Upgrade", { Upgrade: undefined }, undefined, "its answer opens no WebSocket"],
    ["no Connection", { Connection: undefined }, undefined, "its answer opens no WebSocket"],
    [
      "an extension nobody asked for",
      { "Sec-WebSocket-Extensions": "x" },
      undefined,
      "its answer opens no WebSocket",
    ],
    [
      "a protocol nobody asked for",
      { "Sec-WebSocket-Protocol": "x" },
      undefined,
      "its answer opens no WebSocket",
    ],
    ["no HTTP", {}, "220 mail.example ESMTP", "it does not speak HTTP/1.1"],
  ])("the client is not let through: %s", async (_, changes, line, reason) => {
    const error = await fails(opened(changes, line), "EPROTO");
    expect(error.reason).toBe(reason);
  });

  test("the client takes what comes right behind the answer", async () => {
    using both = await opened({}, undefined, frame(TEXT, "at once", { masked: false }));
    expect((await both.ours[Symbol.asyncIterator]().next()).value).toBe("at once");
  });
});

// ---- the scripts, and other people's code

const node = Bun.which("node");
function testNode(name: string, body: () => Promise<void>): void {
  if (node === null) test.skip(`${name} (skipped: no node)`, body);
  else test(name, body);
}

/** A program for Node, which finds the packages of this project. */
function nodeProgram(code: string, ...args: (string | number)[]): Process {
  const flags = ["--no-warnings", "--experimental-websocket", "--input-type=module", "-e"];
  return new Process([node!, ...flags, code, ...args.map(String)]);
}

/** What every client checks at an echo server, with the browsers' WebSocket API: Bun and Node have it, too. */
const visit = `
const socket = new WebSocket(url);
socket.binaryType = "arraybuffer";
await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject; });
const reply = () => new Promise((resolve, reject) => {
  socket.onmessage = ({ data }) => resolve(data);
  socket.onclose = ({ code }) => reject(new Error("closed with " + code));
});
for (const text of ["", "hello", "안녕 👋", "x".repeat(125), "x".repeat(126), "가".repeat(300_000)]) {
  socket.send(text);
  if ((await reply()) !== text) throw new Error("another text came back");
}
for (const length of [0, 1, 65_535, 65_536, 1 << 20]) {
  const bytes = Uint8Array.from({ length }, (_, i) => i * 7);
  socket.send(bytes);
  const got = new Uint8Array(await reply());
  if (got.length !== length || got.some((byte, i) => byte !== bytes[i])) throw new Error("other bytes");
}
const end = new Promise((resolve) => (socket.onclose = resolve));
socket.close(4001, "이유");
const { code, reason, wasClean } = await end;
`;

describe("websocket-server", () => {
  test("Bun's client", async () => {
    await using server = script("websocket-server", ["--port", "0"]);
    const url = `ws://127.0.0.1:${await server.port()}/`;
    const code = `const url = ${JSON.stringify(url)};${visit}console.log(code, reason, wasClean);`;
    await using client = new Process([process.execPath, "-e", code]);
    expect(await client.exit(), client.stderr).toBe(0);
    expect(client.stdout).toBe("4001  true\n");
    expect(server.stderr).toBe("");
  });

  testNode("Node's client", async () => {
    await using server = script("websocket-server", ["--port", "0"]);
    const url = `ws://127.0.0.1:${await server.port()}/`;
    const code = `const url = process.argv[1];${visit}console.log(code, wasClean);`;
    await using client = nodeProgram(code, url);
    expect(await client.exit(), client.stderr).toBe(0);
    expect(client.stdout).toBe("4001 true\n");
    expect(server.stderr).toBe("");
  });

  testNode(
    "the package ws: pings, fragments, and the compression that it offers is left out",
    async () => {
      await using server = script("websocket-server", ["--port", "0"]);
      const url = `ws://127.0.0.1:${await server.port()}/`;
      await using client = nodeProgram(
        `import { WebSocket } from "ws";
const url = process.argv[1];${visit}
console.log(code, wasClean);
const one = new WebSocket(url);
one.on("open", () => {
  console.log("extensions:", one.extensions);
  one.send("a", { fin: false }); one.ping("p"); one.send("b", { fin: false }); one.send("c", { fin: true });
});
one.on("pong", (data) => console.log("pong", String(data)));
one.on("message", (data, isBinary) => { console.log("message", String(data), isBinary); one.terminate(); });
one.on("close", (code) => console.log("closed", code));`,
        url,
      );
      expect(await client.exit(), client.stderr).toBe(0);
      expect(client.stdout.split("\n")).toEqual([
        "4001 true",
        "extensions: ",
        "pong p",
        "message abc false",
        "closed 1006",
        "",
      ]);
      await using refused = nodeProgram(
        `import { WebSocket } from "ws";
const one = new WebSocket(process.argv[1], { origin: "http://evil.example" });
one.on("error", (error) => console.log(error.message));`,
        url,
      );
      expect(await refused.exit()).toBe(0);
      expect(refused.stdout).toBe("Unexpected server response: 403\n");
    },
  );

  test("GET / is the page; what else is asked for without a WebSocket is 426", async () => {
    await using server = script("websocket-server", ["--port", "0"]);
    const url = `http://127.0.0.1:${await server.port()}`;
    const page = await fetch(`${url}/`);
    expect(page.status).toBe(200);
    expect(page.headers.get("content-type")).toBe("text/html; charset=utf-8");
    expect(await page.text()).toContain("<input");
    expect((await fetch(`${url}/other`)).status).toBe(426);
    expect((await fetch(`${url}/`, { method: "POST", body: "x".repeat(MIB) })).status).toBe(405);
    expect(server.stderr).toBe("");
  });

  test("at a signal, everybody is told 1001, and the process ends with 0", async () => {
    await using server = script("websocket-server", ["--port", "0"]);
    const url = `ws://127.0.0.1:${await server.port()}/`;
    const visitors = Array.from({ length: 5 }, async () => {
      const socket = new WebSocket(url);
      await new Promise((resolve) => (socket.onopen = resolve));
      socket.send("hello");
      await new Promise((resolve) => (socket.onmessage = resolve));
      return socket;
    });
    const ends = (await Promise.all(visitors)).map(
      (socket) => new Promise<CloseEvent>((resolve) => (socket.onclose = resolve)),
    );
    using idle = await connect({ port: await server.port() });
    await idle.sendAll(request());
    await recvHead(idle);
    server.kill("SIGTERM");
    for (const { code, wasClean } of await Promise.all(ends))
      expect([code, wasClean]).toEqual([1001, true]);
    await closesWith(idle, 1001);
    idle.close();
    expect(await server.exit()).toBe(0);
    expect(server.stderr).toBe("");
  });

  test.if(process.platform === "linux")(
    "one who does not read costs less than 10 MiB, and nobody else anything",
    async () => {
      await using server = script("websocket-server", ["--port", "0"]);
      const port = await server.port();
      const memory = () => {
        const status = readFileSync(`/proc/${server.pid}/status`, "utf8");
        return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)![1]) * 1024;
      };
      using other = await connect({ port });
      const socket = await openWebSocket(other);
      const loop = socket[Symbol.asyncIterator]();
      const echo = async () => {
        await socket.send(pattern(100_000));
        expect((await loop.next()).value).toEqual(pattern(100_000));
      };
      for (let i = 0; i < 100; i++) await echo(); // warm-up
      const before = memory();
      using deaf = await connect({ port });
      await deaf.sendAll(request());
      const flood = frame(BINARY, pattern(100_000));
      let sent = 0;
      const sending = (async () => {
        for (; ; sent++) await deaf.sendAll(flood);
      })();
      sending.catch(() => {});
      // The flood has stopped when `sent` stays the same while another client is served.
      for (let seen = -1; seen !== sent;) {
        seen = sent;
        for (let i = 0; i < 20; i++) await echo();
      }
      while (memory() - before > 10 * MIB) await echo(); // until the garbage collector has run
      deaf.reset();
      await echo();
    },
  );

  testBrowser(
    "in a browser: type, Enter, and the reply is there; Korean; <b> stays text",
    async () => {
      await using server = script("websocket-server", ["--port", "0"]);
      const url = `http://127.0.0.1:${await server.port()}/`;
      using page = await openPage(url);
      const state = "document.querySelector('output').textContent";
      await untilTrue(page, `${state} === "connected"`);
      const texts = ["hello", "안녕하세요", "<b>굵게</b> & 'so'", "x".repeat(70_000)];
      for (const text of texts) {
        await page.type(text);
        await page.press("Enter");
      }
      await untilTrue(page, `document.querySelectorAll("li").length === ${texts.length}`);
      const replies = "[...document.querySelectorAll('li')].map((li) => li.textContent)";
      expect(await page.evaluate(replies)).toEqual(texts);
      expect(await page.evaluate("document.querySelectorAll('b').length")).toBe(0);
      expect(await page.evaluate("document.querySelector('input').value")).toBe("");

      // Another site's page gets no WebSocket from here.
      using elsewhere = Bun.serve({ port: 0, fetch: () => new Response("elsewhere") });
      using foreign = await openPage(elsewhere.url.href);
      const attempt = `new Promise((resolve) => {
      const socket = new WebSocket(${JSON.stringify(url.replace("http", "ws"))});
      socket.onopen = () => resolve("open");
      socket.onclose = ({ code }) => resolve(code);
    })`;
      expect(await foreign.evaluate(attempt)).toBe(1006);

      server.kill("SIGTERM");
      await untilTrue(page, `${state}.includes("1001")`);
      expect(await server.exit()).toBe(0);
      await using again = script("websocket-server", ["--port", new URL(url).port]);
      await again.port();
      await page.press("Enter");
      await untilTrue(page, `${state} === "connected"`);
    },
  );
});

describe("over TLS", () => {
  const folder = mkdtempSync(join(tmpdir(), "websocket-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const { cert, key } = makeCertificate("localhost");
  for (const [name, pem] of Object.entries({ cert, key })) writeFileSync(join(folder, name), pem);
  const flags = ["--tls-cert", join(folder, "cert"), "--tls-key", join(folder, "key")];

  testBrowser("a page from https: speaks wss: with the server", async () => {
    await using server = script("websocket-server", ["--port", "0", ...flags]);
    using page = await openPage(`https://localhost:${await server.port()}/`, {
      anyCertificate: true, // it is self-signed
    });
    await untilTrue(page, `document.querySelector("output").textContent === "connected"`);
    await page.type("안녕 over TLS");
    await page.press("Enter");
    await untilTrue(page, `document.querySelector("li")?.textContent === "안녕 over TLS"`);
    expect(await page.evaluate("socket.url")).toStartWith("wss://localhost:");
  });

  test("Bun's client, and ours with Bun.serve", async () => {
    await using server = script("websocket-server", ["--port", "0", ...flags]);
    const url = `wss://localhost:${await server.port()}/`;
    const bun = new WebSocket(url, { tls: { ca: cert } });
    await new Promise((resolve) => (bun.onopen = resolve));
    const reply = new Promise<MessageEvent>((resolve) => (bun.onmessage = resolve));
    bun.send("x".repeat(100_000));
    expect((await reply).data).toBe("x".repeat(100_000));
    const end = new Promise<CloseEvent>((resolve) => (bun.onclose = resolve));
    server.kill("SIGTERM");
    expect((await end).code).toBe(1001);
    expect(await server.exit()).toBe(0);

    using theirs = Bun.serve({
      port: 0,
      tls: { cert, key },
      fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("no")),
      websocket: { message: (socket, message) => void socket.send(message) },
    });
    using conn = await connect({ host: "localhost", port: theirs.port!, tls: { ca: cert } });
    const socket = await openWebSocket(conn);
    await socket.send(pattern(200_000));
    expect((await socket[Symbol.asyncIterator]().next()).value).toEqual(pattern(200_000));
    await socket.close();
    expect(socket.peerClose).toEqual({ code: 1000, reason: "" });
  });
});

describe("websocket-client", () => {
  test("--message: > and the reply; lines, until an empty one or the end", async () => {
    await using server = script("websocket-server", ["--port", "0"]);
    const port = ["--port", `${await server.port()}`];
    await using one = script("websocket-client", [...port, "--message", "안녕 <b>"]);
    expect(await one.exit(), one.stderr).toBe(0);
    expect(one.stdout).toBe(">안녕 <b>\n");
    await using lines = script("websocket-client", [...port, "--path", "/안녕?a b"]);
    lines.type("first\n");
    await lines.until(/^>first\n/);
    lines.type(`${"long ".repeat(20_000)}\n\nnot sent\n`);
    expect(await lines.exit()).toBe(0);
    expect(lines.stdout).toBe(`>first\n>${"long ".repeat(20_000)}\n`);
    await using ended = script("websocket-client", port);
    ended.type("last");
    await ended.endInput();
    expect(await ended.exit()).toBe(0);
    expect(ended.stdout).toBe(">last\n");
    expect(server.stderr).toBe("");
  });

  test("says in one line when there is no WebSocket, or none any more", async () => {
    await using web = script("http-server", ["--port", "0"]);
    await using refused = script("websocket-client", [
      "--port",
      `${await web.port()}`,
      "--message",
      "x",
    ]);
    expect(await refused.exit()).toBe(1);
    expect(refused.stderr).toMatch(/^error: connection with 127.0.0.1:\d+: it answers 200 OK\n$/);
    await using wrong = script("websocket-client", ["--path", "no slash"]);
    expect(await wrong.exit()).toBe(2);
    expect(wrong.stderr).toBe('error: --path must begin with /, not "no slash"\n');

    await using server = script("websocket-server", ["--port", "0"]);
    await using waiting = script("websocket-client", ["--port", `${await server.port()}`]);
    waiting.type("hello\n");
    await waiting.until(/^>hello\n/);
    server.kill("SIGTERM");
    expect(await waiting.exit()).toBe(1);
    expect(waiting.stderr).toMatch(/^error: 127.0.0.1:\d+ has closed the connection: 1001\n$/);

    using listener = listen({ port: 0 }); // the reason of its Close must not command a terminal
    await using told = script("websocket-client", ["--port", `${listener.address.port}`]);
    const socket = (await acceptWebSocket(await listener.accept()))!;
    await socket.close(1000, "\x1b[31m");
    expect(await told.exit()).toBe(1);
    expect(told.stderr).toEndWith(" has closed the connection: 1000 ?[31m\n");
  });

  test.each(["its end", "a reset", "something else"])(
    "%s in the place of a server's Close is no error",
    async (what) => {
      using listener = listen({ port: 0 });
      const flags = ["--port", `${listener.address.port}`, "--message", "hello"];
      await using client = script("websocket-client", flags);
      using conn = await listener.accept();
      const socket = (await acceptWebSocket(conn))!;
      const { value } = await socket[Symbol.asyncIterator]().next();
      await socket.send(value!);
      await recvFrame(conn); // its Close
      if (what === "its end") conn.close();
      else if (what === "a reset") conn.reset();
      else await conn.sendAll(Buffer.from([0xff, 0xff]));
      expect(await client.exit()).toBe(0);
      expect([client.stdout, client.stderr]).toEqual([">hello\n", ""]);
    },
  );

  test("a signal while it waits for the keyboard closes with 1001", async () => {
    using listener = listen({ port: 0 });
    await using client = script("websocket-client", ["--port", `${listener.address.port}`]);
    using conn = await listener.accept();
    const socket = (await acceptWebSocket(conn))!;
    await socket.send("unasked \u{1f44b}");
    await client.until(/^>unasked 👋\n/);
    client.kill("SIGINT");
    expect(await all(socket)).toEqual([]);
    expect(socket.peerClose).toEqual({ code: 1001, reason: "" });
    expect(await client.exit()).toBe(0);
  });

  testNode("with the package ws as the server", async () => {
    await using server = nodeProgram(`
import { WebSocketServer } from "ws";
const server = new WebSocketServer({ port: 0, host: "127.0.0.1" }, () => console.log(server.address().port));
server.on("connection", (socket) => {
  socket.on("message", (data, binary) => socket.send(data, { binary }));
  socket.on("close", (code, reason) => console.log("closed", code, String(reason)));
});`);
    const port = await server.port();
    await using client = script("websocket-client", ["--port", `${port}`, "--message", "안녕"]);
    expect(await client.exit(), client.stderr).toBe(0);
    expect(client.stdout).toBe(">안녕\n");
    await server.until(/^closed 1000 \n/m);
    using conn = await connect({ port });
    const socket = await openWebSocket(conn);
    const loop = socket[Symbol.asyncIterator]();
    for (const message of ["", "x".repeat(200_000), pattern(MIB)]) {
      await socket.send(message);
      expect((await loop.next()).value).toEqual(message);
    }
    await socket.close(4002, "이유");
    await server.until(/^closed 4002 이유\n/m);
    expect(socket.peerClose).toEqual({ code: 4002, reason: "이유" }); // the peer repeats our code and reason
  });

  test("with Bun.serve as the server", async () => {
    using server = Bun.serve({
      port: 0,
      fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("no")),
      websocket: { message: (socket, message) => void socket.send(message) },
    });
    using conn = await connect({ port: server.port! });
    const socket = await openWebSocket(conn);
    const loop = socket[Symbol.asyncIterator]();
    for (const message of ["", "안녕", pattern(100_000)]) {
      await socket.send(message);
      expect((await loop.next()).value).toEqual(message);
    }
    await socket.close();
    expect(socket.peerClose).toEqual({ code: 1000, reason: "" });
  });
});
