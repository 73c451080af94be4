// lib/datagram.ts: whole datagrams, bounded memory, both families, reported errors, and nobody is blocked.

import { getEventListeners } from "node:events";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";

import type { Address } from "../lib/address.ts";
import { datagram, type DatagramSocket } from "../lib/datagram.ts";
import { select } from "../lib/select.ts";
import {
  failure,
  fails,
  Network,
  pattern,
  PATIENCE_MS,
  Process,
  python,
  root,
  testNetwork,
  testPython,
  turn,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const stack = new DisposableStack();
afterAll(() => stack.dispose());

/** A socket that lives as long as the tests. */
async function open(options?: Parameters<typeof datagram>[0]): Promise<DatagramSocket> {
  return stack.use(await datagram(options));
}

/** Two sockets, each the other's peer. */
async function both(host = "127.0.0.1"): Promise<[DatagramSocket, DatagramSocket]> {
  const first = await open({ host });
  const near = await open({ host, peer: first.address });
  const { port } = first.address;
  first.close();
  return [near, await open({ host, port, peer: near.address })];
}

/** An address at which nobody listens. */
async function nobody(host?: string): Promise<Address> {
  using socket = await datagram({ host });
  return socket.address;
}

/** Waits until what was sent on this machine has arrived: after one turn, or two if it had to wait for one. */
async function arrival(): Promise<void> {
  for (let i = 0; i < 3; i++) await turn();
}

describe("what arrives is whole", () => {
  test.each([
    ["127.0.0.1", 65_507],
    ["::1", 65_527],
  ])("over %s, from nothing to %d bytes, and one more is EMSGSIZE", async (host, most) => {
    const [near, far] = [await open({ host }), await open({ host })];
    expect(near.address.host).toBe(host);
    expect(near.peer).toBeNull();
    for (const size of [0, 1, 1000, most]) {
      const sent = pattern(size, size);
      await near.sendTo(sent, far.address);
      const [data, from] = await far.recvFrom();
      expect(data.equals(sent)).toBe(true);
      expect(from).toEqual(near.address);
    }
    const error = await fails(near.sendTo(Buffer.alloc(most + 1), far.address), "EMSGSIZE");
    const where = host === "::1" ? "[::1]" : host;
    expect(error.message).toBe(`sendto EMSGSIZE ${where}:${far.address.port}`);
    expect(error.address).toEqual(far.address);
    await fails(() => near.trySendTo(Buffer.alloc(most + 1), far.address), "EMSGSIZE");
    await near.sendTo("안녕", far.address); // the socket still works
    expect(String(await far.recv())).toBe("안녕");
    using peer = await datagram({ host, peer: far.address });
    await fails(peer.send(Buffer.alloc(most + 1)), "EMSGSIZE");
    await arrival();
    expect(peer.tryRecvFrom()).toBeNull(); // the error is not reported a second time
  });

  test("the rest of a datagram longer than maxBytes is lost, and the next one is whole", async () => {
    const [near, far] = await both();
    for (const text of ["a long one", "short", "and another"]) await near.send(text);
    expect(String(await far.recv(6))).toBe("a long");
    expect(String((await far.recvFrom(6))[0])).toBe("short");
    await arrival();
    expect(String(far.tryRecvFrom(3)![0])).toBe("and");
    expect(far.tryRecvFrom()).toBeNull();
    const waiting = far.recv(2); // the same for a datagram that comes while we wait
    await near.send("xyz");
    expect(String(await waiting)).toBe("xy");
  });

  test("what is received is the caller's own, and what is sent is read at once", async () => {
    const [near, far] = await both();
    const bytes = Buffer.from("first");
    const sending = near.send(bytes);
    bytes.write("other");
    await sending;
    const kept = await far.recv();
    for (let i = 0; i < 100; i++) {
      await near.send(pattern(1000, i));
      await far.recv();
    }
    expect(String(kept)).toBe("first");
  });
});

describe("receiving", () => {
  test("a loop goes on until the socket is closed, and to leave it loses nothing", async () => {
    const [near, far] = await both();
    for (const text of ["1", "2", "3"]) await near.send(text);
    for await (const [data, from] of far) {
      expect(String(data)).toBe("1");
      expect(from).toEqual(near.address);
      break;
    }
    const got: string[] = [];
    for await (const [data] of far) if (got.push(String(data)) === 2) far.close();
    expect(got).toEqual(["2", "3"]);
    const [other] = await both();
    const loop = Array.fromAsync(other);
    await turn();
    other.close();
    expect(await loop).toEqual([]);
  });

  test("several calls that wait are given one each", async () => {
    const [near, far] = await both();
    const waiting = [far.recv(), far.recv(), far.recv()];
    for (const text of ["1", "2", "3"]) await near.send(text);
    expect((await Promise.all(waiting)).map(String).sort()).toEqual(["1", "2", "3"]);
  });

  test("waitReadable: when there is one, or an error to be told", async () => {
    const [near, far] = await both();
    const readable = far.waitReadable();
    await near.send("x");
    await readable;
    expect(String(far.tryRecvFrom()![0])).toBe("x");
    const over = failure(far.waitReadable());
    await turn();
    far.close();
    expect((await over).code).toBe("EBADF");
    await near.send("nobody is there any more");
    await near.waitReadable();
    await fails(() => near.tryRecvFrom(), "ECONNREFUSED");
  });

  test("setTimeout bounds it, and nothing is lost; null is for ever", async () => {
    const [near, far] = await both();
    far.setTimeout(20);
    const begun = performance.now();
    const error = await fails(far.recvFrom(), "ETIMEDOUT");
    expect(performance.now() - begun).toBeGreaterThanOrEqual(19);
    expect(error.message).toBe(`recvfrom ETIMEDOUT 127.0.0.1:${near.address.port}`);
    await near.send("late");
    expect(String(await far.recv())).toBe("late");
    far.setTimeout(null);
    const waiting = far.recv();
    await Bun.sleep(40);
    await near.send("later");
    expect(String(await waiting)).toBe("later");
    for (const wrong of [0, -1, NaN])
      expect(await failure(() => far.setTimeout(wrong))).toBeInstanceOf(RangeError);
  });

  test("a time limit that is not needed any more keeps no process alive", async () => {
    const code = `
      import { datagram } from "./lib/datagram.ts";
      const socket = await datagram();
      socket.setTimeout(3_600_000);
      socket.recvFrom().catch(({ code }) => console.log(code));
      socket.close();`;
    await using ending = new Process([process.execPath, "-e", code]);
    expect(await ending.exit(), ending.stderr).toBe(0);
    expect(ending.stdout).toBe("EBADF\n");
  });

  test("a signal ends it with its reason, at once if aborted, and leaves no listener", async () => {
    const [near, far] = await both();
    const stop = new AbortController();
    const { signal } = stop;
    const waiting = failure(far.recv(100, { signal }));
    await turn();
    stop.abort("enough");
    expect(await waiting).toBe("enough");
    await near.send("kept");
    await far.waitReadable();
    expect(await failure(far.recvFrom(100, { signal }))).toBe("enough");
    expect(String(await far.recv())).toBe("kept");
    const quiet = new AbortController();
    for (let i = 0; i < 3; i++) {
      const receiving = far.recv(100, quiet);
      await near.send("x");
      await receiving;
    }
    expect(getEventListeners(signal, "abort")).toEqual([]);
    expect(getEventListeners(quiet.signal, "abort")).toEqual([]);
  });

  test("closed: every call is EBADF, those that wait too; twice is fine, the addresses stay", async () => {
    const [near, far] = await both();
    const { address, peer } = far;
    far.setTimeout(60_000);
    const limited = failure(far.recv());
    far.setTimeout(null);
    const waiting = [limited, failure(far.recvFrom()), failure(far.recvFrom())];
    await turn();
    far.close();
    far.close();
    for (const error of await Promise.all(waiting)) expect(error.code).toBe("EBADF");
    for (const call of [
      () => far.recvFrom(),
      () => far.recv(),
      () => far.tryRecvFrom(),
      () => far.waitReadable(),
      () => far.send("x"),
      () => far.sendTo("x", near.address),
      () => far.sendTo("x", { host: "localhost", port: 1 }),
      () => far.trySendTo("x"),
      () => far.setTimeout(1),
      () => far.options,
    ]) {
      await fails(call as () => unknown, "EBADF");
    }
    expect(far.address).toEqual(address);
    expect(far.peer).toEqual(peer);
    expect(far.poll()).toBe(32);
  });
});

describe("bounded memory", () => {
  test("at most 1 MiB waits, each datagram counted with 256 bytes more; the newest are dropped, and counted", async () => {
    const [near, far] = await both();
    const fits = Math.floor(2 ** 20 / (1000 + 256));
    for (let i = 0; i < 2000; i++) {
      near.trySendTo(pattern(1000, i));
      if (i % 50 === 0) await arrival(); // so that the kernel's own buffer does not overflow
    }
    await arrival();
    expect(far.dropped).toBe(2000 - fits);
    for (let i = 0; i < fits; i++) expect((await far.recv()).equals(pattern(1000, i))).toBe(true);
    expect(far.tryRecvFrom()).toBeNull();
    await near.send("there is room again");
    expect(String(await far.recv())).toBe("there is room again");
    expect(far.dropped).toBe(2000 - fits);
    // Empty ones cost memory as well.
    for (let i = 0; i < 5000; i++) {
      near.trySendTo("");
      if (i % 50 === 0) await arrival();
    }
    await arrival();
    expect(far.dropped).toBe(2000 - fits + 5000 - 4096);
  });
});

describe("what became of it", () => {
  test("a socket with a peer is told by its next call, once", async () => {
    const gone = await nobody();
    using socket = await datagram({ peer: gone });
    expect(socket.peer).toEqual(gone);
    const told = async (call: () => unknown, syscall: string) => {
      const error = await fails(call, "ECONNREFUSED");
      expect(error.address).toEqual(gone);
      expect(error.message).toBe(`${syscall} ECONNREFUSED 127.0.0.1:${gone.port}`);
    };
    const waiting = failure(socket.recv());
    await socket.send("lost");
    expect((await waiting).code).toBe("ECONNREFUSED");
    for (const call of [
      () => socket.recvFrom(),
      () => socket.tryRecvFrom(),
      () => socket.send("not sent"),
      () => socket.trySendTo("not sent"),
    ]) {
      await socket.send("lost");
      await socket.waitReadable();
      await told(call, "recvfrom");
    }
    await arrival();
    expect(socket.tryRecvFrom()).toBeNull(); // the error is not reported again
    using there = await datagram(gone);
    await socket.send("found");
    expect(String(await there.recv())).toBe("found");
  });

  test("it is told once also where the system tells it twice", async () => {
    const [near, far] = await both();
    far.trySendTo("the last word");
    expect(String(await near.recv())).toBe("the last word");
    // This runs inside Bun's receive loop: Bun reports this error at once, and then a second time.
    far.close();
    near.trySendTo("lost");
    await fails(near.recv(), "ECONNREFUSED");
    await arrival();
    expect(near.tryRecvFrom()).toBeNull();
  });

  test("a for-await over a socket with a peer rejects with the reported error", async () => {
    using socket = await datagram({ peer: await nobody() });
    await socket.send("lost");
    expect((await failure(Array.fromAsync(socket))).code).toBe("ECONNREFUSED");
  });

  test.each(["127.0.0.1", "::1"])(
    "one without a peer is not disturbed, and sends to others all the same: %s",
    async (host) => {
      const gone = await nobody(host);
      using socket = await datagram({ host });
      using there = await datagram({ host });
      const waiting = socket.recv();
      for (let i = 0; i < 50; i++) {
        await socket.sendTo("lost", gone); // the ICMP error is back before the next send
        await socket.sendTo(`${i}`, there.address);
        if (i % 10 === 0) await turn();
      }
      for (let i = 0; i < 50; i++) expect(String(await there.recv())).toBe(`${i}`);
      await there.sendTo("still waiting?", socket.address);
      expect(String(await waiting)).toBe("still waiting?");
    },
  );

  test("a stranger is not heard", async () => {
    const [near, far] = await both();
    using stranger = await datagram();
    await stranger.sendTo("it is me", far.address);
    await near.send("no, me");
    const [data, from] = await far.recvFrom();
    expect(String(data)).toBe("no, me");
    expect(from).toEqual(near.address);
    await arrival();
    expect(far.tryRecvFrom()).toBeNull();
  });
});

describe("errors", () => {
  test("to another than the peer is EISCONN, to nobody EDESTADDRREQ", async () => {
    const [near, far] = await both();
    using other = await datagram();
    await near.sendTo("to the peer", far.address);
    expect(String(await far.recv())).toBe("to the peer");
    for (const to of [other.address, { ...far.address, host: "127.0.0.2" }]) {
      const error = await fails(near.sendTo("x", to), "EISCONN");
      expect(error.message).toBe(`sendto EISCONN ${to.host}:${to.port}`);
    }
    const error = await fails(other.send("x"), "EDESTADDRREQ");
    expect(error.message).toBe(`sendto EDESTADDRREQ 127.0.0.1:${other.address.port}`);
    await fails(() => other.trySendTo("x"), "EDESTADDRREQ");
  });

  test("an address in use, not ours, or unknown", async () => {
    using socket = await datagram();
    const { port } = socket.address;
    const used = await fails(datagram({ port }), "EADDRINUSE");
    expect(used.message).toBe(`bind EADDRINUSE 127.0.0.1:${port}`);
    expect(used.address).toEqual(socket.address);
    const notOurs = await fails(datagram({ host: "192.0.2.1" }), "EADDRNOTAVAIL");
    expect(notOurs.message).toBe("bind EADDRNOTAVAIL 192.0.2.1:0");
    const host = "no-such-host.invalid";
    for (const [call, syscall] of [
      [datagram({ host }), "bind"],
      [datagram({ peer: { host, port: 1 } }), "connect"],
      [socket.sendTo("x", { host, port: 1 }), "sendto"],
    ] as const) {
      expect((await fails(call, "ENOTFOUND")).message).toBe(`${syscall} ENOTFOUND ${host}`);
    }
  });

  test("the other family, a network out of reach, broadcast that was not asked for", async () => {
    using four = await datagram();
    using six = await datagram({ host: "::1" });
    await fails(four.sendTo("x", six.address), "EAFNOSUPPORT");
    await fails(six.sendTo("x", four.address), "ENETUNREACH");
    await fails(four.sendTo("x", { host: "192.0.2.1", port: 1 }), "EINVAL"); // from 127.0.0.1
    await fails(four.sendTo("x", { host: "255.255.255.255", port: 1 }), "EACCES");
    const peer = { host: "192.0.2.1", port: 1 };
    const error = await fails(datagram({ host: "127.0.0.1", peer }), "EINVAL");
    expect(error.message).toBe("connect EINVAL 192.0.2.1:1");
  });

  test("wrong arguments are refused with their value", async () => {
    using socket = await datagram();
    const to = socket.address;
    for (const [call, kind, told] of [
      [() => datagram({ port: 70_000 }), RangeError, "70000"],
      [() => datagram({ port: 1.5 }), RangeError, "1.5"],
      [() => datagram({ host: "" }), TypeError, '""'],
      [() => datagram({ peer: { ...to, port: 0 } }), RangeError, "0"],
      [() => socket.recvFrom(0), RangeError, "0"],
      [() => socket.recv(1.5), RangeError, "1.5"],
      [() => socket.tryRecvFrom(-1), RangeError, "-1"],
      [() => socket.sendTo("x", { ...to, port: 0 }), RangeError, "0"],
      [() => socket.sendTo("x", { ...to, port: 65_536 }), RangeError, "65536"],
      [() => socket.sendTo("x", { ...to, host: "" }), TypeError, '""'],
      [() => socket.sendTo(5 as any, to), TypeError, "5"],
      [() => socket.trySendTo("x", { host: "localhost", port: 1 }), TypeError, '"localhost"'],
    ] as const) {
      const error = await failure(call as () => unknown);
      expect(error).toBeInstanceOf(kind);
      expect(error.message).toContain(told);
    }
    const rejects = socket.sendTo("x", { ...to, port: 0 }); // it rejects, it does not throw
    expect(await failure(rejects)).toBeInstanceOf(RangeError);
  });

  test("out of descriptors is EMFILE", async () => {
    const code = `
import { datagram } from ${JSON.stringify(join(root, "lib/datagram.ts"))};
import { openSync } from "node:fs";
try { for (;;) openSync("/dev/null"); } catch {}
await datagram().catch((error) => console.log(error.message));`;
    const limited = [
      "bash",
      "--norc",
      "-c",
      'ulimit -n 64; exec "$0" -e "$1"',
      process.execPath,
      code,
    ];
    await using child = new Process(limited);
    expect(await child.exit()).toBe(0);
    expect(child.stdout).toBe("bind EMFILE 127.0.0.1:0\n");
  });
});

describe("names and both families", () => {
  test("a name is looked up; IPv6 may have brackets", async () => {
    using four = await datagram({ host: "localhost" });
    expect(four.address.host).toBe("127.0.0.1");
    using six = await datagram({ host: "[::1]" });
    expect(six.address.host).toBe("::1");
    const { port } = four.address;
    using named = await datagram({ peer: { host: "LocalHost", port } });
    expect(named.peer).toEqual(four.address);
    await named.send("1");
    await named.sendTo("2", { host: "localhost", port });
    using any = await datagram();
    await any.sendTo("3", { host: "localhost", port });
    for (const text of ["1", "2", "3"]) expect(String(await four.recv())).toBe(text);
    // A name gives an address of the socket's own family.
    await six.sendTo("4", { host: "localhost", port: six.address.port });
    expect(String(await six.recv())).toBe("4");
    expect((await failure(any.sendTo("5", { host: "[::1]", port }))).code).toBe("EAFNOSUPPORT");
    using bracketed = await datagram({ peer: { host: "[::1]", port: six.address.port } });
    await bracketed.send("6");
    expect(String(await six.recv())).toBe("6");
  });

  test("on :: both families are heard, with addresses as people write them, and answered", async () => {
    using all = await datagram({ host: "::" });
    const { port } = all.address;
    for (const host of ["127.0.0.1", "::1"]) {
      using one = await datagram({ host });
      using other = await datagram({ peer: { host, port } });
      for (const socket of [one, other]) {
        await socket.sendTo("hello", { host, port });
        const [data, from] = await all.recvFrom();
        expect(from.host).toBe(host);
        expect(from.port).toBe(socket.address.port);
        await all.sendTo(data, from);
        const [reply, replied] = await socket.recvFrom();
        expect(String(reply)).toBe("hello");
        expect(replied).toEqual({ host, port });
      }
    }
    using dual = await datagram({ host: "::", peer: { host: "127.0.0.1", port } });
    expect(dual.peer).toEqual({ host: "127.0.0.1", port });
    expect(dual.address.host).toBe("127.0.0.1");
  });
});

describe("nobody is held up", () => {
  test("loops that could go on for ever let timers run", async () => {
    const [near, far] = await both();
    let time = false;
    setTimeout(() => (time = true), 5);
    while (!time) await near.send("x");
    time = false;
    setTimeout(() => (time = true), 5);
    while (!time) {
      near.trySendTo("x");
      await far.recv();
    }
    time = false;
    setTimeout(() => (time = true), 5);
    far.setTimeout(10_000);
    while (!time) {
      near.trySendTo("x");
      await far.recv();
    }
  });

  test("select takes it among the readers", async () => {
    const [near, far] = await both();
    const [, quiet] = await both();
    expect(await select([quiet, far], [], [], 0)).toEqual([[], [], []]);
    const selecting = select([quiet, far], [], []);
    await arrival();
    await near.send("x");
    expect((await selecting)[0]).toEqual([far]);
    expect((await select([far, quiet], [], []))[0]).toEqual([far]); // until it is received
    far.tryRecvFrom();
    expect(await select([far], [], [], 0)).toEqual([[], [], []]);
    far.close();
    await near.send("x");
    expect((await select([near], [], []))[0]).toEqual([near]); // an error waits to be reported
    expect((await failure(select([far], [], []))).code).toBe("EBADF");
  });
});

describe("in a network", () => {
  const LIB = `
import { datagram } from ${JSON.stringify(join(root, "lib/datagram.ts"))};
const say = (...values) => console.log(values.map((value) => JSON.stringify(value)).join(" "));
const port = 5_000;
const hears = async (socket) => {
  const [data, from] = await socket.recvFrom().catch(({ code }) => [code, { host: "nobody" }]);
  say(String(data), from.host);
};
`;
  /** Runs a program over the lib in a network of its own; gives what it printed. */
  async function inNetwork(code: string, ...shape: string[]): Promise<string> {
    using network = new Network();
    if (shape.length > 0) {
      const command = ["tc", "-n", network.name, "qdisc", "add", "dev", "near", "root", ...shape];
      const { exitCode, stderr } = Bun.spawnSync(command);
      expect(exitCode, String(stderr)).toBe(0);
    }
    await using child = network.process([process.execPath, "-e", LIB + code]);
    expect(await child.exit(), child.stderr).toBe(0);
    return child.stdout;
  }

  testNetwork("broadcast reaches all who listen there, once it is asked for", async () => {
    const told = await inNetwork(`
using receiver = await datagram({ host: "0.0.0.0", port });
using sender = await datagram({ host: "10.77.0.1" });
for (const host of ["10.77.0.255", "255.255.255.255"]) {
  sender.options.setBroadcast(false);
  await sender.sendTo("may I?", { host, port }).catch(({ message }) => say(message));
  sender.options.setBroadcast(true);
  await sender.sendTo("to all", { host, port });
  await hears(receiver);
}`);
    expect(told).toBe(`"sendto EACCES 10.77.0.255:5000"
"to all" "10.77.0.1"
"sendto EACCES 255.255.255.255:5000"
"to all" "10.77.0.1"
`);
  });

  testNetwork("multicast reaches those who have joined, until they leave", async () => {
    const told = await inNetwork(`
using four = await datagram({ host: "0.0.0.0", port });
using sender = await datagram({ host: "10.77.0.1" });
const group = "239.1.2.3";
sender.options.setMulticastInterface("10.77.0.1");
four.options.addMembership(group, "10.77.0.1");
four.setTimeout(100);
await sender.sendTo("to the group", { host: group, port });
await hears(four);
four.options.dropMembership(group, "10.77.0.1");
await sender.sendTo("to the group", { host: group, port });
await hears(four);

using six = await datagram({ host: "::", port: port + 1 });
six.setTimeout(100);
six.options.addMembership("ff02::1234", "::%near");
const to = { host: "ff02::1234%near", port: port + 1 };
await six.sendTo("to the group", to);
await hears(six);
six.options.dropMembership("ff02::1234", "::%near");
await six.sendTo("to the group", to);
await hears(six);`);
    expect(told.replaceAll(/fe80::5%\w+/g, "fe80::5")).toBe(`"to the group" "10.77.0.1"
"ETIMEDOUT" "nobody"
"to the group" "fe80::5"
"ETIMEDOUT" "nobody"
`);
  });

  testNetwork("a link-local address keeps its interface", async () => {
    const told = await inNetwork(`
using own = await datagram({ host: "fe80::5%near", port });
using all = await datagram({ host: "::" });
using peer = await datagram({ peer: own.address });
say(own.address.host, peer.peer.host, peer.address.host);
await peer.send("to own");
await hears(own);
await own.sendTo("to all", { host: "fe80::5%near", port: all.address.port });
await hears(all);
const elsewhere = { host: "fe80::99%near", port: 9 };
using far = await datagram({ peer: elsewhere });
await far.sendTo("x", elsewhere);
say(far.peer.host);`);
    expect(told).toBe(`"fe80::5%near" "fe80::5%near" "fe80::5%near"
"to own" "fe80::5%near"
"to all" "fe80::5%near"
"fe80::99%near"
`);
  });

  // A device that sends 1 Mbit/s and queues the rest. The limit of its queue is larger than our socket's send
  // buffer, or smaller.
  const slow = ["tbf", "rate", "1mbit", "burst", "3000", "limit"];

  testNetwork("without room a send waits for it, within its time", async () => {
    const told = await inNetwork(
      `
using socket = await datagram({ host: "10.77.0.1" });
const to = { host: "10.77.0.9", port };
const block = Buffer.alloc(1_000);
let sent = 0;
while (socket.trySendTo(block, to)) sent++;
say(sent > 50, socket.trySendTo(block, to), socket.poll());
socket.setTimeout(1);
await socket.sendTo(block, to).catch(({ message }) => say(message));
socket.setTimeout(10_000);
await Promise.all([socket.sendTo(block, to), socket.sendTo(block, to)]);
say("sent");
// There is some room again long before the kernel says so; nobody sends into it, as poll() has it.
while (socket.trySendTo(block, to)) {}
let isEarly = false;
while (socket.poll() === 0 && !isEarly) {
  isEarly = socket.trySendTo(block, to);
  await new Promise(setImmediate);
}
say(isEarly);`,
      ...slow,
      "10000000",
    );
    expect(told).toBe('true false 0\n"sendto ETIMEDOUT 10.77.0.9:5000"\n"sent"\nfalse\n');
  });

  testNetwork("a datagram that the device's queue drops is ENOBUFS", async () => {
    const told = await inNetwork(
      `
using socket = await datagram({ host: "10.77.0.1" });
const to = { host: "10.77.0.9", port };
const error = await (async () => { for (;;) await socket.sendTo(Buffer.alloc(1_000), to); })().catch((error) => error);
say(error.message);`,
      ...slow,
      "5000",
    );
    expect(told).toBe('"sendto ENOBUFS 10.77.0.9:5000"\n');
  });

  testNetwork("a name server that does not answer holds nobody up", async () => {
    const told = await inNetwork(`
using socket = await datagram();
socket.sendTo("x", { host: "far.example", port }).catch(() => {});
datagram({ host: "far.example" }).catch(() => {});
let turns = 0;
setInterval(() => { if (++turns === 5) { say("on time"); process.exit(); } }, 5);`);
    expect(told).toBe('"on time"\n');
  });
});

describe("with CPython", () => {
  const SIZES = [0, 1, 1472, 1473, 9000, 65_507];

  for (const [host, theirs] of [
    ["127.0.0.1", "127.0.0.1"],
    ["::1", "::1"],
    ["::", "127.0.0.1"],
    ["::", "::1"],
  ] as const) {
    testPython(
      `it sends to ${host} from ${theirs}, and is answered, 0 to 65,507 bytes`,
      async () => {
        using socket = await datagram({ host });
        await using peer = python(
          `
host, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
for size in map(int, sys.argv[3:]):
    data = bytes(i % 251 for i in range(size))
    s.sendto(data, (host, port))
    reply, sender = s.recvfrom(65536)
    assert reply == data and sender[:2] == (host, port), (len(reply), sender)
print("done")`,
          theirs,
          socket.address.port,
          ...SIZES,
        );
        for (const size of SIZES) {
          const [data, from] = await socket.recvFrom();
          expect(data.length).toBe(size);
          expect(from.host).toBe(theirs);
          await socket.sendTo(data, from);
        }
        await peer.until(/done/);
      },
    );
  }

  testPython("it answers us, and both say ECONNREFUSED when it is gone", async () => {
    await using peer = python(`
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])
gone = s.getsockname()
for _ in range(${SIZES.length}):
    data, sender = s.recvfrom(65536)
    s.sendto(data, sender)
s.close()
c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.connect(gone); c.send(b"lost")
try: c.recv(1)
except OSError as error: print(type(error).__name__)`);
    using socket = await datagram({ peer: { host: "127.0.0.1", port: await peer.port() } });
    for (const size of SIZES) {
      await socket.send(pattern(size));
      expect((await socket.recv()).equals(pattern(size))).toBe(true);
    }
    await peer.until(/ConnectionRefusedError/);
    await socket.send("lost");
    await fails(socket.recv(), "ECONNREFUSED");
  });

  // CPython sends as fast as it can.
  const flooding = (port: number) =>
    python(
      `
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("begins")
while True: s.sendto(b"x" * 100, ("127.0.0.1", int(sys.argv[1])))`,
      port,
    );
  const loops: Record<string, (socket: DatagramSocket, work: () => void) => Promise<void>> = {
    async "recvFrom and sendTo"(socket, work) {
      for (;;) {
        const [data, from] = await socket.recvFrom();
        work();
        await socket.sendTo(data, from);
      }
    },
    async "for await"(socket, work) {
      for await (const _ of socket) work();
    },
  };
  for (const [name, loop] of Object.entries(loops)) {
    testPython(`a flood holds up no timer: ${name}`, async () => {
      using socket = await datagram();
      await using flood = flooding(socket.address.port);
      await flood.until(/begins/);
      let received = 0;
      const work = () => {
        received++;
        for (const end = performance.now() + 0.1; performance.now() < end;);
      };
      const over = loop(socket, work).catch(({ code }) => code);
      for (let i = 0; i < 10; i++) await Bun.sleep(1); // if timers got no turn, this would never end
      expect(received).toBeGreaterThan(100);
      socket.close();
      expect(["EBADF", undefined]).toContain(await over); // a `for await` just ends
    });
  }

  testPython("what a stranger sends before we have a peer is not heard either", async () => {
    using server = await datagram();
    const { port } = await nobody();
    await using flood = flooding(port);
    await flood.until(/begins/);
    for (let i = 0; i < 200; i++) {
      using socket = await datagram({ port, peer: server.address });
      await arrival();
      expect(socket.tryRecvFrom()).toBeNull();
    }
  });
});

test("random datagrams, sizes and orders do what a model of them does", async () => {
  const size = fc.oneof(fc.nat(20), fc.nat(2_000), fc.nat(65_507));
  const who = fc.nat(2);
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.record({ what: fc.constant("send" as const), who, to: who, size }) },
    {
      weight: 2,
      arbitrary: fc.record({
        what: fc.constantFrom("recvFrom", "tryRecvFrom", "poll", "wait"),
        who,
        most: fc.oneof(fc.constant(undefined), fc.integer({ min: 1, max: 70_000 })),
      }),
    },
  );
  const runs = Number(process.env.FUZZ_RUNS ?? 100);
  const seed = process.env.FUZZ_SEED === undefined ? {} : { seed: Number(process.env.FUZZ_SEED) };
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 200 }), async (steps) => {
      const sockets = await Promise.all([datagram(), datagram({ host: "::" }), datagram()]);
      const address = ({ address: { port } }: DatagramSocket) => ({ host: "127.0.0.1", port });
      // The model of each socket: the datagrams that wait, how many were dropped, and a recvFrom that waits.
      const model = sockets.map(() => ({
        queue: [] as { data: Buffer; from: number }[],
        bytes: 0,
        dropped: 0,
        waiting: null as { got: Promise<[Buffer, Address]>; most: number } | null,
      }));
      const check = (
        [data, from]: [Buffer, Address],
        sent: Buffer,
        sender: number,
        most = Infinity,
      ) => {
        expect(data.equals(sent.subarray(0, most))).toBe(true);
        expect(from).toEqual(address(sockets[sender]!));
      };
      try {
        for (const [i, step] of steps.entries()) {
          const [socket, own] = [sockets[step.who]!, model[step.who]!];
          if (step.what === "send") {
            const data = pattern(step.size, i + 1);
            const [to, theirs] = [sockets[step.to]!, model[step.to]!];
            await socket.sendTo(data, address(to));
            await arrival();
            if (theirs.waiting !== null) {
              const { got, most } = theirs.waiting;
              theirs.waiting = null;
              check(await got, data, step.who, most);
            } else if (theirs.bytes + step.size + 256 > 2 ** 20) theirs.dropped++;
            else {
              theirs.queue.push({ data, from: step.who });
              theirs.bytes += step.size + 256;
            }
            expect(to.dropped).toBe(theirs.dropped);
          } else if (step.what === "poll") {
            expect(socket.poll()).toBe(own.queue.length > 0 ? 5 : 4);
          } else if (step.what === "tryRecvFrom" || own.queue.length > 0) {
            const next = own.queue.shift();
            const got =
              step.what === "tryRecvFrom"
                ? socket.tryRecvFrom(step.most)
                : await socket.recvFrom(step.most);
            if (next === undefined) expect(got).toBeNull();
            else check(got!, next.data, next.from, step.most);
            own.bytes -= next === undefined ? 0 : next.data.length + 256;
          } else if (step.what === "wait" && own.waiting === null) {
            own.waiting = { got: socket.recvFrom(step.most), most: step.most ?? Infinity };
          }
        }
        for (const [i, { waiting }] of model.entries()) {
          sockets[i]!.close();
          if (waiting !== null) await fails(waiting.got, "EBADF");
        }
      } finally {
        for (const socket of sockets) socket.close();
      }
    }),
    { numRuns: runs, ...seed },
  );
});
