// A peer that is fast or slow, or many peers: the others are served, and memory is limited.

import { afterEach, describe, expect, spyOn, test } from "bun:test";
import { readFileSync } from "node:fs";

import { delimited, messages } from "../lib/framing.ts";
import { connect, listen, type Socket, socketpair } from "../lib/socket.ts";
import { waiting } from "../lib/socket/queues.ts";
import { failure, pattern, Process, turn } from "./helpers.ts";

const LOOPS = [
  ...readFileSync(`${import.meta.dir}/fixtures/greedy.ts`, "utf8").matchAll(
    /^  async "?(.*?)"?\(/gm,
  ),
].map(([, name]) => name!);

describe("awaiting lets others run, though one peer is as fast as can be", () => {
  test.each(LOOPS)("%s", async (loop) => {
    await using server = new Process([
      process.execPath,
      `${import.meta.dir}/fixtures/greedy.ts`,
      loop,
    ]);
    const port = await server.port();
    using fast = await connect({ port });
    const flood = Buffer.alloc(64 * 1024, "\n");
    const flooding = (async () => {
      for (;;) await fast.sendAll(flood);
    })().catch(() => {});
    const draining = (async () => {
      while ((await fast.recv(1 << 20)).length > 0);
    })().catch(() => {});
    for (let i = 0; i < 5; i++) {
      using other = await connect({ port });
      await other.sendAll("anybody there?");
      expect(String(await other.recvExactly(14))).toBe("anybody there?");
    }
    server.kill("SIGTERM");
    expect(await server.exit()).toBe(0);
    fast.reset();
    await Promise.all([flooding, draining]);
  });
});

describe("many small sends", () => {
  test("of one turn leave in two writes: the first at once, the others when it ends", async () => {
    using both = await socketpair();
    const { near, far } = both;
    for (let i = 0; i < 100; i++) await near.sendAll("0123456789");
    expect([near.bytesSent, near.bufferedAmount]).toEqual([10, 990]);
    expect(String(await far.recvExactly(1000))).toBe("0123456789".repeat(100));
    expect([near.bytesSent, near.bufferedAmount]).toEqual([1000, 0]);
  });

  test("the first of each turn leaves at once, also where nothing is received", async () => {
    using both = await socketpair();
    for (let i = 0; i < 10; i++) {
      await both.near.sendAll("x");
      expect(both.near.bufferedAmount).toBe(0);
      await turn();
    }
  });

  test("over 64 KiB are handed over before the turn ends", async () => {
    using both = await socketpair();
    for (let i = 0; i < 200; i++) both.near.trySend(new Uint8Array(1000));
    expect(both.near.bytesSent).toBeGreaterThan(100_000);
    expect(both.near.bufferedAmount).toBeLessThanOrEqual(64 * 1024);
  });

  test("the caller's array may change once sendAll has resolved, or returned", async () => {
    using both = await socketpair();
    const bytes = Buffer.from("a");
    for (const letter of "abcdefgh") {
      bytes.write(letter);
      both.near.sendAll(bytes);
    }
    bytes.write("!");
    expect(String(await both.far.recvExactly(8))).toBe("abcdefgh");
  });

  test("200,000 sends to a peer that does not read yet: it gets them all, in order", async () => {
    using both = await socketpair();
    const { near, far } = both;
    let filled = 0;
    for (let sent = 1; sent > 0; filled += sent) sent = near.trySend(pattern(1 << 20));
    const numbers = Array.from({ length: 200_000 }, (_, i) =>
      Buffer.from(`${i}`.padStart(10, "0")),
    );
    const sends = numbers.map((number) => near.sendAll(number));
    expect(near.bufferedAmount).toBeGreaterThan(1_000_000);
    await far.recvExactly(filled);
    const got = await far.recvExactly(2_000_000);
    expect(got.equals(Buffer.concat(numbers))).toBe(true);
    await Promise.all(sends);
  });

  test("what the kernel has no room for leaves after a close, when the peer reads at last", async () => {
    using both = await socketpair();
    const { near, far } = both;
    while (near.bufferedAmount === 0) {
      for (let i = 0; i < 60; i++) near.trySend(pattern(1000));
      await new Promise((resolve) => setImmediate(resolve));
    }
    const total = near.bytesSent + near.bufferedAmount;
    near.close();
    let over = false;
    near.closed.then(() => (over = true));
    await new Promise((resolve) => setImmediate(resolve));
    expect(over).toBe(false);
    let got = 0;
    for await (const chunk of far) got += chunk.length;
    expect(got).toBe(total);
    far.close();
    await near.closed;
  });
});

describe("a message that has begun is whole within the idle timeout", () => {
  test("a peer that dribbles is ended, though bytes move", async () => {
    using both = await socketpair();
    both.near.setIdleTimeout(200);
    const dribbling = setInterval(() => both.far.trySend("x"), 20);
    const error = await failure(messages(both.near, delimited()).next() as Promise<unknown>);
    clearInterval(dribbling);
    expect(error.code).toBe("ETIMEDOUT");
    // Bytes did come all the time, so it was not idle: the message took too long.
    expect(both.near.bytesReceived).toBeGreaterThan(3);
  });

  test("also one that began behind the message before it, while we send", async () => {
    using both = await socketpair();
    both.near.setIdleTimeout(200);
    const incoming = messages(both.near, delimited());
    await both.far.sendAll("one\ntw");
    expect(String((await incoming.next()).value)).toBe("one");
    const sending = setInterval(() => both.near.trySend("x"), 20); // so it is not idle
    const error = await failure(incoming.next() as Promise<unknown>);
    clearInterval(sending);
    expect(error.code).toBe("ETIMEDOUT");
  });
});

test("a connection that is over is let go of, also by the watch over all of them", async () => {
  const { signal } = new AbortController(); // one for all, as a server has it
  const live = async () => {
    const { near, far } = await socketpair();
    near.setIdleTimeout(60_000);
    const receiving = near.recv(1, { signal });
    await far.sendAll("x");
    await receiving;
    near.setTimeout(60_000);
    near.close();
    far.close();
    return new WeakRef(near);
  };
  const refs = await Promise.all(Array.from({ length: 50 }, live));
  const held = () => refs.filter((ref) => ref.deref() !== undefined).length;
  // A few addresses may still be on the stack, and the garbage collector takes them for references.
  for (let i = 0; i < 20 && held() > 5; i++) {
    await Bun.sleep(10);
    Bun.gc(true);
  }
  expect(held()).toBeLessThanOrEqual(5);
});

describe("what waits at all connections together", () => {
  afterEach(() => {
    waiting.limit = Infinity;
  });

  test("has a limit: above it those of a server are not read, until some of it has left", async () => {
    using server = listen({ port: 0 });
    const pairs: [Socket, Socket][] = [];
    for (let i = 0; i < 20; i++) {
      const near = await connect({ port: server.address.port });
      const far = await server.accept();
      far.setIdleTimeout(Infinity);
      pairs.push([near, far]);
    }
    const before = waiting.bytes;
    waiting.limit = before + (1 << 20);
    const sending = pairs.map(([near]) => near.sendAll(pattern(2 << 20)).catch(() => {}));
    // Alone, each would hold 64 KiB and a read. Together they may hold the limit, and reads that had begun.
    for (let quiet = 0, last = 0; quiet < 200; quiet++) {
      if (waiting.bytes !== last) quiet = 0;
      last = waiting.bytes;
      await new Promise((resolve) => setImmediate(resolve));
    }
    const held = pairs.reduce((sum, [, far]) => sum + far.bytesReceived, 0);
    expect(held).toBeGreaterThan(1 << 20);
    expect(held).toBeLessThan(3 << 20);
    // A receiver that reads gets everything.
    const readAll = async ([, far]: [Socket, Socket]) => {
      const got: Buffer[] = [];
      for (let left = 2 << 20; left > 0; left -= got.at(-1)!.length) got.push(await far.recv(left));
      expect(Buffer.concat(got).equals(pattern(2 << 20))).toBe(true);
    };
    await Promise.all(pairs.map(readAll));
    await Promise.all(sending);
    for (const pair of pairs) for (const conn of pair) conn.reset();
    expect(waiting.bytes).toBe(before);
  });
});
