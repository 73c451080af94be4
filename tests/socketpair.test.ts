// socketpair(): both ends of one connection in one call.

import { expect, test } from "bun:test";

import { connect, type ServerSocket, type Socket, socketpair } from "../lib/socket.ts";
import { calls } from "../lib/socket/calls.ts";
import { fails } from "./helpers.ts";

test.each(["127.0.0.1", "::1"])("two ends of one connection, over %s", async (host) => {
  const ends = await socketpair({ host });
  const { near, far } = ends;
  expect(far.remoteAddress).toEqual(near.localAddress);
  expect(near.remoteAddress).toEqual(far.localAddress);
  expect(near.remoteAddress.host).toBe(host);
  await near.sendAll("hello");
  await far.sendAll("안녕");
  expect(String(await far.recvExactly(5))).toBe("hello");
  expect(String(await near.recvExactly(6))).toBe("안녕");
  ends[Symbol.dispose]();
  await fails(near.recv(1), "EBADF");
  await fails(far.recv(1), "EBADF");
});

test("another process that finds the port is not taken for the other end", async () => {
  const { run } = calls;
  let intruder: Promise<Socket> | undefined;
  calls.run = (name, call, ...args) => {
    const made = run(name, call, ...args);
    // It connects as soon as somebody listens, and so before our own end does.
    if (name === "listen") intruder = connect((made as ServerSocket).address);
    return made;
  };
  try {
    using ends = await socketpair();
    expect(ends.far.remoteAddress).toEqual(ends.near.localAddress);
    expect((await (await intruder!).recv(1)).length).toBe(0);
  } finally {
    calls.run = run;
    (await intruder)?.close();
  }
});

test("many at once: each end has its own partner", async () => {
  const pairs = await Promise.all(Array.from({ length: 50 }, () => socketpair()));
  for (const { near, far } of pairs) expect(far.remoteAddress).toEqual(near.localAddress);
  for (const pair of pairs) pair[Symbol.dispose]();
});
