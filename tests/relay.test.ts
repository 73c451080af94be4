// lib/relay.ts: two connections joined, and the PROXY protocol as bytes, on a connection, and with CPython
// at the other end.

import fc from "fast-check";
import { describe, expect, setDefaultTimeout, test } from "bun:test";

import type { Address } from "../lib/address.ts";
import { SocketError } from "../lib/errors.ts";
import {
  acceptProxyHeader,
  decodeProxyHeader,
  encodeProxyHeader,
  relay,
  type Relayed,
  UNIQUE_ID,
} from "../lib/relay.ts";
import type { Socket } from "../lib/socket.ts";
import { POLLERR } from "../lib/socket/readiness.ts";
import { failure, fails, fill, pair, PATIENCE_MS, pattern, recvAll, turn } from "./helpers.ts";
import { python, testPython } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const MIB = 1 << 20;

/** A client and a back-end with a relay between them: `done` is the promise that `relay` returned. */
async function relayed() {
  const [front, back] = [await pair(), await pair()];
  const [client, a, b, backend] = [front.near, front.far, back.near, back.far];
  const done = relay(a, b);
  const close = () => [front, back].forEach((ends) => ends[Symbol.dispose]());
  return { client, backend, a, b, done, [Symbol.dispose]: close };
}

describe("relay", () => {
  test("16 MiB both ways at once, unchanged", async () => {
    using both = await relayed();
    const { client, backend, done } = both;
    const [up, down] = [pattern(16 * MIB, 1), pattern(16 * MIB, 2)];
    const send = async (conn: Socket, bytes: Buffer) => {
      await conn.sendAll(bytes);
      conn.shutdown("write");
    };
    const sending = [send(client, up), send(backend, down)];
    const [gotUp, gotDown] = await Promise.all([recvAll(backend), recvAll(client)]);
    await Promise.all(sending);
    expect(gotUp.equals(up)).toBe(true);
    expect(gotDown.equals(down)).toBe(true);
    expect(await done).toBeUndefined();
  });

  test("each side may end first; the other direction goes on", async () => {
    for (const first of ["client", "backend"] as const) {
      using both = await relayed();
      const near = both[first];
      const far = first === "client" ? both.backend : both.client;
      await near.sendAll("question");
      near.shutdown("write");
      expect(String(await recvAll(far))).toBe("question");
      await far.sendAll("answer");
      far.shutdown("write");
      expect(String(await recvAll(near))).toBe("answer");
      expect(await both.done).toBeUndefined();
    }
  });

  test("a reset of either side is a reset on the other, behind what came before", async () => {
    for (const first of ["client", "backend"] as const) {
      using both = await relayed();
      const far = first === "client" ? both.backend : both.client;
      await both[first].sendAll("last words");
      expect(String(await far.recvExactly(10))).toBe("last words");
      both[first].reset();
      await fails(far.recv(1), "ECONNRESET");
      expect(await both.done).toMatchObject({ code: "ECONNRESET" });
    }
  });

  test("what came in one turn with a reset is passed on, also where sends were gathered", async () => {
    using back = await pair();
    const reset = new SocketError("ECONNRESET", "recv", back.near.remoteAddress);
    const client = {
      async *[Symbol.asyncIterator]() {
        for (const chunk of ["1", "2", "3"]) yield Buffer.from(chunk);
        throw reset;
      },
      closed: new Promise<void>(() => {}),
      reset() {},
    };
    const relaying = relay(client as unknown as Relayed, back.near);
    expect(String(await back.far.recvExactly(3))).toBe("123");
    await fails(back.far.recv(1), "ECONNRESET");
    expect(await relaying).toBe(reset);
  });

  test("a reset goes through within a second while the other side reads nothing", async () => {
    for (const first of ["client", "backend"] as const) {
      using both = await relayed();
      const far = first === "client" ? both.backend : both.client;
      const near = both[first];
      // Until everything between the two is full.
      for (let quiet = 0; quiet < 20; await turn()) quiet = fill(near) > 0 ? 0 : quiet + 1;
      near.reset();
      const began = performance.now();
      expect(await both.done).toMatchObject({ code: "ECONNRESET" });
      expect(performance.now() - began).toBeLessThan(1_000);
      await fails(recvAll(far), "ECONNRESET");
    }
  });

  test("a reset behind a FIN is a reset too, though nobody receives there any more", async () => {
    using both = await relayed();
    both.client.shutdown("write");
    expect((await both.backend.recv(1)).length).toBe(0);
    both.client.reset();
    expect(await both.done).toMatchObject({ code: "ECONNRESET" });
    await both.backend.closed;
    expect(both.backend.poll() & POLLERR).toBe(POLLERR);
  });

  // Objects play the peers here: a real peer cannot be stopped at these moments.
  const address = { host: "192.0.2.1", port: 1 };
  const forever = new Promise<void>(() => {});
  function actor(part: Partial<Relayed>, got: string[] = []): Relayed {
    return {
      ...{ remoteAddress: address, closed: forever, poll: () => 0 },
      async *[Symbol.asyncIterator]() {},
      sendAll: async (bytes) => void got.push(String(bytes)),
      shutdown: () => void got.push("FIN"),
      reset: () => void got.push("RST"),
      ...part,
    };
  }

  test("what a side sent before it took no more is passed on before the reset", async () => {
    const got: string[] = [];
    const client = actor(
      {
        async *[Symbol.asyncIterator]() {
          yield Buffer.from("question");
          await forever;
        },
      },
      got,
    );
    const backend = actor({
      async *[Symbol.asyncIterator]() {
        await Bun.sleep(50);
        yield Buffer.from("last words");
        throw new SocketError("ECONNRESET", "recv", address);
      },
      sendAll: () => Promise.reject(new SocketError("EPIPE", "send", address)),
    });
    relay(client, backend);
    while (!got.includes("RST")) await Bun.sleep(1);
    expect(got).toEqual(["last words", "RST"]);
  });

  test("if bytes could not be delivered, their sender gets a reset and no clean end", async () => {
    const got: string[] = [];
    const client = actor(
      {
        async *[Symbol.asyncIterator]() {
          yield Buffer.from("lost");
        },
      },
      got,
    );
    const gone = new SocketError("EPIPE", "send", address);
    const backend = actor({ sendAll: () => Promise.reject(gone) }); // and it has already ended
    expect(await relay(client, backend)).toBe(gone);
    expect(got).toEqual(["FIN", "RST"]);
  });

  test("a reset after both FINs is ignored", async () => {
    const got: string[] = [];
    const client = actor({ closed: Promise.resolve(), poll: () => POLLERR }, got);
    expect(await relay(client, actor({}, got))).toBeUndefined();
    await Bun.sleep(600); // longer than the relay waits before a reset
    expect(got).toEqual(["FIN", "FIN"]);
  });

  test("an end both ways is no reset, though not all has been passed on yet", async () => {
    const got: string[] = [];
    const client = actor({
      closed: Promise.resolve(),
      async *[Symbol.asyncIterator]() {
        await Bun.sleep(700); // longer than the relay waits for bytes that came before a reset
        yield Buffer.from("the last of it");
      },
    });
    const backend = actor({}, got);
    expect(await relay(client, backend)).toBeUndefined();
    expect(got).toEqual(["the last of it", "FIN"]);
  });

  test("our own end closed from outside ends the other side with a reset, full or not", async () => {
    for (const isFull of [false, true]) {
      using both = await relayed();
      const { client, a, backend } = both;
      for (let quiet = 0; isFull && quiet < 20; await turn())
        quiet = fill(client) > 0 ? 0 : quiet + 1;
      a.reset();
      expect(await both.done).toMatchObject({ code: "EBADF" });
      await fails(recvAll(backend), "ECONNRESET");
    }
  });

  test("a side that reads nothing makes the other wait; a slow one gets all", async () => {
    using both = await relayed();
    const { client, backend } = both;
    const bytes = pattern(32 * MIB);
    let sent = 0;
    const sending = (async () => {
      for (; sent < bytes.length; sent += MIB)
        await client.sendAll(bytes.subarray(sent, sent + MIB));
      client.shutdown("write");
    })();
    let before = -1;
    for (let same = 0; same < 50; await turn()) {
      same = sent === before ? same + 1 : 0;
      before = sent;
    }
    expect(sent).toBeLessThan(bytes.length);
    expect((await recvAll(backend)).equals(bytes)).toBe(true);
    await sending;
  });
});

// ---- the PROXY protocol

const at = (host: string, port: number): Address => ({ host, port });
const v4 = { source: at("192.0.2.7", 56_324), destination: at("192.0.2.1", 443) };
const v6 = { source: at("2001:db8::7", 65_535), destination: at("::1", 0) };
const nobody = { source: null, destination: null };
const SIGNATURE = "0d0a0d0a000d0a515549540a";
const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");

/** Headers as they are in the specification, with what they say. */
const headers: [string, Buffer, object][] = [
  ["1, IPv4", Buffer.from("PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n"), v4],
  ["1, IPv6", Buffer.from("PROXY TCP6 2001:db8::7 ::1 65535 0\r\n"), v6],
  [
    "1, the longest IPv6",
    Buffer.from(
      `PROXY TCP6 ${"ffff:".repeat(8).slice(0, -1)} ${"FFFF:".repeat(8).slice(0, -1)} 65535 65535\r\n`,
    ),
    {
      source: at("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65_535),
      destination: at("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65_535),
    },
  ],
  [
    "1, an IPv4 address in IPv6",
    Buffer.from("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n"),
    {
      source: at("192.0.2.7", 1),
      destination: at("::1", 2),
    },
  ],
  ["1, UNKNOWN", Buffer.from("PROXY UNKNOWN\r\n"), nobody],
  ["1, the longest of all", Buffer.from(`PROXY UNKNOWN ${"x".repeat(91)}\r\n`), nobody],
  ["1, UNKNOWN with anything", Buffer.from("PROXY UNKNOWN \0\xff\r \n\r\n", "latin1"), nobody],
  ["2, IPv4", hex(`${SIGNATURE} 21 11 000c c0000207 c0000201 dc04 01bb`), v4],
  [
    "2, IPv6",
    hex(
      `${SIGNATURE} 21 21 0024 20010db8000000000000000000000007 00000000000000000000000000000001 ffff 0000`,
    ),
    v6,
  ],
  ["2, LOCAL", hex(`${SIGNATURE} 20 00 0000`), nobody],
  ["2, LOCAL with addresses", hex(`${SIGNATURE} 20 11 000c c0000207 c0000201 dc04 01bb`), nobody],
  ["2, LOCAL of a family, without addresses", hex(`${SIGNATURE} 20 11 0000`), nobody],
  ["2, LOCAL of an unknown family", hex(`${SIGNATURE} 20 41 0000`), nobody],
  ["2, LOCAL with rubbish", hex(`${SIGNATURE} 20 00 0003 ffffff`), nobody],
  ["2, UNSPEC", hex(`${SIGNATURE} 21 00 0000`), nobody],
  ["2, a Unix-domain socket", hex(`${SIGNATURE} 21 31 00d8 ${"2f".repeat(216)}`), nobody],
  ["2, UDP", hex(`${SIGNATURE} 21 12 000c c0000207 c0000201 dc04 01bb`), nobody],
  [
    "2, TLVs",
    hex(
      `${SIGNATURE} 21 11 0017 c0000207 c0000201 dc04 01bb 05 0003 616263 04 0000 ea 0002 0000`.replace(
        "0017",
        "001a",
      ),
    ),
    {
      ...v4,
      tlvs: new Map([
        [UNIQUE_ID, Buffer.from("abc")],
        [4, Buffer.alloc(0)],
        [0xea, Buffer.alloc(2)],
      ]),
    },
  ],
];

/** Bytes that are not a valid header, and the error for each. */
const refused: [string, Buffer, RegExp][] = [
  ["HTTP", Buffer.from("GET / HTTP/1.1\r\n"), /no PROXY header/],
  ["one wrong letter", Buffer.from("PROXX"), /no PROXY header/],
  ["a signature that breaks off", hex("0d0a0d0a00 47"), /no PROXY header/],
  ...[
    "PROXY TCP5 192.0.2.7 192.0.2.1 1 2",
    "PROXY tcp4 192.0.2.7 192.0.2.1 1 2",
    "PROXY TCP4 192.0.2.7 192.0.2.1 1",
    "PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3",
    "PROXY TCP4  192.0.2.7 192.0.2.1 1 2",
    "PROXY TCP4 192.0.2.07 192.0.2.1 1 2",
    "PROXY TCP4 192.0.2.256 192.0.2.1 1 2",
    "PROXY TCP4 192.0.2.7 192.0.2.1 01 2",
    "PROXY TCP4 192.0.2.7 192.0.2.1 1 65536",
    "PROXY TCP4 192.0.2.7 192.0.2.1 -1 2",
    "PROXY TCP4 2001:db8::7 ::1 1 2",
    "PROXY TCP6 192.0.2.7 192.0.2.1 1 2",
    "PROXY TCP6 2001:db8::7::1 ::1 1 2",
    "PROXY TCP6 fe80::1%eth0 ::1 1 2",
    "PROXY TCP4 192.0.2.7 192.0.2.1 1 2\rX",
    "PROXY TCP4 192.0.2.7 192.0.2.1 1 2\nX",
    "PROXY UNKNOWNX",
    "PROXY ",
  ].map((line): [string, Buffer, RegExp] => [
    JSON.stringify(line),
    Buffer.from(`${line}\r\n`),
    /PROXY line/,
  ]),
  ["a line without end", Buffer.from(`PROXY UNKNOWN ${"x".repeat(93)}`), /PROXY line/],
  ["a line that ends too late", Buffer.from(`PROXY UNKNOWN ${"x".repeat(92)}\r\n`), /PROXY line/],
  ["version 1 in the binary form", hex(`${SIGNATURE} 11 11 000c`), /version/],
  ["command 2", hex(`${SIGNATURE} 22 11 000c`), /command/],
  ["family 4", hex(`${SIGNATURE} 21 41 000c`), /family/],
  ["transport 3", hex(`${SIGNATURE} 21 13 000c`), /family/],
  [
    "a value that reaches into the data behind the header",
    hex(`${SIGNATURE} 21 11 0010 c0000207 c0000201 dc04 01bb 05 0004 61 626364 65`),
    /ends in a value/,
  ],
  ["too short for IPv4", hex(`${SIGNATURE} 21 11 000b`), /address/],
  ["too short for IPv6", hex(`${SIGNATURE} 21 21 000c`), /address/],
  ["a length that lies", hex(`${SIGNATURE} 21 11 ffff`), /4096/],
  ["a TLV of two bytes", hex(`${SIGNATURE} 21 11 000e c0000207 c0000201 dc04 01bb 05 00`), /value/],
  [
    "a TLV that goes on behind it",
    hex(`${SIGNATURE} 21 11 0010 c0000207 c0000201 dc04 01bb 05 0002 61`),
    /value/,
  ],
];

describe("a PROXY header", () => {
  test.each(headers)("%s: is read, and not before it is whole", (_, bytes, says) => {
    for (let end = 0; end < bytes.length; end++) {
      expect(decodeProxyHeader(bytes.subarray(0, end))).toBeNull();
    }
    const { length } = bytes;
    const found = decodeProxyHeader(Buffer.concat([bytes, Buffer.from("hello\r\n")]))!;
    expect(found.length).toBe(length);
    expect(found).toMatchObject(says);
    expect(found.tlvs ?? new Map()).toEqual(
      (says as { tlvs?: Map<number, Buffer> }).tlvs ?? new Map(),
    );
  });

  test.each(refused)("%s: is refused, in a word", (_, bytes, why) => {
    const answer = (end: number) => {
      try {
        return decodeProxyHeader(bytes.subarray(0, end));
      } catch (error) {
        return (error as Error).message;
      }
    };
    expect(answer(bytes.length)).toMatch(why);
    // A part of it is not taken for a header either.
    for (let end = 0; end < bytes.length; end++) expect(answer(end) ?? "none yet").toBeString();
  });

  test("is written as it is in the specification", () => {
    const [line4, line6] = [headers[0]![1], headers[1]![1]];
    expect(encodeProxyHeader(v4, 1)).toEqual(line4);
    expect(encodeProxyHeader(v6, 1)).toEqual(line6);
    expect(encodeProxyHeader(v4)).toEqual(headers.find(([name]) => name === "2, IPv4")![1]);
    expect(encodeProxyHeader(v6)).toEqual(headers.find(([name]) => name === "2, IPv6")![1]);
    const [, bytes, says] = headers.find(([name]) => name === "2, TLVs")!;
    expect(encodeProxyHeader(says as typeof v4)).toEqual(bytes);
    expect(encodeProxyHeader(nobody)).toEqual(hex(`${SIGNATURE} 20 00 0000`));
    expect(String(encodeProxyHeader(nobody, 1))).toBe("PROXY UNKNOWN\r\n");
    const file = { source: at("/tmp/socket", 0), destination: at("/tmp/socket", 0) };
    expect(encodeProxyHeader(file)).toEqual(hex(`${SIGNATURE} 21 00 0000`));
    expect(String(encodeProxyHeader(file, 1))).toBe("PROXY UNKNOWN\r\n");
    const mixed = { source: at("192.0.2.7", 1), destination: at("fe80::1%eth0", 2) };
    expect(String(encodeProxyHeader(mixed, 1))).toBe("PROXY TCP6 ::ffff:c000:207 fe80::1 1 2\r\n");
  });

  test("what was written is read as the same; what is random is no surprise", () => {
    const port = fc.integer({ min: 0, max: 65_535 });
    const word = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff }));
    const ipv6 = fc
      .array(word, { minLength: 8, maxLength: 8 })
      .map((words) => {
        const long = words.map((one) => one.toString(16)).join(":");
        return new URL(`http://[${long}]`).hostname.slice(1, -1);
      })
      // (Such an address stands for an IPv4 address, and is read as one.)
      .filter((host) => !/^::ffff:\w+:\w+$/.test(host));
    const end = fc.record({ host: fc.oneof(fc.ipV4(), ipv6), port });
    const value = fc.tuple(fc.integer({ min: 0, max: 255 }), fc.uint8Array({ maxLength: 200 }));
    fc.assert(
      fc.property(end, end, fc.array(value, { maxLength: 5 }), (source, destination, list) => {
        const tlvs = new Map(list.map(([type, bytes]) => [type, Buffer.from(bytes)]));
        const ends = { source, destination };
        expect(decodeProxyHeader(encodeProxyHeader({ source, destination }, 1))).toMatchObject(
          ends,
        );
        const found = decodeProxyHeader(encodeProxyHeader({ source, destination, tlvs }))!;
        expect(found).toMatchObject(ends);
        expect(found.tlvs).toEqual(tlvs);
      }),
    );
    const start = fc.constantFrom(Buffer.from("PROXY "), hex(`${SIGNATURE} 21`), Buffer.alloc(0));
    fc.assert(
      fc.property(start, fc.uint8Array({ maxLength: 300 }), (begin, rest) => {
        try {
          decodeProxyHeader(Buffer.concat([begin, rest]));
        } catch (error) {
          expect((error as Error).message).toContain("PROXY");
        }
      }),
    );
  });

  test("comes in any pieces; what is behind it stays; the client's address is the peer's", async () => {
    for (const header of [encodeProxyHeader(v4, 1), encodeProxyHeader(v6)]) {
      const bytes = Buffer.concat([header, Buffer.from("hello")]);
      for (let cut = 1; cut <= bytes.length; cut += 1) {
        using both = await pair();
        const accepting = acceptProxyHeader(both.far);
        await both.near.sendAll(bytes.subarray(0, cut));
        for (let i = 0; i < 3; i++) await turn();
        await both.near.sendAll(bytes.subarray(cut));
        const { source } = await accepting;
        expect(both.far.remoteAddress).toEqual(source!);
        expect(String(await both.far.recvExactly(5))).toBe("hello");
      }
    }
  });

  test("that says nobody leaves the connection's own address", async () => {
    using both = await pair();
    await both.near.sendAll(encodeProxyHeader(nobody));
    await acceptProxyHeader(both.far);
    expect(both.far.remoteAddress).toEqual(both.near.localAddress);
  });

  test("that is none, ends early or is cut by a reset: the connection's own address says so", async () => {
    for (const [bytes, end, code, why] of [
      ["hello\n", "shutdown", "EPROTO", "no PROXY header came first"],
      ["PROXY TCP4 1", "shutdown", "EPROTO", "it ended before its PROXY header did"],
      ["", "shutdown", "EPROTO", "it ended before its PROXY header did"],
      ["PROXY", "reset", "ECONNRESET", undefined],
    ] as const) {
      using both = await pair();
      const address = both.near.localAddress;
      await both.near.sendAll(bytes);
      for (let i = 0; i < 3; i++) await turn();
      both.near[end]("write");
      const error = await fails(acceptProxyHeader(both.far), code);
      expect(error.reason).toBe(why!);
      expect(error.address).toEqual(address);
    }
  });

  test("that does not come is waited for 5 s", async () => {
    using both = await pair();
    const dribble = setInterval(() => both.near.trySend("x"), 1_000); // each byte comes within the 5 s
    both.near.trySend("PROXY UNKNOWN ");
    const error = await fails(acceptProxyHeader(both.far), "EPROTO");
    clearInterval(dribble);
    expect(error.reason).toBe("no PROXY header within 5 s");
  });

  testPython("of 4,096 bytes, as CPython writes it", async () => {
    await using theirs = python(`
import ipaddress
s = listen(); conn, _ = s.accept()
a, b = (ipaddress.ip_address(x).packed for x in ("2001:db8::7", "2001:db8::1"))
tlv = struct.pack("!BH", 0xe0, 4096 - 16 - 36 - 3); tlv += b"x" * (4096 - 16 - 36 - 3)
block = a + b + struct.pack("!HH", 7, 8) + tlv
for byte in b"\\r\\n\\r\\n\\0\\r\\nQUIT\\n" + struct.pack("!BBH", 0x21, 0x21, len(block)) + block: conn.send(bytes([byte]))
conn.sendall(b"hello"); recv_all(conn)`);
    const { connect } = await import("../lib/socket.ts");
    using conn = await connect({ port: await theirs.port() });
    const { tlvs } = await acceptProxyHeader(conn);
    expect(tlvs!.get(0xe0)!.length).toBe(4096 - 16 - 36 - 3);
    expect(conn.remoteAddress).toEqual(at("2001:db8::7", 7));
    expect(String(await conn.recvExactly(5))).toBe("hello");
  });
});
