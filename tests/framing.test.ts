// lib/framing.ts: the same messages however the stream is cut, and limits that hold.

import { describe, expect, setDefaultTimeout, test } from "bun:test";

import {
  delimited,
  fixedLength,
  type Framing,
  lengthPrefixed,
  lines,
  messages,
  sendMessage,
} from "../lib/framing.ts";
import { connect, type Socket } from "../lib/socket.ts";
import { failure, pair, PATIENCE_MS, pattern, python, testPython, turn } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const KIB = 1024;
const MIB = 1 << 20;

/** Every framing, with messages that suit it. */
const cases: [string, Framing, string[]][] = [
  ["fixedLength(5)", fixedLength(5), ["first", "\n\0\n\0\n", "third"]],
  ["delimited()", delimited(), ["", "a line", "", "한국어", "x".repeat(40)]],
  ["delimited('\\r\\n')", delimited("\r\n"), ["GET /", "a\rb\nc", "", "\r"]],
  ["delimited('aab')", delimited("aab"), ["", "aa", "xaaax", "b"]],
  ["lengthPrefixed(1)", lengthPrefixed(1), ["", "hello", "\n\n", "x".repeat(255)]],
  ["lengthPrefixed(2)", lengthPrefixed(2), ["", "hello", "x".repeat(300)]],
  ["lengthPrefixed()", lengthPrefixed(), ["", "안녕", "", "x".repeat(100)]],
];

async function stringsFrom(conn: Socket, framing: Framing): Promise<string[]> {
  const got: string[] = [];
  for await (const message of messages(conn, framing)) got.push(String(message));
  return got;
}

function wire(framing: Framing, texts: string[]): Buffer {
  return Buffer.concat(texts.flatMap((text) => framing.frame(Buffer.from(text)) as Uint8Array[]));
}

describe.each(cases)("%s", (_name, framing, texts) => {
  test("gives the same messages whole, and cut at every byte", async () => {
    const bytes = wire(framing, texts);
    for (let cut = 0; cut <= bytes.length; cut++) {
      using both = await pair();
      const receiving = stringsFrom(both.far, framing);
      await both.near.sendAll(bytes.subarray(0, cut));
      // The first part is read on its own before the second one comes.
      for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
      await both.near.sendAll(bytes.subarray(cut));
      both.near.shutdown("write");
      expect(await receiving).toEqual(texts);
    }
  });

  test("byte by byte", async () => {
    using both = await pair();
    const receiving = stringsFrom(both.far, framing);
    for (const byte of wire(framing, texts)) await both.near.sendAll(Uint8Array.of(byte));
    both.near.shutdown("write");
    expect(await receiving).toEqual(texts);
  });

  test("sendMessage puts on the wire what messages reads, in order", async () => {
    using both = await pair();
    const receiving = stringsFrom(both.far, framing);
    await Promise.all(texts.map((text) => sendMessage(both.near, framing, text)));
    both.near.shutdown("write");
    expect(await receiving).toEqual(texts);
  });

  test("a stream cut inside a message is EINCOMPLETE, after the whole ones", async () => {
    const bytes = wire(framing, texts);
    const ends = texts.map((_, i) => wire(framing, texts.slice(0, i + 1)).length);
    for (let cut = 0; cut < bytes.length; cut++) {
      using both = await pair();
      await both.near.sendAll(bytes.subarray(0, cut));
      both.near.close();
      const got: string[] = [];
      const error = await (async () => {
        for await (const message of messages(both.far, framing)) got.push(String(message));
      })().catch((cause) => cause);
      expect(got).toEqual(texts.slice(0, ends.filter((end) => end <= cut).length));
      if (cut === 0 || ends.includes(cut)) expect(error).toBeUndefined();
      else expect(error.code).toBe("EINCOMPLETE");
    }
  });

  test("breaking out leaves the socket right behind the message", async () => {
    using both = await pair();
    await both.near.sendAll(Buffer.concat([wire(framing, texts), Buffer.from("and then a body")]));
    both.near.shutdown("write");
    for (const text of texts) {
      for await (const message of messages(both.far, framing)) {
        expect(String(message)).toBe(text);
        break;
      }
    }
    expect(String(await both.far.recvExactly(15))).toBe("and then a body");
    expect((await both.far.recv(1)).length).toBe(0);
  });
});

test("a message that was given up half-way is still whole for who tries again", async () => {
  for (const framing of [lengthPrefixed(), delimited(), fixedLength(6)]) {
    using both = await pair();
    both.far.setTimeout(30);
    const bytes = wire(framing, ["\0\0\0\x02hi"]);
    await both.near.sendAll(bytes.subarray(0, 5));
    expect((await failure(messages(both.far, framing).next())).code).toBe("ETIMEDOUT");
    await both.near.sendAll(bytes.subarray(5));
    both.far.setTimeout(null);
    expect(String((await messages(both.far, framing).next()).value)).toBe("\0\0\0\x02hi");
  }
});

test("messages go on behind bytes that a recv took in the middle of one", async () => {
  using both = await pair();
  const { near, far } = both;
  const incoming = messages(near, delimited("\r\n"));
  near.setTimeout(50);
  await far.sendAll("abcdef");
  expect((await failure(incoming.next())).code).toBe("ETIMEDOUT");
  expect(String(await near.recv(100))).toBe("abcdef");
  await far.sendAll("x\r\n");
  expect(String((await incoming.next()).value)).toBe("x");
});

test("a message that EOF cuts off is EINCOMPLETE, with the part that came", async () => {
  for (const [framing, sent, part] of [
    [delimited(), "whole\nhalf", "half"],
    [fixedLength(5), "wholehalf", "half"],
    [lengthPrefixed(1), "\x05whole\x05half", "half"],
  ] as [Framing, string, string][]) {
    using both = await pair();
    await both.near.sendAll(sent);
    both.near.shutdown("write");
    const incoming = messages(both.far, framing);
    expect(String((await incoming.next()).value)).toBe("whole");
    const error = await failure(incoming.next());
    expect(error.code).toBe("EINCOMPLETE");
    expect(String(error.partial)).toEndWith(part); // the length prefix may come first
  }
});

describe("lines", () => {
  async function linesOf(...pieces: (string | Uint8Array)[]): Promise<string[]> {
    using both = await pair();
    const got = Array.fromAsync(lines(both.far));
    for (const piece of pieces) {
      await both.near.sendAll(piece);
      await turn();
      await turn(); // so that each piece arrives alone
    }
    both.near.shutdown("write");
    return await got;
  }

  test("end with a newline, or CR and newline, which are not part of them", async () => {
    expect(await linesOf("a\nb\r\n\n\r\nc\rd\n")).toEqual(["a", "b", "", "", "c\rd"]);
    expect(await linesOf("a\r", "\nb")).toEqual(["a", "b"]);
  });

  test("the last one counts without a newline; after one, nothing comes", async () => {
    expect(await linesOf("a\nb")).toEqual(["a", "b"]);
    expect(await linesOf("a\n")).toEqual(["a"]);
    expect(await linesOf()).toEqual([]);
  });

  test("a character that comes in two pieces is whole", async () => {
    const bytes = Buffer.from("온도: 15 °C\n");
    for (let at = 1; at < bytes.length; at++) {
      const got = await linesOf(bytes.subarray(0, at), bytes.subarray(at));
      expect(got).toEqual(["온도: 15 °C"]);
    }
  });

  test("a line of more than maxBytes is EMSGSIZE, the ones before it are given", async () => {
    using both = await pair();
    await both.near.sendAll("1234\n12345\n");
    const incoming = lines(both.far, { maxBytes: 4 });
    expect((await incoming.next()).value).toBe("1234");
    expect((await failure(incoming.next())).code).toBe("EMSGSIZE");
  });

  test("a reset is an error, and no last line", async () => {
    using both = await pair();
    const incoming = lines(both.far);
    await both.near.sendAll("whole\npart");
    expect((await incoming.next()).value).toBe("whole");
    const next = failure(incoming.next());
    both.near.reset();
    expect((await next).code).toBe("EINCOMPLETE");
  });
});

describe("limits", () => {
  test.each([
    ["delimited", delimited("\n", { maxBytes: 100 }), `${"x".repeat(101)}\n`],
    ["lengthPrefixed", lengthPrefixed(4, { maxBytes: 100 }), `\0\0\0\x65${"x".repeat(101)}`],
  ] as [string, Framing, string][])(
    "%s: exactly maxBytes passes, one more is EMSGSIZE",
    async (_, framing, tooLong) => {
      using both = await pair();
      await sendMessage(both.near, framing, "x".repeat(100));
      const error = await failure(sendMessage(both.near, framing, "x".repeat(101)));
      expect(error.code).toBe("EMSGSIZE");
      expect(error.syscall).toBe("send");
      const incoming = messages(both.far, framing);
      expect((await incoming.next()).value).toHaveLength(100);
      await both.near.sendAll(tooLong);
      const refused = await failure(incoming.next());
      expect(refused.code).toBe("EMSGSIZE");
      expect(refused.syscall).toBe("recv");
    },
  );

  test("a length that lies makes nobody wait or allocate", async () => {
    using both = await pair();
    await both.near.sendAll(Uint8Array.of(0xff, 0xff, 0xff, 0xff));
    expect((await failure(messages(both.far, lengthPrefixed()).next())).code).toBe("EMSGSIZE");
  });

  test("a line without end is cut off at the limit: nothing is buffered past it", async () => {
    using both = await pair();
    const flooding = both.near.sendAll(Buffer.alloc(64 << 20, "x")).catch(() => {});
    const error = await failure(messages(both.far, delimited("\n", { maxBytes: 10 * KIB })).next());
    expect(error.code).toBe("EMSGSIZE");
    let held = 0; // bytes in our process, not in the kernel: no more than at a socket that nobody reads
    for (
      let piece = both.far.tryRecv(64 * MIB);
      piece !== null;
      piece = both.far.tryRecv(64 * MIB)
    ) {
      held += piece.length;
    }
    expect(held).toBeLessThanOrEqual(64 * KIB + 512 * KIB);
    both.far.close();
    await flooding;
  });

  test("refuses to send what could not be read back", async () => {
    using both = await pair();
    const codes = async (framing: Framing, ...texts: string[]) =>
      Promise.all(
        texts.map(async (text) => (await failure(sendMessage(both.near, framing, text))).code),
      );
    expect(await codes(fixedLength(3), "ab", "abcd", "")).toEqual(Array(3).fill("EMSGSIZE"));
    expect(await codes(delimited(), "a\nb", "\n")).toEqual(["EINVAL", "EINVAL"]);
    expect(await codes(delimited("aa"), "xa")).toEqual(["EINVAL"]); // "xa" + "aa" ends too early
    expect(await codes(lengthPrefixed(1), "x".repeat(256))).toEqual(["EMSGSIZE"]);
    await sendMessage(both.near, fixedLength(3), "abc");
    expect(String(await both.far.recv(100))).toBe("abc"); // nothing was sent before it
  });

  test("refuses framings that make no sense", async () => {
    for (const make of [
      () => delimited(""),
      () => fixedLength(0),
      () => lengthPrefixed(3 as any),
      () => delimited("\n", { maxBytes: 0 }),
      () => lengthPrefixed(4, { maxBytes: -1 }),
    ]) {
      expect(await failure(make)).toBeInstanceOf(RangeError);
    }
  });
});

test("a protocol may change its framing midway: HTTP's head, then its body", async () => {
  using both = await pair();
  await both.near.sendAll("POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\nhello\r\n\r\nyou\nnext");
  let head = "";
  for await (const part of messages(both.far, delimited("\r\n\r\n"))) {
    head = String(part);
    break;
  }
  expect(head).toEndWith("Content-Length: 11");
  expect(String(await both.far.recvExactly(12))).toBe("hello\r\n\r\nyou");
  for await (const line of messages(both.far, delimited("\n"))) {
    expect(String(line)).toBe("");
    break;
  }
  expect(String(await both.far.recv(10))).toBe("next");
});

test("many small messages in large chunks, and large ones in small chunks", async () => {
  using both = await pair();
  const lines = Array.from({ length: 50_000 }, (_, i) => `line ${i}`);
  const sending = both.near.sendAll(`${lines.join("\n")}\n`);
  const got: string[] = [];
  for await (const line of messages(both.far, delimited())) {
    got.push(String(line));
    if (got.length === lines.length) break;
  }
  await sending;
  expect(got).toEqual(lines);

  const big = pattern(1 << 20);
  const receiving = messages(both.far, lengthPrefixed()).next();
  const framed = Buffer.concat(lengthPrefixed().frame(big) as Uint8Array[]);
  for (let at = 0; at < framed.length; at += 1000) {
    await both.near.sendAll(framed.subarray(at, at + 1000));
  }
  expect((await receiving).value!.equals(big)).toBe(true);
});

testPython("CPython's struct reads our messages, and we read its", async () => {
  await using peer = python(`
conn, _ = listen().accept()
def exactly(n):
    data = b""
    while len(data) < n: data += conn.recv(n - len(data))
    return data
for _ in range(3):
    (length,) = struct.unpack("!I", exactly(4))
    message = exactly(length)
    conn.sendall(struct.pack("!I", length * 2) + message * 2)
conn.close()`);
  using conn = await connect({ port: await peer.port() });
  for (const text of ["hello", "", "한국어"]) await sendMessage(conn, lengthPrefixed(), text);
  const doubled = ["hellohello", "", "한국어한국어"];
  expect(await stringsFrom(conn, lengthPrefixed())).toEqual(doubled);
});
