// Without sockets: queues, one connection, datagrams and the text of the trace, byte by byte against simple
// models, thousands of cases a second. Bun's own sockets are played by objects that do what the test wants.
// (WebSocket frames are in websocket.test.ts, the PROXY header in relay.test.ts, framings in fuzz.test.ts.)

import fc from "fast-check";
import { expect, setDefaultTimeout, spyOn, test } from "bun:test";

import { datagram, type DatagramOptions } from "../lib/datagram.ts";
import { delimited, messages } from "../lib/framing.ts";
import { type Handle, Socket } from "../lib/socket/connection.ts";
import { Inbox, waiting } from "../lib/socket/queues.ts";
import { POLLERR } from "../lib/socket/readiness.ts";
import { hasTurned } from "../lib/socket/turn.ts";
import { content, preview } from "../lib/trace/text.ts";
import { PATIENCE_MS, pattern, turn } from "./helpers.ts";

const { FUZZ_SEED, FUZZ_RUNS = "1000" } = process.env;
setDefaultTimeout(Number(FUZZ_RUNS) * 10 + PATIENCE_MS);
const seed = FUZZ_SEED === undefined ? undefined : Number(FUZZ_SEED);
const parameters = { numRuns: Number(FUZZ_RUNS), seed };

/** Sizes around the limits: few bytes, about 64 KiB, more. */
const size = fc.oneof(fc.nat(12), fc.integer({ min: 65_500, max: 65_600 }), fc.nat(200_000));

let made = 0;
const bytes = (length: number) => pattern(length, ++made);

test("the inbox: what was pushed comes out, uncopied memory is not written to, and is counted", () => {
  const step = fc.record({
    what: fc.constantFrom("push", "push", "take", "look"),
    size,
    expected: fc.constantFrom(Infinity, 0, 100_000),
  });
  const property = fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
    const before = waiting.bytes;
    const inbox = new Inbox();
    let model = Buffer.alloc(0);
    const given: [Buffer, Buffer][] = []; // each chunk that take() gave, and a copy of what it has to be
    for (const { what, size, expected } of steps) {
      if (what === "push") {
        const chunk = bytes(size);
        inbox.push(Buffer.from(chunk), expected);
        model = Buffer.concat([model, chunk]);
      } else if (what === "take") {
        const chunk = inbox.take(size);
        given.push([chunk, Buffer.from(model.subarray(0, size))]);
        model = model.subarray(size);
      } else {
        if (model.length > size + 4) expect(inbox.readUInt(4, size)).toBe(model.readUInt32BE(size));
      }
      expect(inbox.length).toBe(model.length);
      expect(waiting.bytes - before).toBe(model.length);
    }
    given.push([inbox.take(Infinity), model]);
    for (const [chunk, copy] of given) expect(chunk.equals(copy)).toBe(true);
    expect(waiting.bytes).toBe(before);
  });
  fc.assert(property, parameters);
});

test("an inbox finds a mark as if it searched all of its bytes each time", () => {
  const marks = ["ab", "ba", "abba"].map((mark) => Buffer.from(mark));
  const step = fc.oneof(
    fc.string({ unit: fc.constantFrom("a", "b"), minLength: 1, maxLength: 5 }), // is pushed
    fc.integer({ min: 0, max: 8 }), // is taken
    fc.constantFrom(...marks), // is searched for
    fc.constantFrom(...marks),
  );
  const property = fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
    const inbox = new Inbox();
    let model = "";
    for (const what of steps) {
      if (typeof what === "string") {
        inbox.push(Buffer.from(what));
        model += what;
      } else if (typeof what === "number") {
        inbox.take(what);
        model = model.slice(what);
      } else expect(inbox.indexOf(what)).toBe(model.indexOf(String(what)));
    }
    inbox.take(Infinity);
  });
  fc.assert(property, { ...parameters, numRuns: 10 * parameters.numRuns });
});

/** Plays a socket of Bun. Its kernel has room for `room` bytes; `wire` is what it took, `ends` how it ended. */
class Played {
  data: unknown;
  room = Infinity;
  wire: Buffer[] = [];
  ends: string[] = [];
  isPaused = false;
  readonly localAddress = "127.0.0.1";
  readonly localPort = 1;
  readonly remoteAddress = "127.0.0.1";
  readonly remotePort = 2;

  write(data: Uint8Array, from: number, length: number): number {
    const taken = Math.min(this.room, length);
    this.wire.push(Buffer.from(data.subarray(from, from + taken)));
    this.room -= taken;
    return taken;
  }
  pause(): void {
    this.isPaused = true;
  }
  resume(): void {
    this.isPaused = false;
  }
  shutdown(): void {
    this.ends.push("FIN");
  }
  end(): void {
    this.ends.push("end");
  }
  terminate(): void {
    this.ends.push("reset");
  }
}

function played(): { conn: Socket; handle: Played; bun: any } {
  const handle = new Played();
  const address = { host: "127.0.0.1", port: 1 };
  const conn = new Socket(handle as unknown as Handle, address, address);
  const bun = new Proxy(Socket.handlers as any, {
    get:
      (handlers, name) =>
      (...args: unknown[]) =>
        handlers[name](handle, ...args),
  });
  return { conn, handle, bun };
}

/** The state of a promise so far: its value or its error, and whether it is settled. */
function outcome<T>(promise: Promise<T>): { value?: T; error?: any; isOver: boolean } {
  const seen: ReturnType<typeof outcome<T>> = { isOver: false };
  promise.then(
    (value) => Object.assign(seen, { value, isOver: true }),
    (error) => Object.assign(seen, { error, isOver: true }),
  );
  return seen;
}

test("a connection receives: every byte once and in order, then the end; it reads while somebody waits", async () => {
  const step = fc.record({
    what: fc.constantFrom(
      "data",
      "data",
      "data",
      "recv",
      "recv",
      "recvExactly",
      "tryRecv",
      "unrecv",
      "fin",
      "reset",
    ),
    size: size.filter((size) => size > 0),
  });
  const property = fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
    const { conn, handle, bun } = played();
    let here = Buffer.alloc(0); // received, and not yet given to a caller
    let [isEnded, failure, last] = [false, "", Buffer.alloc(0)];
    let waits: { exactly: boolean; size: number; seen: ReturnType<typeof outcome<Buffer>> } | null =
      null;
    const took = (count: number) => {
      const chunk = here.subarray(0, count);
      here = here.subarray(count);
      return (last = chunk);
    };
    for (const { what, size } of steps) {
      hasTurned(); // resets the count, so that no call has to wait for the next turn
      if (what === "data" && !isEnded && !handle.isPaused) {
        const chunk = bytes(size);
        here = Buffer.concat([here, chunk]);
        bun.data(Buffer.from(chunk));
      } else if (what === "fin" && !isEnded) {
        isEnded = true;
        bun.end();
      } else if (what === "reset" && !isEnded) {
        [isEnded, failure] = [true, "ECONNRESET"];
        bun.close(Object.assign(new Error(), { code: "ECONNRESET" }));
      } else if (what === "unrecv" && last.length > 0 && !waits && !failure) {
        conn.unrecv(Buffer.from(last));
        here = Buffer.concat([last, here]);
        last = Buffer.alloc(0);
      } else if (what === "tryRecv") {
        const nothing = waits !== null || (here.length === 0 && !isEnded);
        if (nothing) expect(conn.tryRecv(size)).toBeNull();
        else if (here.length === 0 && failure) expect(() => conn.tryRecv(size)).toThrow(failure);
        else expect(conn.tryRecv(size)!.equals(took(size))).toBe(true);
      } else if (what === "recv" || what === "recvExactly") {
        const seen = outcome(conn[what](size));
        if (waits === null) waits = { exactly: what === "recvExactly", size, seen };
        else {
          await settled();
          expect(seen.error?.code).toBe("EBUSY");
        }
      }
      await settled();
      if (waits !== null) {
        const { exactly, size, seen } = waits;
        const isDue = isEnded || here.length >= (exactly ? size : 1);
        expect(seen.isOver).toBe(isDue);
        if (!isDue)
          expect(handle.isPaused).toBe(false); // it would wait for ever
        else if (exactly && here.length < size) {
          const nothing = failure && here.length === 0;
          expect(seen.error.code).toBe(nothing ? failure : "EINCOMPLETE");
          if (!nothing) expect(seen.error.partial.equals(took(size))).toBe(true);
        } else if (here.length === 0 && failure) expect(seen.error.code).toBe(failure);
        else expect(seen.value!.equals(took(size))).toBe(true);
        if (isDue) waits = null;
      } else if (!isEnded) {
        if (what === "data") expect(handle.isPaused).toBe(here.length > 65_536);
        else if (handle.isPaused) expect(here.length).toBeGreaterThan(65_536);
      }
    }
    conn.reset();
  });
  await fc.assert(property, parameters);
});

test("a connection sends: what was taken goes out whole, in the order of the calls, and before the end", async () => {
  const step = fc.record({
    what: fc.constantFrom(
      "sendAll",
      "sendAll",
      "sendAll",
      "send",
      "trySend",
      "room",
      "turn",
      "shutdown",
    ),
    size,
  });
  const property = fc.asyncProperty(
    fc.array(step, { maxLength: 25 }),
    fc.boolean(),
    async (steps, closes) => {
      const before = waiting.bytes;
      const { conn, handle, bun } = played();
      handle.room = 70_000;
      let isShut = false;
      // What each call has to put on the wire. For a `send` that waits, that is known when it returns.
      const parts: (() => Buffer)[] = [];
      const promises: ReturnType<typeof outcome<unknown>>[] = [];
      for (const { what, size } of steps) {
        hasTurned();
        const data = bytes(size);
        if (what === "turn") await turn();
        else if (what === "room") {
          handle.room += size;
          bun.drain();
        } else if (what === "shutdown") {
          conn.shutdown("write");
          isShut = true;
        } else if (isShut) {
          expect(() => conn.trySend(data)).toThrow("EPIPE");
        } else if (what === "trySend") {
          const taken = conn.trySend(data);
          parts.push(() => data.subarray(0, taken));
        } else {
          const seen = outcome<unknown>(conn[what as "send"](data));
          promises.push(seen);
          parts.push(() => (what === "sendAll" ? data : data.subarray(0, Number(seen.value))));
        }
        await settled();
      }
      const [isWaiting, all] = [
        promises.some(({ isOver }) => !isOver),
        () => Buffer.concat(parts.map((part) => part())),
      ];
      if (closes) conn.close();
      // Makes room for everything, step by step: after that, all that can be sent has been sent.
      for (let i = 0; i < 40; i++) {
        await turn();
        handle.room += 200_000;
        if (handle.ends.at(-1) !== "end" && handle.ends.at(-1) !== "reset") bun.drain();
        await settled();
      }
      const wire = Buffer.concat(handle.wire);
      expect(waiting.bytes).toBe(before);
      if (closes && isWaiting) {
        expect(handle.ends.at(-1)).toBe("reset"); // a FIN would make a part look complete
        for (const { isOver } of promises) expect(isOver).toBe(true);
      } else {
        expect(wire.equals(all())).toBe(true);
        // `end` sends the FIN as well, if it was not sent before.
        const due = [...(isShut ? ["FIN"] : []), ...(closes ? ["end"] : [])];
        expect([due, due.slice(-1)]).toContainEqual(handle.ends);
        expect([conn.bytesSent, conn.bufferedAmount]).toEqual([wire.length, 0]);
        for (const { isOver, error } of promises)
          expect([isOver, error]).toEqual([true, undefined]);
      }
      conn.reset();
    },
  );
  await fc.assert(property, { ...parameters, numRuns: Math.ceil(parameters.numRuns / 5) });
});

test("time limits of more than timers take are cut to what they take", () => {
  const [once, again] = [spyOn(globalThis, "setTimeout"), spyOn(globalThis, "setInterval")];
  try {
    const { conn } = played();
    conn.setTimeout(2 ** 40);
    conn.setIdleTimeout(2 ** 40);
    outcome(conn.recv(1));
    const armed = [...once.mock.calls, ...again.mock.calls].map(([, ms]) => ms);
    expect(armed).toEqual([2 ** 31 - 1, 2 ** 31 - 1]);
    conn.reset();
  } finally {
    for (const spied of [once, again]) spied.mockRestore();
  }
});

test("an idle timeout ends a closed connection that still has something to send, too", async () => {
  const { conn, handle, bun } = played();
  handle.room = 1;
  conn.setIdleTimeout(20);
  for (const text of ["a", "bc"]) conn.sendAll(text);
  conn.close();
  expect([handle.ends, conn.bufferedAmount]).toEqual([[], 2]);
  await conn.closed;
  expect(handle.ends).toEqual(["reset"]);
  bun.close();
});

test("bytes in small pieces are copied few times, however many come", () => {
  const made = spyOn(Buffer, "allocUnsafeSlow");
  const inbox = new Inbox();
  for (let i = 0; i < 1000; i++) inbox.push(Buffer.alloc(1000));
  const copies = made.mock.calls.length;
  made.mockRestore();
  expect(inbox.take(Infinity)).toHaveLength(1_000_000);
  expect(copies).toBeLessThan(20);
});

test("a send that waits is over as soon as some of it has gone, a sendAll with all of it", async () => {
  const { conn, handle, bun } = played();
  handle.room = 0;
  const [some, all] = [outcome(conn.send(bytes(1000))), outcome(conn.sendAll(bytes(1000)))];
  for (const [room, someOver, allOver] of [
    [0, false, false],
    [10, true, false],
    [999, true, false],
    [1, true, true],
  ] as const) {
    handle.room += room;
    bun.drain();
    await settled();
    expect([some.isOver, all.isOver]).toEqual([someOver, allOver]);
  }
  expect(some.value).toBe(10);
});

test("above the limit for all together nobody reads, until a quarter has left", async () => {
  const before = waiting.bytes;
  const [one, other] = [played(), played()];
  try {
    waiting.limit = before + 1000;
    for (const { conn } of [one, other]) conn.setIdleTimeout(Infinity); // as a server does
    one.bun.data(bytes(900));
    expect([one.handle.isPaused, other.handle.isPaused]).toEqual([false, false]);
    other.bun.data(bytes(200));
    expect([one.handle.isPaused, other.handle.isPaused]).toEqual([true, true]);
    one.conn.tryRecv(300);
    expect([one.handle.isPaused, other.handle.isPaused]).toEqual([true, true]);
    one.conn.tryRecv(100);
    expect([one.handle.isPaused, other.handle.isPaused]).toEqual([false, false]);
  } finally {
    waiting.limit = Infinity;
    for (const { conn } of [one, other]) conn.reset();
  }
  expect(waiting.bytes).toBe(before);
});

test("a reset behind the peer's FIN: recv goes on giving EOF, select and sends tell it", async () => {
  const { conn, bun } = played();
  bun.end();
  expect(conn.tryRecv(1)).toHaveLength(0);
  expect(conn.poll() & POLLERR).toBe(0);
  bun.close(Object.assign(new Error(), { code: "EPIPE" })); // Bun reports the reset with this code
  expect(conn.tryRecv(1)).toHaveLength(0);
  expect(conn.poll() & POLLERR).toBe(POLLERR);
  expect(() => conn.trySend("x")).toThrow("EPIPE");
  await conn.closed;
});

test("a full inbox does not stop reading after endReceiving, or after a reset", async () => {
  const full = () => {
    const all = played();
    all.bun.data(bytes(100_000));
    expect(all.handle.isPaused).toBe(true);
    return all;
  };
  const stopped = full();
  stopped.conn.endReceiving(); // what comes now is dropped
  expect(stopped.handle.isPaused).toBe(false);
  expect(stopped.conn.tryRecv(1_000_000)).toHaveLength(100_000);
  const broken = full();
  broken.handle.write = () => -1; // the peer has reset it: Bun reports nothing while it is paused
  expect(() => broken.conn.trySend("x")).toThrow("EPIPE");
  expect(broken.handle.isPaused).toBe(false);
  for (const { conn } of [stopped, broken]) conn.reset();
});

test("a message that has begun has its time from then on, however often a byte of it comes", async () => {
  let now = 0;
  const rings: (() => void)[] = [];
  const timer = (ring: () => void) => {
    rings.push(ring);
    return { unref: () => undefined };
  };
  const clock = spyOn(performance, "now").mockImplementation(() => now);
  const once = spyOn(globalThis, "setTimeout").mockImplementation(timer as any);
  const again = spyOn(globalThis, "setInterval").mockImplementation((() => timer(() => {})) as any);
  try {
    const { conn, bun } = played();
    conn.setIdleTimeout(200);
    const message = outcome(messages(conn, delimited()).next() as Promise<unknown>);
    for (now = 50; now < 250; now += 50) bun.data(Buffer.from("x"));
    for (const ring of rings.splice(0)) ring();
    await settled();
    expect(message.error?.code).toBe("ETIMEDOUT");
    conn.reset();
  } finally {
    for (const spied of [clock, once, again]) spied.mockRestore();
  }
});

test("many bytes make a loop turn earlier than few", async () => {
  for (const [size, turns] of [
    [1, false],
    [1 << 20, true],
  ] as const) {
    hasTurned();
    const { conn } = played();
    let hasBeenTurned = false;
    setImmediate(() => (hasBeenTurned = true));
    for (let i = 0; i < 3; i++) {
      await conn.sendAll(new Uint8Array(size));
      conn.tryRecv(1);
    }
    expect(hasBeenTurned).toBe(turns);
    await turn();
    conn.reset();
  }
});

/** Waits until every promise that can go on has gone on. */
async function settled(): Promise<void> {
  for (let i = 0; i < 12; i++) await null;
}

test("datagrams wait whole and in order, up to 1 MiB with 256 bytes for each; the newest are dropped", async () => {
  const step = fc.record({
    what: fc.constantFrom("comes", "comes", "comes", "burst", "take"),
    size: fc.oneof(fc.nat(40), fc.nat(65_507)),
    most: fc.oneof(fc.constant(65_535), fc.integer({ min: 1, max: 3000 })),
  });
  const property = fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
    const { socket, come } = await playedDatagrams();
    const model: Buffer[] = [];
    let [held, dropped] = [0, 0];
    for (const { what, size, most } of steps) {
      for (let times = what === "comes" ? 1 : what === "burst" ? 20 : 0; times > 0; times--) {
        const data = bytes(size);
        come(data);
        if (held + data.length + 256 > 1 << 20) dropped++;
        else held += model.push(data) && data.length + 256;
      }
      if (what === "take") {
        const [data, from] = socket.tryRecvFrom(most) ?? [];
        const due = model.shift();
        if (due !== undefined) held -= due.length + 256;
        expect(data).toEqual(due?.subarray(0, most));
        if (data) expect(from).toEqual({ host: "127.0.0.1", port: 9 });
      }
      expect(socket.dropped).toBe(dropped);
    }
    for (const due of model) expect(socket.tryRecvFrom()![0].equals(due)).toBe(true);
    expect(socket.tryRecvFrom()).toBeNull();
    socket.close();
  });
  await fc.assert(property, { ...parameters, numRuns: Math.ceil(parameters.numRuns / 5) });
});

test("a datagram that was received makes room for as much as it took, however often", async () => {
  const { socket, come } = await playedDatagrams();
  for (let i = 0; i < 5_000; i++) {
    come(Buffer.alloc(0));
    socket.tryRecvFrom();
  }
  for (let i = 0; i < 4_096; i++) come(Buffer.alloc(0)); // counted with 256 bytes each: 1 MiB
  expect(socket.dropped).toBe(0);
  come(Buffer.alloc(0));
  expect(socket.dropped).toBe(1);
  socket.close();
});

test("what a stranger sent before there was a peer is not heard", async () => {
  const peer = { host: "127.0.0.1", port: 9 };
  const { socket, come } = await playedDatagrams({ peer });
  come(Buffer.from("stranger"), 8);
  expect(socket.tryRecvFrom()).toBeNull();
  come(Buffer.from("peer"), 9);
  expect(socket.tryRecvFrom()).toEqual([Buffer.from("peer"), peer]);
  socket.close();
});

/** A datagram socket, and a function that delivers a datagram to it. */
async function playedDatagrams(options: DatagramOptions = {}) {
  let come!: (bytes: Buffer, port?: number) => void;
  const opened = spyOn(Bun, "udpSocket").mockImplementation((async ({ socket }: any) => {
    come = (bytes, port = 9) => socket.data(null, bytes, port, "127.0.0.1");
    const at = (port: number) => ({ address: "127.0.0.1", port });
    return { address: at(1), remoteAddress: options.peer && at(9), close() {} };
  }) as any);
  const socket = await datagram(options);
  opened.mockRestore();
  return { socket, come };
}

test("the trace shows any bytes in one line, without a command to a terminal, and text as it is", () => {
  const some = fc.oneof(
    fc.uint8Array({ maxLength: 50 }).map((array) => Buffer.from(array)),
    fc.string({ unit: "binary", maxLength: 40 }).map((text) => Buffer.from(text)),
    fc.string({ unit: "grapheme", maxLength: 40 }).map((text) => Buffer.from(text)),
  );
  const property = fc.property(some, (bytes) => {
    const shown = content(bytes);
    expect(shown).not.toMatch(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/u);
    expect(preview(bytes)).toStartWith(`${bytes.length} byte${bytes.length === 1 ? "" : "s"}`);
    const [, whole = shown, cut] = /^(.*?)(…)?$/s.exec(shown)!;
    expect(cut !== undefined).toBe(bytes.length > 32);
    const head = bytes.subarray(0, 32);
    const text = String(bytes);
    const isText =
      Buffer.from(text).equals(bytes) &&
      !/[^\P{Cc}\t\n\r]|[\u202a-\u202e\u2066-\u2069\ufffd]/u.test(text);
    if (isText && bytes.length > 0) expect(shown).toStartWith('"'); // also where it is cut within a character
    if (bytes.length === 0) expect(shown).toBe("");
    else if (whole.startsWith('"')) expect(String(bytes)).toStartWith(JSON.parse(whole));
    else expect(whole).toBe(head.toString("hex").replace(/..(?=.)/g, "$& "));
  });
  fc.assert(property, { ...parameters, numRuns: 10 * parameters.numRuns });
});
