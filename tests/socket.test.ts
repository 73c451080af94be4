// The promises of lib/socket.ts, with real sockets.

import { getEventListeners } from "node:events";
import { existsSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test, setDefaultTimeout } from "bun:test";

import { SocketError } from "../lib/errors.ts";
import { select } from "../lib/select.ts";
import { connect, listen, type Socket } from "../lib/socket.ts";
import {
  failure,
  fill,
  pair,
  pattern,
  python,
  recvAll,
  testPython,
  testWith,
  turn,
  PATIENCE_MS,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const MIB = 1 << 20;
/** The bytes that a socket may hold when nobody reads: its limit and one read of Bun. */
const HELD = 64 * 1024 + 512 * 1024;

/** Sends until the kernel's buffers and the other end's own are full; gives the number of bytes. */
async function fillUp(near: Socket): Promise<number> {
  let total = 0;
  for (let idle = 0; idle < 20; idle++, await turn()) {
    const sent = fill(near);
    if (sent > 0) idle = 0;
    total += sent;
  }
  return total;
}

/** Takes out the bytes that a socket holds, but not the kernel's: the loop does not turn. Gives their number. */
function takeHeld(far: Socket): number {
  let held = 0;
  for (let piece = far.tryRecv(MIB); piece !== null; piece = far.tryRecv(MIB)) held += piece.length;
  return held;
}

describe("listen", () => {
  test("tells its real address when any port was asked for", () => {
    using server = listen({ port: 0 });
    expect(server.address.host).toBe("127.0.0.1");
    expect(server.address.port).toBeGreaterThan(0);
  });

  test("resolves a name to the address it is bound to", () => {
    using server = listen({ host: "localhost", port: 0 });
    expect(["127.0.0.1", "::1"]).toContain(server.address.host);
  });

  test("a port in use is EADDRINUSE", async () => {
    using server = listen({ port: 0 });
    const { port } = server.address;
    const error = await failure(() => listen({ port }));
    expect(error).toBeInstanceOf(SocketError);
    expect(error.code).toBe("EADDRINUSE");
    expect(error.syscall).toBe("listen");
    expect(error.address).toEqual({ host: "127.0.0.1", port });
    expect(error.message).toBe(`listen EADDRINUSE 127.0.0.1:${port}`);
  });

  test("an address of another machine is EADDRNOTAVAIL, an unknown name ENOTFOUND", async () => {
    expect((await failure(() => listen({ host: "192.0.2.1", port: 0 }))).code).toBe(
      "EADDRNOTAVAIL",
    );
    const error = await failure(() => listen({ host: "no-such-host.invalid", port: 0 }));
    expect(error.code).toBe("ENOTFOUND");
    expect(error.message).toBe("listen ENOTFOUND no-such-host.invalid");
  });

  test("refuses arguments that make no sense, with the value", async () => {
    for (const port of [70_000, -1, 1.5, NaN]) {
      const error = await failure(() => listen({ port }));
      expect(error).toBeInstanceOf(RangeError);
      expect(error.message).toContain(String(port));
    }
    expect(await failure(() => listen({ port: "80" as any }))).toBeInstanceOf(TypeError);
    expect(await failure(() => listen({ port: 0, backlog: 0 }))).toBeInstanceOf(RangeError);
    expect(await failure(() => listen({ host: "", port: 0 }))).toBeInstanceOf(TypeError);
  });

  test("two servers share a port when both say so", () => {
    using first = listen({ port: 0, reusePort: true });
    using second = listen({ port: first.address.port, reusePort: true });
    expect(second.address).toEqual(first.address);
  });

  test("a signal closes the server, at once if it has aborted already", async () => {
    const stop = new AbortController();
    const server = listen({ port: 0, signal: stop.signal });
    const waiting = failure(server.accept());
    stop.abort();
    expect((await waiting).code).toBe("EBADF");
    expect((await failure(connect({ port: server.address.port }))).code).toBe("ECONNREFUSED");

    const closed = listen({ port: 0, signal: stop.signal });
    for await (const _ of closed) throw new Error("nobody can have connected");
    expect((await failure(closed.accept())).code).toBe("EBADF");
  });
});

describe("connect", () => {
  test("nobody there is ECONNREFUSED, with the address", async () => {
    const server = listen({ port: 0 });
    const { port } = server.address;
    server.close();
    const error = await failure(connect({ port }));
    expect(error).toBeInstanceOf(SocketError);
    expect(error.syscall).toBe("connect");
    expect(error.message).toBe(`connect ECONNREFUSED 127.0.0.1:${port}`);
    expect((await failure(connect({ host: "::1", port }))).message).toBe(
      `connect ECONNREFUSED [::1]:${port}`,
    );
  });

  test("an unknown name is ENOTFOUND, by its name", async () => {
    const error = await failure(connect({ host: "no-such-host.invalid", port: 1 }));
    expect(error.code).toBe("ENOTFOUND");
    expect(error.message).toBe("connect ENOTFOUND no-such-host.invalid");
  });

  test("refuses arguments that make no sense by rejecting, never by throwing", async () => {
    for (const port of [0, 70_000, 80.5]) {
      expect(await failure(connect({ port }))).toBeInstanceOf(RangeError);
    }
    for (const timeout of [0, -1, NaN]) {
      expect(await failure(connect({ port: 1, timeout }))).toBeInstanceOf(RangeError);
    }
  });

  testPython(
    "gives up after its timeout, or when told to, on a server whose queue is full",
    async () => {
      // Linux leaves a connection to a full queue unanswered.
      await using server = python(`
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(0)
full = [socket.socket() for _ in range(4)]
for c in full: c.setblocking(False); c.connect_ex(s.getsockname())
print(s.getsockname()[1])
sys.stdin.readline()`);
      const port = await server.port();
      const error = await failure(connect({ port, timeout: 50 }));
      expect(error.code).toBe("ETIMEDOUT");
      expect(error.message).toBe(`connect ETIMEDOUT 127.0.0.1:${port}`);
      const stop = new AbortController();
      const waiting = failure(connect({ port, signal: stop.signal }));
      stop.abort("enough");
      expect(await waiting).toBe("enough");
      expect(await failure(connect({ port, signal: AbortSignal.abort("no") }))).toBe("no");
    },
  );

  test("knows both addresses, and so does the accepted end", async () => {
    using both = await pair();
    expect(both.near.remoteAddress).toEqual(both.far.localAddress);
    expect(both.far.remoteAddress).toEqual(both.near.localAddress);
    expect(both.near.remoteAddress.host).toBe("127.0.0.1");
  });

  test("speaks IPv6", async () => {
    using both = await pair("::1");
    expect(both.near.remoteAddress).toEqual(both.far.localAddress);
    expect(both.far.remoteAddress.host).toBe("::1");
    await both.near.sendAll("hello");
    expect(String(await both.far.recv(10))).toBe("hello");
  });

  test("knows the address a client came to when the server listens on all", async () => {
    using server = listen({ host: "0.0.0.0", port: 0 });
    using near = await connect({ port: server.address.port });
    using far = await server.accept();
    expect(far.localAddress).toEqual(near.remoteAddress);
  });
});

describe("accept", () => {
  test("gives connections in the order in which they came, to whoever asked first", async () => {
    using server = listen({ port: 0 });
    const { port } = server.address;
    const accepting = [server.accept(), server.accept()];
    using one = await connect({ port });
    using two = await connect({ port });
    const [first, second] = await Promise.all(accepting);
    expect(first!.remoteAddress).toEqual(one.localAddress);
    expect(second!.remoteAddress).toEqual(two.localAddress);
  });

  test("tryAccept gives null until somebody is there", async () => {
    using server = listen({ port: 0 });
    expect(server.tryAccept()).toBeNull();
    using near = await connect({ port: server.address.port });
    await server.waitReadable();
    using far = server.tryAccept()!;
    expect(far.remoteAddress).toEqual(near.localAddress);
    expect(server.tryAccept()).toBeNull();
  });

  test("a signal ends one accept and loses no connection", async () => {
    using server = listen({ port: 0 });
    const stop = new AbortController();
    const waiting = failure(server.accept({ signal: stop.signal }));
    stop.abort("tired");
    expect(await waiting).toBe("tired");
    using _near = await connect({ port: server.address.port });
    expect(await failure(server.accept({ signal: stop.signal }))).toBe("tired");
    using _far = await server.accept();
  });

  test("a for-await ends at close, and breaking out of it closes nothing", async () => {
    const server = listen({ port: 0 });
    const { port } = server.address;
    using _one = await connect({ port });
    for await (const conn of server) {
      conn.close();
      break;
    }
    using _two = await connect({ port });
    for await (const conn of server) {
      conn.close();
      server.close();
    }
    server.close(); // twice is fine
    expect((await failure(server.accept())).code).toBe("EBADF");
    expect((await failure(() => server.tryAccept())).code).toBe("EBADF");
    expect((await failure(server.waitReadable())).code).toBe("EBADF");
    expect(server.address.port).toBe(port);
  });

  test("close ends what nobody accepted, and leaves what somebody did", async () => {
    const server = listen({ port: 0 });
    const { port } = server.address;
    using accepted = await connect({ port });
    using far = await server.accept();
    using waiting = await connect({ port });
    await server.waitReadable();
    server.close();
    expect((await failure(waiting.recv(1))).code).toBe("ECONNRESET");
    await far.sendAll("still here");
    expect(String(await accepted.recv(100))).toBe("still here");
  });

  test("at most `backlog` connections wait; the next one is reset", async () => {
    using server = listen({ port: 0, backlog: 3 });
    const { port } = server.address;
    const clients = [];
    for (let i = 0; i < 5; i++) clients.push(await connect({ port }));
    const ends = await Promise.all(clients.slice(3).map((conn) => failure(conn.recv(1))));
    expect(ends.map(({ code }) => code)).toEqual(["ECONNRESET", "ECONNRESET"]);
    for (let i = 0; i < 3; i++) (await server.accept()).close();
    expect(server.tryAccept()).toBeNull();
    for (const conn of clients) conn.close();
  });

  test("a burst does not count against a server that is accepting", async () => {
    using server = listen({ port: 0, backlog: 1 });
    const { port } = server.address;
    const serving = (async () => {
      for await (const conn of server) conn.sendAll("hi").then(() => conn.close());
    })();
    const clients = await Promise.all(Array.from({ length: 200 }, () => connect({ port })));
    const replies = await Promise.all(clients.map((conn) => recvAll(conn)));
    expect(replies.every((reply) => String(reply) === "hi")).toBe(true);
    server.close();
    await serving;
    for (const conn of clients) conn.close();
  });

  testPython(
    "a burst does not count against a server that takes one connection a turn",
    async () => {
      using server = listen({ port: 0, backlog: 1 });
      await using storm = python(
        `
conns = [connect(sys.argv[1]) for _ in range(60)]
print("served", sum(c.recv(10) == b"hi" for c in conns))`,
        server.address.port,
      );
      for (let served = 0; served < 60; served++) {
        await server.waitReadable();
        await turn();
        const conn = server.tryAccept()!;
        conn.trySend("hi");
        conn.close();
      }
      await storm.until(/served 60\n/);
    },
  );

  test("one that is reset while it waits is dropped from the queue", async () => {
    using server = listen({ port: 0 });
    const { port } = server.address;
    const gone = await connect({ port });
    await server.waitReadable();
    gone.reset();
    using stays = await connect({ port });
    while (server.poll() === 0) await turn();
    let conn = await server.accept();
    expect(conn.remoteAddress).toEqual(stays.localAddress);
    conn.close();
  });

  test("what comes before accept waits for it, bounded", async () => {
    using server = listen({ port: 0 });
    using near = await connect({ port: server.address.port });
    const sent = await fillUp(near);
    using far = await server.accept();
    const held = takeHeld(far);
    expect(held).toBeLessThanOrEqual(HELD);
    near.shutdown("write");
    expect(held + (await recvAll(far)).length).toBe(sent);
  });
});

describe("recv", () => {
  test("gives 1 to maxBytes bytes, then an empty Buffer at EOF, again and again", async () => {
    using both = await pair();
    await both.near.sendAll("hello");
    expect(String(await both.far.recv(2))).toBe("he");
    expect(String(await both.far.recv(100))).toBe("llo");
    const waiting = both.far.recv(100);
    both.near.close();
    expect((await waiting).length).toBe(0);
    expect((await both.far.recv(1)).length).toBe(0);
    expect(both.far.tryRecv(1)!.length).toBe(0);
  });

  test("gives what came in several pieces as one, as the kernel does", async () => {
    using both = await pair();
    await both.near.sendAll("a");
    await both.far.waitReadable();
    await both.near.sendAll("b");
    await both.near.sendAll("c");
    await turn(); // on loopback it is all there by now
    await turn();
    expect(String(both.far.tryRecv(10))).toBe("abc");
  });

  test("keeps every byte in order through any sizes", async () => {
    using both = await pair();
    const data = pattern(3 * MIB);
    const sending = both.near.sendAll(data).then(() => both.near.shutdown("write"));
    const pieces: Buffer[] = [];
    for (let size = 1; ; size = (size * 7) % 100_003) {
      const piece = await both.far.recv(size);
      if (piece.length === 0) break;
      expect(piece.length).toBeLessThanOrEqual(size);
      pieces.push(piece);
    }
    await sending;
    expect(Buffer.concat(pieces).equals(data)).toBe(true);
  });

  test("hands out memory that nothing overwrites later", async () => {
    using both = await pair();
    const kept: Buffer[] = [];
    for (let i = 0; i < 50; i++) {
      await both.near.sendAll(`message ${i} `.repeat(20));
      kept.push(await both.far.recvExactly(`message ${i} `.length * 20));
    }
    kept.forEach((chunk, i) => expect(String(chunk)).toBe(`message ${i} `.repeat(20)));
  });

  test("tryRecv gives null when nothing is there", async () => {
    using both = await pair();
    expect(both.far.tryRecv(10)).toBeNull();
    await both.near.sendAll("x");
    await both.far.waitReadable();
    expect(String(both.far.tryRecv(10))).toBe("x");
    expect(both.far.tryRecv(10)).toBeNull();
  });

  test("refuses sizes that make no sense, with the value", async () => {
    using both = await pair();
    for (const size of [0, -1, 1.5, NaN, Infinity]) {
      const error = await failure(both.near.recv(size));
      expect(error).toBeInstanceOf(RangeError);
      expect(error.message).toContain(String(size));
      expect(await failure(() => both.near.tryRecv(size))).toBeInstanceOf(RangeError);
    }
    expect(await failure(both.near.recv("5" as any))).toBeInstanceOf(TypeError);
    expect(await failure(both.near.recvExactly(-1))).toBeInstanceOf(RangeError);
  });

  test("one receiver at a time: a second is EBUSY, waitReadable does not count", async () => {
    using both = await pair();
    const waiting = both.far.recv(10);
    const readable = both.far.waitReadable();
    expect((await failure(both.far.recv(10))).code).toBe("EBUSY");
    expect((await failure(both.far.recvExactly(10))).code).toBe("EBUSY");
    expect(both.far.tryRecv(10)).toBeNull();
    await both.near.sendAll("x");
    expect(String(await waiting)).toBe("x");
    await both.near.sendAll("y");
    await readable;
    expect(String(both.far.tryRecv(10))).toBe("y");
  });

  test.each(["a signal", "its time limit"])(
    "what came for a recvExactly that %s ended wakes waitReadable and select",
    async (what) => {
      using both = await pair();
      const { near, far } = both;
      const ends = new AbortController();
      if (what === "its time limit") near.setTimeout(50);
      const receiving = failure(near.recvExactly(100, { signal: ends.signal }));
      const waiting = near.waitReadable();
      const selecting = select([near], [], []);
      await far.sendAll("part");
      while (near.bytesReceived < 4) await turn();
      if (what === "a signal") ends.abort();
      await receiving;
      await waiting;
      expect((await selecting)[0]).toEqual([near]);
      expect(String(near.tryRecv(100))).toBe("part");
    },
  );

  test("a signal ends one recv and loses no byte", async () => {
    using both = await pair();
    const stop = new AbortController();
    const waiting = failure(both.far.recvExactly(10, { signal: stop.signal }));
    await both.near.sendAll("half");
    await turn();
    stop.abort("enough");
    expect(await waiting).toBe("enough");
    expect(await failure(both.far.recv(10, { signal: stop.signal }))).toBe("enough");
    expect(String(await both.far.recv(10))).toBe("half");
  });

  test("one signal serves many calls, and later another one", async () => {
    using both = await pair();
    const [first, second] = [new AbortController(), new AbortController()];
    for (const { signal } of [first, first, second, first, second]) {
      await both.near.sendAll("x");
      expect(String(await both.far.recv(1, { signal }))).toBe("x");
    }
    const unsignalled = both.far.recv(1);
    second.abort();
    await both.near.sendAll("y");
    expect(String(await unsignalled)).toBe("y");
    const waiting = failure(both.far.recv(1, { signal: first.signal }));
    first.abort("first");
    expect(await waiting).toBe("first");
  });

  test("a signal of an earlier call ends no later one; after a close none is listened to", async () => {
    using both = await pair();
    const [first, second] = [new AbortController(), new AbortController()];
    for (const { signal } of [first, second]) {
      const waiting = both.far.recv(1, { signal });
      await both.near.sendAll("x");
      await waiting;
    }
    const waiting = both.far.recv(1, { signal: second.signal });
    first.abort("too late");
    await both.near.sendAll("y");
    expect(String(await waiting)).toBe("y");
    both.far.close();
    for (const { signal } of [first, second]) {
      expect(getEventListeners(signal, "abort")).toEqual([]);
    }
  });

  test("a for-await gives all that is there at once", async () => {
    using both = await pair();
    both.far.unrecv(Buffer.alloc(300_000));
    for await (const chunk of both.far) {
      expect(chunk.length).toBe(300_000);
      break;
    }
  });

  test("a for-await gives the chunks, ends at EOF, and loses nothing when left early", async () => {
    using both = await pair();
    await both.near.sendAll("first");
    for await (const chunk of both.far) {
      expect(String(chunk)).toBe("first");
      break;
    }
    const rest = recvAll(both.far);
    await both.near.sendAll(pattern(MIB));
    both.near.close();
    expect((await rest).equals(pattern(MIB))).toBe(true);
  });
});

describe("recvExactly", () => {
  test("waits for all, even for more than the inbox holds", async () => {
    using both = await pair();
    const data = pattern(5 * MIB);
    const [got] = await Promise.all([both.far.recvExactly(data.length), both.near.sendAll(data)]);
    expect(got.equals(data)).toBe(true);
    expect((await both.far.recvExactly(0)).length).toBe(0);
  });

  test("leaves the bytes behind its own", async () => {
    using both = await pair();
    await both.near.sendAll("abcdef");
    expect(String(await both.far.recvExactly(2))).toBe("ab");
    expect(String(await both.far.recvExactly(2))).toBe("cd");
    expect(String(await both.far.recv(10))).toBe("ef");
  });

  test("an EOF before all is EINCOMPLETE, with what came", async () => {
    using both = await pair();
    const waiting = failure(both.far.recvExactly(10));
    await both.near.sendAll("abc");
    both.near.shutdown("write");
    const error = await waiting;
    expect(error.code).toBe("EINCOMPLETE");
    expect(String(error.partial)).toBe("abc");
    expect((await both.far.recv(10)).length).toBe(0);
    expect((await failure(both.far.recvExactly(1))).partial.length).toBe(0);
  });
});

describe("send", () => {
  test("text goes as UTF-8, sending nothing resolves at once", async () => {
    using both = await pair();
    expect(await both.near.send("한국어")).toBe(9);
    expect(String(await both.far.recvExactly(9))).toBe("한국어");
    expect(await both.near.send("")).toBe(0);
    expect(both.near.trySend(new Uint8Array(0))).toBe(0);
    fill(both.near);
    await both.near.sendAll("");
    expect(await both.near.send("")).toBe(0);
  });

  test("refuses what is neither text nor bytes", async () => {
    using both = await pair();
    for (const data of [1, null, undefined, {}, [1, 2]] as any[]) {
      expect(await failure(both.near.send(data))).toBeInstanceOf(TypeError);
      expect(await failure(both.near.sendAll(data))).toBeInstanceOf(TypeError);
      expect(await failure(() => both.near.trySend(data))).toBeInstanceOf(TypeError);
    }
  });

  test("takes part of what does not fit, and says how much", async () => {
    using both = await pair();
    const sent = await both.near.send(new Uint8Array(64 * MIB));
    expect(sent).toBeGreaterThan(0);
    expect(sent).toBeLessThan(64 * MIB);
    expect(both.near.trySend("x")).toBe(0);
    const waiting = both.near.send("x");
    both.far.recvExactly(sent + 1).catch(() => {});
    expect(await waiting).toBe(1);
  });

  test("sendAll waits for a slow reader, whose memory stays bounded", async () => {
    using both = await pair();
    const data = pattern(32 * MIB);
    let done = false;
    const sending = both.near.sendAll(data).then(() => (done = true));
    for (let i = 0; i < 100; i++) await turn(); // until nothing moves any more
    expect(done).toBe(false);
    const held = takeHeld(both.far);
    expect(held).toBeLessThanOrEqual(HELD);
    const rest = await both.far.recvExactly(data.length - held);
    expect(rest.equals(data.subarray(held))).toBe(true);
    await sending;
  });

  test("several are under way: whole, in call order, and trySend waits its turn", async () => {
    using both = await pair();
    const parts = [pattern(8 * MIB, 1), pattern(1000, 2), pattern(8 * MIB, 3), pattern(1, 4)];
    const sending = Promise.all(parts.map((part) => both.near.sendAll(part)));
    expect(both.near.trySend("in between")).toBe(0);
    both.near.shutdown("write"); // takes its turn too
    const got = await recvAll(both.far);
    await sending;
    expect(got.equals(Buffer.concat(parts))).toBe(true);
  });

  test("waitWritable resolves when there is room again", async () => {
    using both = await pair();
    await both.near.waitWritable();
    const sent = fill(both.near);
    let writable = false;
    const waiting = both.near.waitWritable().then(() => (writable = true));
    await turn();
    expect(writable).toBe(false);
    await both.far.recvExactly(sent);
    await waiting;
    expect(both.near.trySend("x")).toBe(1);
  });

  test("a socket that nobody reads holds no more than its limit", async () => {
    using server = listen({ port: 0 });
    using near = await connect({ port: server.address.port });
    using far = await server.accept();
    const sent = await fillUp(near);
    const held = takeHeld(far);
    expect(held).toBeLessThanOrEqual(HELD);
    expect(sent).toBeGreaterThan(held);
  });
});

describe("shutdown", () => {
  test("write: the peer gets EOF, we still receive, and a further send is EPIPE", async () => {
    using both = await pair();
    await both.near.sendAll("question");
    both.near.shutdown("write");
    both.near.shutdown("write"); // twice is fine
    expect(String(await recvAll(both.far))).toBe("question");
    for (const error of [
      await failure(both.near.send("x")),
      await failure(both.near.sendAll("x")),
      await failure(() => both.near.trySend("x")),
    ]) {
      expect(error.code).toBe("EPIPE");
      expect(error.syscall).toBe("send");
    }
    await both.near.waitWritable(); // writable, because a send would fail at once
    await both.far.sendAll("answer");
    both.far.shutdown("write");
    expect(String(await recvAll(both.near))).toBe("answer");
    expect((await both.near.recv(1)).length).toBe(0);
  });

  test("read: EOF for a waiting recv and every later one, and the peer is not blocked", async () => {
    using both = await pair();
    const waiting = both.far.recv(10);
    both.far.shutdown("read");
    expect((await waiting).length).toBe(0);
    await both.near.sendAll(new Uint8Array(16 * MIB)); // it is received and dropped
    expect((await both.far.recv(10)).length).toBe(0);
    await both.far.sendAll("still talking");
    expect(String(await both.near.recv(100))).toBe("still talking");
  });

  test("read: a waiting recvExactly is told what had come", async () => {
    using both = await pair();
    const receiving = failure(both.far.recvExactly(10));
    await both.near.sendAll("abc");
    while (both.far.bytesReceived < 3) await turn();
    both.far.shutdown("read");
    const { code, partial } = await receiving;
    expect([code, String(partial)]).toEqual(["EINCOMPLETE", "abc"]);
  });

  test("read: what is given back afterwards is dropped, too", async () => {
    using both = await pair();
    both.far.shutdown("read");
    both.far.unrecv(Buffer.from("too late"));
    expect((await both.far.recv(10)).length).toBe(0);
  });

  test("read lets go of what was there, also when the socket was paused", async () => {
    using both = await pair();
    fill(both.near);
    await both.far.waitReadable();
    both.far.shutdown("both");
    expect((await both.far.recv(10)).length).toBe(0);
    expect((await failure(both.far.send("x"))).code).toBe("EPIPE");
    await both.near.sendAll(new Uint8Array(16 * MIB));
    expect((await both.near.recv(10)).length).toBe(0);
  });

  test("refuses what is no direction", async () => {
    using both = await pair();
    const error = await failure(() => both.near.shutdown("sideways" as any));
    expect(error).toBeInstanceOf(TypeError);
    expect(error.message).toContain("sideways");
  });
});

describe("close", () => {
  test("what was sent still arrives, then EOF", async () => {
    using both = await pair();
    const sent = fill(both.near);
    both.near.close();
    expect((await recvAll(both.far)).length).toBe(sent);
  });

  test("every later call is EBADF, a waiting one rejects with it, twice is fine", async () => {
    using both = await pair();
    const { near } = both;
    const address = near.remoteAddress;
    fill(near);
    const waiting = [near.recv(1), near.sendAll("x"), near.waitReadable(), near.waitWritable()].map(
      failure,
    );
    near.close();
    near.close();
    near.reset();
    for (const error of await Promise.all(waiting)) expect(error.code).toBe("EBADF");
    const later = [
      near.recv(1),
      near.recvExactly(1),
      near.recvExactly(0),
      near.send("x"),
      near.sendAll(""),
      near.waitReadable(),
      near.waitWritable(),
      () => near.tryRecv(1),
      () => near.trySend("x"),
      () => near.shutdown("write"),
      () => near.setTimeout(1),
      () => near.setNoDelay(),
      () => near.setKeepAlive(),
      near[Symbol.asyncIterator]().next(),
    ].map(failure);
    for (const error of await Promise.all(later)) {
      expect(error).toBeInstanceOf(SocketError);
      expect(error.code).toBe("EBADF");
    }
    expect(near.remoteAddress).toEqual(address);
    expect(near.localAddress.port).toBeGreaterThan(0);
  });

  test("`using` closes", async () => {
    using both = await pair();
    {
      using _near = both.near;
    }
    expect((await both.far.recv(1)).length).toBe(0);
  });
});

describe("reset", () => {
  test("the peer's recv rejects with ECONNRESET, every time, after what came before", async () => {
    using both = await pair();
    await both.near.sendAll("last words");
    await both.far.waitReadable();
    both.near.reset();
    while (!(both.far.poll() & 8)) await turn();
    expect(String(await both.far.recv(100))).toBe("last words");
    for (let i = 0; i < 3; i++) {
      const error = await failure(both.far.recv(1));
      expect(error.code).toBe("ECONNRESET");
      expect(error.syscall).toBe("recv");
      expect(error.address).toEqual(both.far.remoteAddress);
    }
    expect((await failure(() => both.far.tryRecv(1))).code).toBe("ECONNRESET");
    expect(["EPIPE", "ECONNRESET"]).toContain((await failure(both.far.send("x"))).code);
    expect(both.far.remoteAddress.port).toBeGreaterThan(0);
  });

  test("a waiting recv, recvExactly, for-await and sendAll all hear of it", async () => {
    for (const wait of [
      (conn: Socket) => conn.recv(1),
      (conn: Socket) => conn.recvExactly(10),
      (conn: Socket) => recvAll(conn),
    ]) {
      using both = await pair();
      const waiting = failure(wait(both.far));
      both.near.reset();
      expect((await waiting).code).toBe("ECONNRESET");
    }
    using both = await pair();
    const sent = fill(both.near);
    const waiting = failure(both.near.sendAll("x"));
    both.far.reset();
    const error = await waiting;
    expect(["EPIPE", "ECONNRESET"]).toContain(error.code);
    expect(error.bytesSent).toBe(0);
    expect(sent).toBeGreaterThan(0);
  });

  test("in the middle of recvExactly, what came is in the error, and the reset behind it", async () => {
    using both = await pair();
    const waiting = failure(both.far.recvExactly(10));
    await both.near.sendAll("half");
    await turn();
    both.near.reset();
    const error = await waiting;
    expect(error.code).toBe("EINCOMPLETE");
    expect(String(error.partial)).toBe("half");
    expect(error.cause.code).toBe("ECONNRESET");
    expect((await failure(both.far.recv(1))).code).toBe("ECONNRESET");
  });

  test("sends to a peer that is gone fail, and never more than that", async () => {
    using both = await pair();
    both.far.close();
    let error: any;
    for (let i = 0; i < 100 && error === undefined; i++) {
      await both.near.sendAll("anybody?").catch((cause) => (error = cause));
      await turn();
    }
    expect(["EPIPE", "ECONNRESET"]).toContain(error.code);
    await failure(both.near.send("x"));
  });
});

describe("setTimeout", () => {
  test("bounds recv; afterwards the socket is as before", async () => {
    using both = await pair();
    both.far.setTimeout(20);
    const error = await failure(both.far.recv(10));
    expect(error.code).toBe("ETIMEDOUT");
    expect(error.message).toStartWith("recv ETIMEDOUT 127.0.0.1:");
    both.far.setTimeout(10_000); // the machine may be slow
    const waiting = both.far.recv(10);
    await both.near.sendAll("late");
    expect(String(await waiting)).toBe("late");
  });

  test("a long time limit of a later call does not put off a short one", async () => {
    using both = await pair();
    both.far.setTimeout(30);
    const receiving = failure(both.far.recv(10));
    both.far.setTimeout(3_600_000);
    const sending = failure(both.far.sendAll(new Uint8Array(64 * MIB)));
    expect((await receiving).code).toBe("ETIMEDOUT");
    both.far.close();
    expect((await sending).code).toBe("EBADF");
  });

  test("a signal of null is none, as for fetch", async () => {
    using both = await pair();
    const none = { signal: null as unknown as undefined };
    const receiving = both.far.recv(5, none);
    await both.near.sendAll("hello", none);
    expect(String(await receiving)).toBe("hello");
    await both.near.sendAll(new Uint8Array(32 * MIB).subarray(0, 0), none);
    const large = both.near.sendAll(new Uint8Array(32 * MIB), none); // it has to wait
    expect((await both.far.recvExactly(32 * MIB, none)).length).toBe(32 * MIB);
    await large;
  });

  test("each call has its own limit, in whatever order they were called", async () => {
    using both = await pair();
    const { near } = both;
    const within = (ms: number | null, call: () => Promise<unknown>) => {
      near.setTimeout(ms);
      return failure(call());
    };
    let stillGoing = true;
    const sending = within(null, () => near.sendAll(new Uint8Array(64 * MIB)));
    sending.then(() => (stillGoing = false));
    const receiving = within(20, () => near.recv(1));
    const second = within(60, () => near.sendAll("second"));
    const third = within(null, () => near.sendAll("third")); // it waits behind `second`, which is given up
    for (const call of [receiving, second, third]) expect((await call).code).toBe("ETIMEDOUT");
    expect(stillGoing).toBe(true);
    near.close();
    expect((await sending).code).toBe("EBADF");
  });

  test("bounds recvExactly as a whole, and gives the part that came to the next call", async () => {
    using both = await pair();
    both.far.setTimeout(60);
    const started = performance.now();
    const waiting = failure(both.far.recvExactly(1000));
    let sent = 0;
    const dribble = setInterval(() => (sent += both.near.trySend("x")), 10);
    expect((await waiting).code).toBe("ETIMEDOUT");
    clearInterval(dribble);
    expect(performance.now() - started).toBeGreaterThanOrEqual(59);
    expect(sent).toBeGreaterThan(1);
    expect(String(await both.far.recvExactly(sent))).toBe("x".repeat(sent));
  });

  test("a call that comes later has its own time", async () => {
    using both = await pair();
    both.far.setTimeout(1_000);
    const sendAfter = async (ms: number, text: string) => {
      await Bun.sleep(ms);
      await both.near.sendAll(text);
    };
    for (let i = 0; i < 3; i++) {
      const [got] = await Promise.all([both.far.recv(1), sendAfter(400, "x")]); // 1.2 s in all
      expect(String(got)).toBe("x");
    }
    both.far.setTimeout(20);
    both.far.setTimeout(null);
    const [got] = await Promise.all([both.far.recv(1), sendAfter(60, "y")]);
    expect(String(got)).toBe("y");
  });

  test("bounds sendAll, which says how much went; those behind it reject too", async () => {
    using both = await pair();
    both.near.setTimeout(30);
    const data = pattern(32 * MIB);
    const [first, second, third] = await Promise.all(
      [both.near.sendAll(data), both.near.sendAll("behind"), both.near.send("behind")].map(failure),
    );
    expect(first.code).toBe("ETIMEDOUT");
    expect(first.bytesSent).toBeGreaterThan(0);
    expect([second.code, second.bytesSent]).toEqual(["ETIMEDOUT", 0]);
    expect([third.code, third.bytesSent]).toEqual(["ETIMEDOUT", 0]);
    both.near.close();
    // The peer gets a part and then a reset: a FIN would make the part look complete.
    expect((await failure(recvAll(both.far))).code).toBe("ECONNRESET");
  });

  test("a shutdown behind a send out of time is as if it had not been called", async () => {
    using both = await pair();
    both.near.setTimeout(30);
    const sending = failure(both.near.sendAll(new Uint8Array(32 * MIB)));
    both.near.shutdown("write");
    const { bytesSent } = await sending;
    // No FIN makes the part look complete. The peer gets the part, and then whatever is sent next.
    const part = both.far.recvExactly(bytesSent);
    await part;
    await both.near.sendAll("an excuse");
    expect(String(await both.far.recvExactly(9))).toBe("an excuse");
    both.near.shutdown("write");
    expect((await failure(recvAll(both.far))).code).toBe("ECONNRESET");
  });

  test("refuses 0, negative numbers and NaN", async () => {
    using both = await pair();
    for (const ms of [0, -1, NaN]) {
      const error = await failure(() => both.near.setTimeout(ms));
      expect(error).toBeInstanceOf(RangeError);
      expect(error.message).toContain(String(ms));
    }
    expect(await failure(() => both.near.setTimeout("1" as any))).toBeInstanceOf(TypeError);
    both.near.setTimeout(Infinity);
  });
});

testWith("ss", "setKeepAlive: probes begin after whole seconds, rounded up", async () => {
  using both = await pair();
  const { near, far } = both;
  /** The timer of our socket that is running, as ss(8) shows it. */
  const timer = () => {
    const [sport, dport] = [near, far].map((conn) => `:${conn.localAddress.port}`);
    const { stdout } = Bun.spawnSync(["ss", "-tnoH", "sport", sport!, "and", "dport", dport!]);
    return String(stdout).match(/timer:\((.*),\d+\)/)?.[1];
  };
  expect(timer()).toBeUndefined();
  for (const [ms, told] of [
    [0, /^keepalive,(120|119)min$/], // the system's two hours
    [500, /^keepalive,(1sec|\d+ms)$/],
    [1_001, /^keepalive,(2sec|1\.\d+ms)$/], // ss writes 1.9 s as "1.900ms"
  ] as const) {
    // On a busy machine, a second may be over before ss looks: then it is tried again.
    for (let seen = false; !seen; await turn()) {
      near.setKeepAlive(true, ms);
      seen = told.test(timer() ?? "");
      near.setKeepAlive(false);
      expect(timer()).toBeUndefined();
    }
  }
});

describe("Web Streams", () => {
  test("receive nothing before somebody reads: recv still works", async () => {
    using both = await pair();
    const { readable } = both.far;
    await both.near.sendAll("for recv, for the stream");
    expect(String(await both.far.recv(10))).toBe("for recv, ");
    const { value } = await readable.getReader().read();
    expect(String(Buffer.from(value!))).toBe("for the stream");
  });

  test("carry bytes both ways, and closing writable sends FIN only", async () => {
    using both = await pair();
    const data = pattern(2 * MIB);
    const writer = both.near.writable.getWriter();
    const sending = writer.write(data).then(() => writer.close());
    const got = await new Response(both.far.readable).bytes();
    await sending;
    expect(Buffer.from(got).equals(data)).toBe(true);
    await both.far.sendAll("answer");
    expect(String(await both.near.recv(100))).toBe("answer");
    expect(both.near.writable).toBe(both.near.writable);
  });

  test("a socket can be piped to itself: an echo", async () => {
    using both = await pair();
    const echoing = both.far.readable.pipeTo(both.far.writable);
    await both.near.sendAll("hello");
    both.near.shutdown("write");
    expect(String(await recvAll(both.near))).toBe("hello");
    await echoing;
  });

  test("aborting writable resets, even while a write waits", async () => {
    using both = await pair();
    const writer = both.near.writable.getWriter();
    const writing = failure(writer.write(new Uint8Array(64 * MIB)));
    await both.far.waitReadable();
    writer.abort("enough").catch(() => {});
    await writing;
    expect((await failure(recvAll(both.far))).code).toBe("ECONNRESET");
  });

  test("cancelling readable ends a waiting read, and the socket goes on", async () => {
    using both = await pair();
    const reader = both.far.readable.getReader();
    const reading = reader.read();
    await turn();
    expect((await failure(both.far.recv(1))).code).toBe("EBUSY"); // the reader is waiting
    await reader.cancel();
    expect((await reading).done).toBe(true);
    await both.near.sendAll("hello");
    expect(String(await both.far.recv(10))).toBe("hello");
  });

  test("what a cancelled read had taken already is for the next recv", async () => {
    using both = await pair();
    const reader = both.near.readable.getReader();
    await both.far.sendAll("hello");
    await both.near.waitReadable();
    const reading = reader.read();
    await reader.cancel();
    expect(await reading).toEqual({ done: true, value: undefined });
    expect(String(await both.near.recv(10))).toBe("hello");
  });

  test("readable errors on a reset", async () => {
    using both = await pair();
    const reading = failure(both.far.readable.getReader().read());
    both.near.reset();
    expect((await reading).code).toBe("ECONNRESET");
  });
});

describe("with CPython at the other end", () => {
  testPython("its client and our server exchange every byte", async () => {
    using server = listen({ port: 0 });
    await using client = python(
      `
conn = connect(sys.argv[1])
data = bytes(range(256)) * 40000
threading.Thread(target=lambda: (conn.sendall(data), conn.shutdown(socket.SHUT_WR))).start()
print("same" if recv_all(conn) == data else "different")`,
      server.address.port,
    );
    using conn = await server.accept();
    for await (const chunk of conn) await conn.sendAll(chunk);
    conn.shutdown("write");
    await client.until(/same/);
    expect(await client.exit()).toBe(0);
  });

  testPython("its server and our client exchange every byte", async () => {
    await using server = python(`
conn, _ = listen().accept()
while chunk := conn.recv(4096): conn.sendall(chunk)
conn.close()`);
    using conn = await connect({ port: await server.port() });
    const data = pattern(8 * MIB);
    const [got] = await Promise.all([
      recvAll(conn),
      conn.sendAll(data).then(() => conn.shutdown("write")),
    ]);
    expect(got.equals(data)).toBe(true);
    expect(await server.exit()).toBe(0);
  });

  testPython("a reset with bytes before it, while we were not reading", async () => {
    await using server = python(`
conn, _ = listen().accept()
conn.sendall(b"x" * 50000)
sys.stdin.readline()
reset(conn)`);
    using conn = await connect({ port: await server.port() });
    await conn.waitReadable();
    server.type("go\n");
    const got: number[] = [];
    const error = await failure(async () => {
      for await (const chunk of conn) got.push(chunk.length);
    });
    expect(error.code).toBe("ECONNRESET");
    expect(got.reduce((sum, length) => sum + length, 0)).toBe(50_000);
  });

  testPython("trySend takes its turn even when there is room for it already", async () => {
    const received = join(tmpdir(), `received-${process.pid}`);
    await using server = python(
      `
conn, _ = listen().accept()
sys.stdin.readline()
conn.recv(int(sys.argv[1]), socket.MSG_WAITALL); open(sys.argv[2], "w").close()
print("rest", recv_all(conn).decode())`,
      1 << 20,
      received,
    );
    using conn = await connect({ port: await server.port() });
    fill(conn);
    const sending = conn.sendAll("first");
    server.type("\n");
    while (!existsSync(received)); // there is room now, but the event loop has not turned
    rmSync(received);
    const sent = conn.trySend(" second"); // behind it, or not at all
    await sending;
    conn.close();
    await server.until(sent === 0 ? /\0first\n/ : /\0first second\n/);
  });

  testPython("resets that come at any moment of a connection's beginning", async () => {
    await using server = python(`
s = listen()
while True: reset(s.accept()[0])`);
    const port = await server.port();
    const meet = async () => {
      using conn = await connect({ port });
      expect(conn.remoteAddress).toEqual({ host: "127.0.0.1", port });
      return await conn.recv(1);
    };
    for (let i = 0; i < 20; i++) {
      const errors = await Promise.all(Array.from({ length: 50 }, () => failure(meet)));
      for (const error of errors) expect(error.code).toBe("ECONNRESET");
    }
  });

  testPython(
    "clients that reset at once: accepted with a whole address, or not at all",
    async () => {
      using server = listen({ port: 0 });
      await using client = python(
        `
for _ in range(2000): c = connect(sys.argv[1]); c.sendall(b"x"); reset(c)
print("done")`,
        server.address.port,
      );
      const done = client.until(/done\n/).then(() => server.close());
      for await (const conn of server) {
        expect(conn.remoteAddress.host).toBe("127.0.0.1");
        expect(conn.remoteAddress.port).toBeGreaterThan(0);
        conn.close();
      }
      await done;
    },
  );

  testPython("it sends 64 MiB, we do not read: its send blocks", async () => {
    await using server = python(`
conn, _ = listen().accept()
conn.settimeout(0.5)
sent = 0
try:
    while sent < 64 << 20: sent += conn.send(b"x" * 65536)
except TimeoutError: pass
print("sent", sent)
conn.close()`);
    using conn = await connect({ port: await server.port() });
    const sent = Number((await server.until(/sent (\d+)\n/))[1]);
    expect(sent).toBeLessThan(32 * MIB);
    expect((await recvAll(conn)).length).toBe(sent);
  });

  testPython("one byte at a time", async () => {
    await using server = python(`
conn, _ = listen().accept()
conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for i in range(2000): conn.send(bytes([i % 251]))
conn.close()`);
    using conn = await connect({ port: await server.port() });
    const got = await recvAll(conn);
    expect(got.equals(Buffer.from(Array.from({ length: 2000 }, (_, i) => i % 251)))).toBe(true);
  });
});
