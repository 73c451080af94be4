// The conformance kit: every promise of a connected socket as a check that runs on any kind of socket, with
// any peer at the other end. The idea is trio's `check_two_way_stream`. It can also run without the
// test runner, in a process of its own.

import assert from "node:assert/strict";

import { select } from "../lib/select.ts";
import type { Socket } from "../lib/socket.ts";
import { fails, pattern, recvAll } from "./helpers.ts";

/** The other end: a socket of the lib, a CPython process, or anything else with these methods. */
export interface Peer extends AsyncDisposable {
  /** Sends all of it, without waiting until the other side has received. */
  sendAll(data: Uint8Array): Promise<void>;
  recvExactly(bytes: number): Promise<Buffer>;
  recvToEnd(): Promise<Buffer>;
  /** Receives what comes before a reset. EOF is an error. */
  recvToReset(): Promise<Buffer>;
  /** FIN only. */
  shutdownWrite(): Promise<void>;
  close(): Promise<void>;
  /** RST, if this kind of socket has it. */
  reset(): Promise<void>;
}

export interface Pair {
  conn: Socket;
  peer: Peer;
}

export interface Kind {
  make(): Promise<Pair>;
  /** False for Unix-domain sockets, which have no reset: the other side gets EOF. */
  hasReset: boolean;
}

const BIG = 4 << 20;

/** More than any kernel takes at once. */
const MUCH = pattern(64 << 20);

/** The checks, by name. Each gets a fresh pair. */
export const checks: Record<string, (pair: Pair, kind: Kind) => Promise<void>> = {
  async "bytes go both ways, unchanged"({ conn, peer }) {
    await conn.sendAll("안녕");
    assert.equal(String(await peer.recvExactly(6)), "안녕");
    await conn.sendAll("");
    assert.equal(await conn.send(""), 0);
    assert.equal(await conn.send(new Uint8Array([0, 255, 10])), 3);
    assert.deepEqual([...(await peer.recvExactly(3))], [0, 255, 10]);
    await peer.sendAll(Buffer.from("answer"));
    assert.equal(String(await conn.recv(3)), "ans");
    assert.equal(String(await conn.recvExactly(3)), "wer");
  },

  async "much goes both ways at once"({ conn, peer }) {
    const [out, back] = [pattern(BIG, 1), pattern(BIG, 2)];
    const sending = peer.sendAll(back);
    const [there, here] = await Promise.all([
      peer.recvExactly(BIG),
      conn.recvExactly(BIG),
      conn.sendAll(out),
    ]);
    assert.ok(there.equals(out) && here.equals(back));
    await sending;
  },

  async "sends go out whole and in call order"({ conn, peer }) {
    const parts = [pattern(BIG, 3), pattern(10, 4), pattern(BIG, 5), pattern(1, 6)];
    const sending = Promise.all(parts.map((part) => conn.sendAll(part)));
    assert.equal(conn.trySend("not in between"), 0);
    conn.shutdown("write"); // the FIN waits behind them
    const received = await peer.recvToEnd();
    await sending;
    assert.ok(received.equals(Buffer.concat(parts)));
  },

  async "nothing there: tryRecv is null; one receiver at a time"({ conn, peer }) {
    assert.equal(conn.tryRecv(10), null);
    const receiving = conn.recv(10);
    const readable = conn.waitReadable();
    await fails(conn.recv(1), "EBUSY");
    await fails(conn.recvExactly(1), "EBUSY");
    await peer.sendAll(Buffer.from("x"));
    assert.equal(String(await receiving), "x");
    await peer.sendAll(Buffer.from("y"));
    await readable;
    assert.equal(String(conn.tryRecv(10)), "y");
  },

  async "no room: trySend is 0, until the peer receives"({ conn, peer }) {
    let sent = 0;
    for (let took = 1; took > 0; sent += took) took = conn.trySend(new Uint8Array(1 << 20));
    assert.ok(sent > 0);
    let writable = false;
    const waiting = conn.waitWritable().then(() => (writable = true));
    assert.deepEqual(await select([], [conn], [], 0), [[], [], []]);
    assert.equal(writable, false);
    await peer.recvExactly(sent);
    await waiting;
    assert.equal(conn.trySend("x"), 1);
  },

  async "the peer's FIN is EOF, again and again; we still send"({ conn, peer }) {
    await peer.sendAll(Buffer.from("last"));
    await peer.shutdownWrite();
    assert.equal(String(await conn.recvExactly(4)), "last");
    for (let i = 0; i < 3; i++) assert.equal((await conn.recv(10)).length, 0);
    assert.equal(conn.tryRecv(1)?.length, 0);
    await conn.waitReadable();
    assert.deepEqual((await select([conn], [], [conn], 0))[0], [conn]);
    const error = await fails(conn.recvExactly(1), "EINCOMPLETE");
    assert.equal(error.partial?.length, 0);
    await conn.sendAll("still talking");
    conn.shutdown("write");
    assert.equal(String(await peer.recvToEnd()), "still talking");
  },

  async "our FIN: a further send is EPIPE; we still receive"({ conn, peer }) {
    await conn.sendAll("all I had to say");
    conn.shutdown("write");
    conn.shutdown("write");
    assert.equal(String(await peer.recvToEnd()), "all I had to say");
    await fails(conn.send("x"), "EPIPE");
    await assert.rejects(conn.sendAll("x"), /EPIPE|ECONNRESET/);
    await fails(() => conn.trySend("x"), "EPIPE");
    await peer.sendAll(Buffer.from("answer"));
    assert.equal(String(await conn.recvExactly(6)), "answer");
    await peer.close();
    assert.equal((await conn.recv(1)).length, 0);
  },

  async "shutdown of reading is EOF at once, and the peer is not held up"({ conn, peer }) {
    const receiving = conn.recv(1);
    conn.shutdown("read");
    assert.equal((await receiving).length, 0);
    await peer.sendAll(pattern(BIG, 7));
    assert.equal((await conn.recv(1)).length, 0);
    await conn.sendAll("we talk");
    assert.equal(String(await peer.recvExactly(7)), "we talk");
  },

  async "what was sent arrives, though we close at once"({ conn, peer }) {
    const data = pattern(100_000, 8);
    const sent = conn.trySend(data);
    assert.ok(sent > 0);
    conn.close();
    const received = await peer.recvToEnd();
    assert.ok(received.equals(data.subarray(0, sent)));
  },

  async "closed: every call is EBADF, also one that waits"({ conn }) {
    const address = conn.remoteAddress;
    const waiting = [conn.recv(1), conn.waitReadable()];
    conn.close();
    for (const call of waiting) await fails(call, "EBADF");
    for (const call of [conn.recv(1), conn.recvExactly(1), conn.send("x"), conn.sendAll("")]) {
      await fails(call, "EBADF");
    }
    for (const call of [conn.waitReadable(), conn.waitWritable(), select([conn], [], [])]) {
      await fails(call, "EBADF");
    }
    for (const call of [
      () => conn.tryRecv(1),
      () => conn.trySend("x"),
      () => conn.shutdown("both"),
      () => conn.setTimeout(1),
    ]) {
      await fails(call, "EBADF");
    }
    conn.close();
    conn.reset();
    assert.deepEqual(conn.remoteAddress, address);
  },

  async "a reset comes after the bytes before it, and is told every time"({ conn, peer }, kind) {
    await peer.sendAll(Buffer.from("last words"));
    await conn.waitReadable();
    await peer.reset();
    assert.equal(String(await conn.recvExactly(10)), "last words");
    for (let i = 0; i < 3; i++) {
      if (kind.hasReset) await fails(conn.recv(1), "ECONNRESET");
      else assert.equal((await conn.recv(1)).length, 0);
    }
    await fails(keepSending(conn), "EPIPE", "ECONNRESET");
  },

  async "a reset while we wait"({ conn, peer }, kind) {
    const receiving = conn.recvExactly(10);
    receiving.catch(() => {});
    await peer.sendAll(Buffer.from("half"));
    while (conn.tryRecv(1) !== null); // null: while a call waits, what comes is for that call
    await peer.reset();
    const error = await fails(receiving, "EINCOMPLETE", "ECONNRESET");
    if (kind.hasReset && error.partial) {
      assert.ok("half".startsWith(String(error.partial)));
    }
  },

  async "a peer that is gone: sends fail, in the end and from then on"({ conn, peer }) {
    await peer.close();
    const error = await fails(keepSending(conn), "EPIPE", "ECONNRESET");
    assert.equal(typeof error.bytesSent, "number");
    await fails(conn.sendAll("x"), "EPIPE", "ECONNRESET");
  },

  async "the peer closes while we send: the send fails, and says how much went"({ conn, peer }) {
    const sending = fails(conn.sendAll(MUCH), "EPIPE", "ECONNRESET");
    await peer.recvExactly(1000);
    await peer.close();
    const { bytesSent } = await sending;
    assert.ok(bytesSent! >= 1000 && bytesSent! < MUCH.length);
    await fails(conn.send("x"), "EPIPE", "ECONNRESET");
  },

  async "time: a recv and a sendAll that take too long"({ conn, peer }, kind) {
    conn.setTimeout(20);
    await fails(conn.recv(10), "ETIMEDOUT");
    conn.setTimeout(10_000); // the peer may be slow
    const receiving = conn.recv(10);
    await peer.sendAll(Buffer.from("x"));
    assert.equal(String(await receiving), "x");
    conn.setTimeout(20);
    const calls = [conn.sendAll(MUCH), conn.sendAll("behind")].map((call) =>
      fails(call, "ETIMEDOUT"),
    );
    const [first, second] = await Promise.all(calls);
    assert.equal(second!.bytesSent, 0);
    // The part arrives; but no FIN may follow, which would make the part look complete.
    const part = await peer.recvExactly(first!.bytesSent!);
    assert.ok(part.equals(MUCH.subarray(0, first!.bytesSent)));
    conn.shutdown("write");
    if (kind.hasReset) assert.equal((await peer.recvToReset()).length, 0);
  },

  async "a close with a send under way is a reset"({ conn, peer }, kind) {
    const sending = fails(conn.sendAll(MUCH), "EBADF");
    conn.close();
    await sending;
    if (kind.hasReset) await peer.recvToReset();
  },

  async "a reset that a send meets first is a reset to recv, select and closed too"(
    { conn, peer },
    kind,
  ) {
    await peer.sendAll(Buffer.from("last words"));
    await conn.waitReadable();
    await peer.reset();
    // In one turn: Bun has no chance to tell us of the reset before a send meets it.
    const ended = Date.now() + 10_000;
    while (Date.now() < ended) {
      try {
        conn.trySend("x");
        conn.trySend(new Uint8Array(100_000));
      } catch {
        break;
      }
    }
    await assert.rejects(conn.sendAll("x"), /EPIPE|ECONNRESET/);
    assert.equal(String(await conn.recvExactly(10)), "last words");
    if (kind.hasReset) {
      await fails(conn.recv(1), "ECONNRESET");
      assert.deepEqual(await select([conn], [], [conn]), [[conn], [], [conn]]);
    }
    await conn.closed;
  },

  async "closed resolves though nobody receives or sends"({ conn, peer }, kind) {
    await peer.sendAll(new Uint8Array(100_000)); // more than a socket that nobody reads may hold
    await conn.waitReadable();
    if (kind.hasReset) {
      await peer.reset();
      await conn.closed;
    }
    conn.close();
    await conn.closed;
  },

  async "small sends gather: whole, in order, before a FIN, and bufferedAmount counts them"({
    conn,
    peer,
  }) {
    const parts = Array.from({ length: 3_000 }, (_, i) => pattern(i % 150, i));
    const sending = parts.map((part) => conn.sendAll(part));
    assert.ok(conn.bufferedAmount > 0);
    conn.shutdown("write");
    const all = Buffer.concat(parts);
    assert.ok((await peer.recvToEnd()).equals(all));
    await Promise.all(sending);
    assert.deepEqual([conn.bytesSent, conn.bufferedAmount], [all.length, 0]);
  },

  async "what was gathered still leaves after a close"({ conn, peer }) {
    const parts = Array.from({ length: 600 }, (_, i) => pattern(100, i));
    for (const part of parts) conn.sendAll(part);
    conn.close();
    assert.ok((await peer.recvToEnd()).equals(Buffer.concat(parts)));
  },

  async "a signal ends a sendAll and those behind it"({ conn, peer }, kind) {
    const stop = new AbortController();
    const sending = conn.sendAll(MUCH, { signal: stop.signal });
    const behind = conn.sendAll("behind");
    stop.abort(new Error("enough"));
    await assert.rejects(sending, /enough/);
    await assert.rejects(behind, /enough/);
    await assert.rejects(conn.sendAll("x", { signal: stop.signal }), /enough/);
    conn.close();
    if (kind.hasReset) await peer.recvToReset();
  },

  async "a signal ends a wait"({ conn }) {
    const stop = new AbortController();
    const waiting = conn.waitReadable({ signal: stop.signal });
    const selecting = select([conn], [], [], undefined, { signal: stop.signal });
    stop.abort(new Error("enough"));
    await assert.rejects(waiting, /enough/);
    await assert.rejects(selecting, /enough/);
    await assert.rejects(conn.waitWritable({ signal: stop.signal }), /enough/);
  },

  async "an idle timeout counts bytes either way, and ends what is quiet"({ conn, peer }, kind) {
    conn.setIdleTimeout(450); // each loop takes longer than that; a pause of a busy machine is shorter
    for (let i = 0; i < 10; i++) {
      await peer.sendAll(Buffer.from("x"));
      await conn.recv(1);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    for (let i = 0; i < 10; i++) {
      await conn.sendAll("x");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.equal(conn.bytesReceived, 10);
    await fails(conn.recv(1), "ETIMEDOUT");
    await fails(conn.sendAll("x"), "ETIMEDOUT");
    await conn.closed;
    if (kind.hasReset) await peer.recvToReset();
  },

  async "a signal ends a recv, and no byte is lost"({ conn, peer }) {
    const stop = new AbortController();
    const receiving = conn.recvExactly(100, { signal: stop.signal });
    await peer.sendAll(Buffer.from("kept"));
    stop.abort(new Error("enough"));
    await assert.rejects(receiving, /enough/);
    await assert.rejects(conn.recv(1, { signal: stop.signal }), /enough/);
    assert.equal(String(await conn.recvExactly(4)), "kept");
  },

  async "wrong arguments are refused, and change nothing"({ conn, peer }) {
    for (const size of [0, -1, 1.5, NaN]) {
      await assert.rejects(conn.recv(size), RangeError);
      assert.throws(() => conn.tryRecv(size), RangeError);
    }
    await assert.rejects(conn.recv("1" as any), TypeError);
    await assert.rejects(conn.sendAll(5 as any), TypeError);
    assert.throws(() => conn.shutdown("sideways" as any), TypeError);
    assert.throws(() => conn.setTimeout(0), RangeError);
    assert.equal((await conn.recvExactly(0)).length, 0);
    await conn.sendAll("fine");
    assert.equal(String(await peer.recvExactly(4)), "fine");
  },

  async "Web Streams: a FIN each way, nothing lost"({ conn, peer }) {
    const data = pattern(BIG, 10);
    const receiving = new Response(conn.readable).bytes();
    const sending = peer.sendAll(data).then(() => peer.shutdownWrite());
    assert.ok(Buffer.from(await receiving).equals(data));
    await sending;
    const writer = conn.writable.getWriter();
    await writer.write(Buffer.from("after the end"));
    await writer.close();
    assert.equal(String(await peer.recvToEnd()), "after the end");
  },

  async "a for-await ends at EOF; leaving it early loses nothing"({ conn, peer }) {
    await peer.sendAll(Buffer.from("a"));
    for await (const chunk of conn) {
      assert.equal(String(chunk), "a");
      break;
    }
    const data = pattern(BIG, 11);
    const sending = peer.sendAll(data).then(() => peer.shutdownWrite());
    assert.ok(Buffer.concat(await Array.fromAsync(conn)).equals(data));
    await sending;
  },
};

/** A lib socket as the other end. */
export function libPeer(conn: Socket): Peer {
  return {
    sendAll: (data) => conn.sendAll(data),
    recvExactly: (bytes) => conn.recvExactly(bytes),
    recvToEnd: () => recvAll(conn),
    async recvToReset() {
      const chunks: Buffer[] = [];
      for (;;) {
        const chunk = await conn.recv(65_536).catch((error) => error);
        if (chunk.code === "ECONNRESET") return Buffer.concat(chunks);
        assert.ok(chunk.length > 0, `no reset, but ${chunk}`);
        chunks.push(chunk);
      }
    },
    shutdownWrite: async () => conn.shutdown("write"),
    close: async () => conn.close(),
    reset: async () => conn.reset(),
    [Symbol.asyncDispose]: async () => conn.close(),
  };
}

/** Runs one check on a new pair, and closes both ends afterwards. */
export async function runCheck(name: string, kind: Kind): Promise<void> {
  const pair = await kind.make();
  await using _peer = pair.peer;
  using _conn = pair.conn;
  await checks[name]!(pair, kind);
}

async function keepSending(conn: Socket): Promise<void> {
  for (;;) {
    await conn.sendAll("anybody there?");
    await new Promise((resolve) => setImmediate(resolve));
  }
}
