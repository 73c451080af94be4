// Random messages, cuts, orders and schedules. A failure prints the seed and the smallest case that
// fails; `FUZZ_SEED=… bun test tests/fuzz.test.ts` runs it again, `FUZZ_RUNS=…` more of them.

import fc from "fast-check";
import { expect, setDefaultTimeout, test } from "bun:test";

import { delimited, fixedLength, type Framing, lengthPrefixed, messages } from "../lib/framing.ts";
import { select } from "../lib/select.ts";
import { type Socket } from "../lib/socket.ts";
import { Inbox } from "../lib/socket/queues.ts";
import { pair, pattern, PATIENCE_MS, recvAll, tlsPair, turn } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const runs = Number(process.env.FUZZ_RUNS ?? 100);
const seed = process.env.FUZZ_SEED === undefined ? {} : { seed: Number(process.env.FUZZ_SEED) };
const parameters = { numRuns: runs, ...seed };

const bytes = (maxLength: number) =>
  fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));

/** A framing, and messages that it can carry. */
const framed: fc.Arbitrary<{ framing: Framing; outgoing: Buffer[] }> = fc.oneof(
  fc.integer({ min: 1, max: 20 }).chain((length) =>
    fc
      .array(fc.uint8Array({ minLength: length, maxLength: length }), { maxLength: 20 })
      .map((list) => ({
        framing: fixedLength(length),
        outgoing: list.map((one) => Buffer.from(one)),
      })),
  ),
  fc
    .record({
      // Only a few different bytes, so that parts of the delimiter occur often.
      mark: fc
        .array(fc.constantFrom(97, 98), { minLength: 1, maxLength: 4 })
        .map((a) => Buffer.from(a)),
      list: fc.array(fc.array(fc.constantFrom(97, 98, 99), { maxLength: 12 }), { maxLength: 20 }),
    })
    .map(({ mark, list }) => {
      const framing = delimited(mark);
      const outgoing = list.map((one) => Buffer.from(one));
      return {
        framing,
        outgoing: outgoing.filter((one) => typeof framing.frame(one) !== "string"),
      };
    }),
  fc
    .record({ width: fc.constantFrom(1, 2, 4), outgoing: fc.array(bytes(255), { maxLength: 20 }) })
    .map(({ width, outgoing }) => ({ framing: lengthPrefixed(width as 1 | 2 | 4), outgoing })),
);

test("any split gives the same messages, without a socket; what is left is what follows them", () => {
  const cuts = fc.array(fc.integer({ min: 1, max: 64 }), { minLength: 1, maxLength: 20 });
  const property = fc.property(framed, cuts, bytes(3), ({ framing, outgoing }, sizes, behind) => {
    const frames = outgoing.flatMap((one) => framing.frame(one) as Uint8Array[]);
    const wire = Buffer.concat([...frames, behind]);
    const inbox = new Inbox();
    const got: Buffer[] = [];
    for (let at = 0, i = 0; at < wire.length && got.length < outgoing.length; i++) {
      inbox.push(Buffer.from(wire.subarray(at, (at += sizes[i % sizes.length]!))));
      for (let next; got.length < outgoing.length && (next = framing.take(inbox)) !== null;) {
        got.push(next as Buffer);
      }
      if (got.length === outgoing.length) inbox.push(Buffer.from(wire.subarray(at)));
    }
    expect(got).toEqual(outgoing);
    if (outgoing.length > 0) expect(inbox.take(Infinity).equals(behind)).toBe(true);
  });
  fc.assert(property, { ...parameters, numRuns: 10 * runs });
});

const pairs = [
  ["TCP", pair],
  ["TLS", tlsPair],
] as const;

test.each(pairs)("any split of the stream gives the same messages, over %s", async (_, pair) => {
  const cuts = fc.array(fc.integer({ min: 1, max: 64 }), { minLength: 1, maxLength: 20 });
  await fc.assert(
    fc.asyncProperty(framed, cuts, fc.boolean(), async ({ framing, outgoing }, sizes, wait) => {
      using both = await pair();
      const receiving = (async () => {
        const got: Buffer[] = [];
        for await (const message of messages(both.far, framing)) got.push(message);
        return got;
      })();
      const wire = Buffer.concat(outgoing.flatMap((one) => framing.frame(one) as Uint8Array[]));
      for (let at = 0, i = 0; at < wire.length; i++) {
        const size = sizes[i % sizes.length]!;
        await both.near.sendAll(wire.subarray(at, at + size));
        at += size;
        if (wait) await turn();
      }
      both.near.shutdown("write");
      const got = await receiving;
      expect(got.map(String)).toEqual(outgoing.map(String));
    }),
    parameters,
  );
});

test.each(pairs)(
  "interleaved sends arrive whole and in call order, however they are received, over %s",
  async (_, pair) => {
    const size = fc.oneof(fc.nat(100), fc.nat(100_000), fc.nat(3_000_000));
    const sends = fc.array(
      fc.record({ size, call: fc.constantFrom("send", "sendAll", "trySend") }),
      {
        minLength: 1,
        maxLength: 12,
      },
    );
    const receives = fc.array(fc.integer({ min: 1, max: 200_000 }), { minLength: 1, maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(sends, receives, async (outgoing, sizes) => {
        using both = await pair();
        const sent: Promise<Buffer>[] = outgoing.map(async ({ size, call }, i) => {
          const data = pattern(size, i + 1);
          if (call === "sendAll") await both.near.sendAll(data);
          if (call === "send") return data.subarray(0, await both.near.send(data));
          if (call === "trySend") return data.subarray(0, both.near.trySend(data));
          return data;
        });
        both.near.shutdown("write");
        const got: Buffer[] = [];
        for (let i = 0; ; i++) {
          const chunk = await both.far.recv(sizes[i % sizes.length]!);
          if (chunk.length === 0) break;
          got.push(chunk);
        }
        expect(Buffer.concat(got).equals(Buffer.concat(await Promise.all(sent)))).toBe(true);
      }),
      { ...parameters, numRuns: Math.ceil(runs / 4) },
    );
  },
);

test("select tells just those that can go on, whatever was done to whom", async () => {
  const step = fc.record({
    who: fc.nat(4),
    what: fc.constantFrom("send", "recv", "fin", "reset", "nothing"),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
      const pairs = await Promise.all(Array.from({ length: 5 }, () => pair()));
      const waiting = pairs.map(() => 0); // bytes sent to `far` that it has not received yet
      const state = pairs.map(() => "open");
      try {
        for (const { who, what } of steps) {
          const { near, far } = pairs[who]!;
          if (what === "recv" && waiting[who]! > 0) {
            waiting[who]! -= (await far.recv(1)).length;
          }
          if (state[who] !== "open") continue;
          if (what === "send") waiting[who]! += near.trySend("x");
          if (what === "fin") near.shutdown("write");
          if (what === "reset") near.reset();
          if (what === "fin" || what === "reset") state[who] = what;
          await arrival(far, waiting[who]!, state[who]!);
          const fars = pairs.map(({ far }) => far);
          const [readable, , inError] = await select(fars, [], fars, 0);
          const can = fars.filter((_, i) => waiting[i]! > 0 || state[i] !== "open");
          expect(readable).toEqual(can);
          expect(inError).toEqual(fars.filter((_, i) => state[i] === "reset"));
        }
        // The rest can be received.
        for (const [i, { far }] of pairs.entries()) {
          if (state[i] === "fin") expect((await recvAll(far)).length).toBe(waiting[i]!);
        }
      } finally {
        for (const both of pairs) both[Symbol.dispose]();
      }
    }),
    { ...parameters, numRuns: Math.ceil(runs / 2) },
  );
});

/** Waits until what was done at one end has reached the other. */
async function arrival(far: Socket, bytes: number, state: string): Promise<void> {
  if (bytes > 0) await far.waitReadable();
  if (state === "fin") await far.waitReadable();
  if (state === "reset") while (!(far.poll() & 8)) await turn();
}
