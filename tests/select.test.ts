// lib/select.ts: level-triggered, in order, and never starving the event loop.

import { getEventListeners } from "node:events";
import { expect, test, setDefaultTimeout } from "bun:test";

import { select } from "../lib/select.ts";
import { connect, listen, type Socket } from "../lib/socket.ts";
import { failure, fill, pair, PATIENCE_MS, Process, python, testPython, turn } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

test("tells which sockets are readable, in the order given, until they are read", async () => {
  using a = await pair();
  using b = await pair();
  using c = await pair();
  await c.near.sendAll("c");
  await a.near.sendAll("a");
  await Promise.all([a.far.waitReadable(), c.far.waitReadable()]);
  for (let i = 0; i < 2; i++) {
    const [readable, writable, inError] = await select([c.far, b.far, a.far], [], []);
    expect(readable).toEqual([c.far, a.far]);
    expect([...writable, ...inError]).toEqual([]);
  }
  c.far.tryRecv(10);
  expect((await select([c.far, b.far, a.far], [], []))[0]).toEqual([a.far]);
});

test("a server is readable when a connection waits, a socket at EOF", async () => {
  using server = listen({ port: 0 });
  expect(await select([server], [], [], 0)).toEqual([[], [], []]);
  const selecting = select([server], [], []);
  using near = await connect({ port: server.address.port });
  expect((await selecting)[0]).toEqual([server]);
  using far = server.tryAccept()!;
  const eof = select([far], [], []);
  near.shutdown("write");
  expect((await eof)[0]).toEqual([far]);
  expect(far.tryRecv(1)!.length).toBe(0);
});

test("a reset connection is readable and in error, and writable as there is an error to tell", async () => {
  using both = await pair();
  const selecting = select([both.far], [], [both.far]);
  both.near.reset();
  const [readable, , inError] = await selecting;
  expect(readable).toEqual([both.far]);
  expect(inError).toEqual([both.far]);
  expect((await select([], [both.far], [], 0))[1]).toEqual([both.far]);
});

test("a socket with no room becomes writable when the peer reads", async () => {
  using both = await pair();
  expect((await select([], [both.near], []))[1]).toEqual([both.near]);
  const sent = fill(both.near);
  expect(await select([], [both.near], [], 0)).toEqual([[], [], []]);
  const selecting = select([], [both.near], []);
  await both.far.recvExactly(sent);
  expect((await selecting)[1]).toEqual([both.near]);
});

test("gives three empty lists when the time is up, with no sockets too", async () => {
  using both = await pair();
  const started = performance.now();
  expect(await select([both.near], [], [], 30)).toEqual([[], [], []]);
  expect(performance.now() - started).toBeGreaterThanOrEqual(29);
  expect(await select([], [], [], 1)).toEqual([[], [], []]);
});

test("a closed socket is EBADF, before and while it waits", async () => {
  using a = await pair();
  using b = await pair();
  using server = listen({ port: 0 });
  a.near.close();
  for (const lists of [
    [[a.near], [], []],
    [[], [a.near], []],
    [[], [], [a.near]],
  ] as [Socket[], Socket[], Socket[]][]) {
    expect((await failure(select(...lists, 10))).code).toBe("EBADF");
  }
  const waiting = failure(select([server, b.near], [], []));
  await turn();
  b.near.close();
  expect((await waiting).code).toBe("EBADF");
  const listening = failure(select([server], [], []));
  await turn();
  server.close();
  expect((await listening).code).toBe("EBADF");
});

test("refuses a time that makes no sense, and to wait for nothing for ever", async () => {
  using both = await pair();
  for (const ms of [-1, NaN]) {
    const error = await failure(select([both.near], [], [], ms));
    expect(error).toBeInstanceOf(RangeError);
    expect(error.message).toContain(String(ms));
  }
  expect(await failure(select([], [], []))).toBeInstanceOf(RangeError);
  expect(await failure(select([both.near], [], [], "1" as any))).toBeInstanceOf(TypeError);
});

test("a timeout that is longer than timers take waits all the same", async () => {
  using both = await pair();
  const waiting = select([both.far], [], [], 2 ** 31);
  await select([], [], [], 20); // a timer of 2 ** 31 ms would have fired by now: it overflows to 1 ms
  await both.near.sendAll("x");
  expect((await waiting)[0]).toEqual([both.far]);
});

/** A program over `near` and `far`, in a process of its own: one that hangs is killed with its test. */
function program(body: string): Process {
  const code = `
    import { select } from "./lib/select.ts";
    import { socketpair } from "./lib/socket.ts";
    const { near, far } = await socketpair();
    ${body}`;
  return new Process([process.execPath, "-e", code]);
}

test("a loop in which something is always ready starves neither I/O nor timers", async () => {
  await using looping = program(`
    let timer = false;
    setTimeout(() => (timer = true), 5);
    let got = "";
    far.recv(10).then((chunk) => (got = String(chunk)));
    near.sendAll("hello");
    while (!timer || got === "") await select([], [near], [], 0); // always writable
    console.log(got);
    process.exit();`);
  expect(await looping.exit(), looping.stderr).toBe(0);
  expect(looping.stdout).toBe("hello\n");
});

test("a timeout that was not needed keeps no process alive", async () => {
  await using ending = program(`
    await select([], [near], [], 3_600_000);
    near.close();
    far.close();`);
  expect(await ending.exit(), ending.stderr).toBe(0);
});

test("a signal ends it with its reason, and is let go of", async () => {
  using both = await pair();
  const { signal, abort } = abortable();
  expect((await select([], [both.near], [], undefined, { signal }))[1]).toEqual([both.near]);
  expect(getEventListeners(signal, "abort")).toEqual([]);
  const waiting = failure(select([both.far], [], [], undefined, { signal }));
  await turn();
  abort();
  expect(await waiting).toBe(signal.reason);
  expect(await failure(select([], [both.near], [], 0, { signal }))).toBe(signal.reason);
  expect(getEventListeners(signal, "abort")).toEqual([]);
});

function abortable() {
  const stop = new AbortController();
  return { signal: stop.signal, abort: () => stop.abort(new Error("enough")) };
}

test("several loops and waits go on side by side", async () => {
  using a = await pair();
  using b = await pair();
  const all = Promise.all([
    select([a.far], [], []),
    select([a.far, b.far], [], []),
    a.far.waitReadable(),
  ]);
  await a.near.sendAll("x");
  const [first, second] = await all;
  expect(first[0]).toEqual([a.far]);
  expect(second[0]).toEqual([a.far]);
});

test("watches more than 1,024 sockets", async () => {
  using server = listen({ port: 0, backlog: 2000 });
  const near: Socket[] = [];
  const far: Socket[] = [];
  for (let i = 0; i < 1100; i++) {
    near.push(await connect({ port: server.address.port }));
    far.push(await server.accept());
  }
  expect(await select(far, [], [], 0)).toEqual([[], [], []]);
  const selecting = select(far, [], []);
  near[1099]!.trySend("x");
  const index = far.findIndex(
    ({ remoteAddress }) => remoteAddress.port === near[1099]!.localAddress.port,
  );
  expect((await selecting)[0]).toEqual([far[index]!]);
  for (const conn of [...near, ...far]) conn.close();
});

testPython("agrees with CPython's select about the same states", async () => {
  await using peer = python(`
import select
s = listen()
def states(): # one connection each: data, EOF, reset, silence
    conns = [s.accept()[0] for _ in range(4)]
    conns[0].sendall(b"x"); conns[1].shutdown(socket.SHUT_WR); reset(conns[2])
    return conns
theirs = states()
mine = [connect(s.getsockname()[1]) for _ in range(4)]
kept = states()
def ready(): return [int(c in select.select(mine, [], [], 0)[0]) for c in mine]
while sum(ready()) < 3: pass
print("states", *ready(), flush=True)
sys.stdin.readline()`);
  const port = await peer.port();
  const conns: Socket[] = [];
  for (let i = 0; i < 4; i++) conns.push(await connect({ port }));
  const [, theirs] = await peer.until(/states (.*)\n/);
  let readable: unknown[] = [];
  while (readable.length < 3) [readable] = await select(conns, [], []);
  expect(conns.map((conn) => Number(readable.includes(conn))).join(" ")).toBe(theirs!);
  for (const conn of conns) conn.close();
});
