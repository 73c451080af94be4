// lib/threads.ts when things go wrong, with the kernel spreading the connections and with the relay.
// (That the threads serve clients is tested with the scripts that use them.)

import { readdirSync, readlinkSync } from "node:fs";
import { describe, expect, test, setDefaultTimeout } from "bun:test";

import { encodeProxyHeader, UNIQUE_ID } from "../lib/relay.ts";
import type { SocketError } from "../lib/errors.ts";
import { connect, type Socket } from "../lib/socket.ts";
import {
  failure,
  fails,
  freePort,
  Network,
  PATIENCE_MS,
  Process,
  recvAll,
  script,
  testNetwork,
  untilRefused,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

function faulty(...args: string[]): Process {
  return new Process([process.execPath, "run", "tests/fixtures/faulty-threads.ts", ...args]);
}

async function ask(conn: Socket, order: string): Promise<string> {
  await conn.sendAll(order);
  return String(await conn.recv(100));
}

/** Asks again until the thread that died is replaced: without the relay, nobody else listens until then. */
async function askUntilServed(port: number, order: string): Promise<string> {
  for (;;) {
    try {
      using conn = await connect({ port });
      const answer = await ask(conn, order);
      if (answer !== "") return answer;
    } catch (error) {
      if (!/ECONNREFUSED|ECONNRESET|EPIPE/.test((error as SocketError).code)) throw error;
    }
  }
}

/** Opens almost as many connections as the fixture accepts (100), and waits for an answer on each. */
async function openAll(port: number): Promise<Socket[]> {
  const conns = await Promise.all(Array.from({ length: 90 }, () => connect({ port })));
  const answers = await Promise.all(conns.map((conn) => ask(conn, "hello")));
  for (const answer of answers) expect(answer).toStartWith("hello from ");
  return conns;
}

describe.each([[[]], [["--relay"]]])("threads %p", (mode: string[]) => {
  test("know the client's address", async () => {
    await using server = faulty(...mode);
    using conn = await connect({ port: await server.port() });
    expect(await ask(conn, "hello")).toBe(`hello from 127.0.0.1:${conn.localAddress.port}`);
  });

  test("go on printing for their last connections", async () => {
    await using server = faulty(...mode);
    const port = await server.port();
    using conn = await connect({ port });
    await ask(conn, "before");
    server.kill("SIGTERM");
    await untilRefused(port);
    expect(await recvAll(conn)).toHaveLength(0);
    conn.close();
    expect(await server.exit()).toBe(0);
    expect(server.stdout).toEndWith("before\nthe end\n");
  });

  test("a handler that throws ends its connection, and that is told; others go on", async () => {
    await using server = faulty(...mode);
    const port = await server.port();
    using stays = await connect({ port });
    await ask(stays, "hello");
    using conn = await connect({ port });
    await conn.sendAll("throw");
    await recvAll(conn).catch(() => {});
    await server.until(/warning: .*the handler is wrong/s, "stderr");
    expect(await ask(stays, "still here")).toStartWith("still here");
  });

  test("neither what a handler throws nor what a thread posts ends the server", async () => {
    await using server = faulty(...mode);
    const port = await server.port();
    using stays = await connect({ port });
    for (const order of ["throw nothing", "throw text"]) {
      using conn = await connect({ port });
      await conn.sendAll(order);
      await recvAll(conn).catch(() => {});
    }
    await server.until(/^warning: only text$/m, "stderr");
    await server.until(/^warning: null was thrown$/m, "stderr");
    expect(await ask(stays, "post")).toStartWith("post");
    expect(await ask(stays, "still here")).toStartWith("still here");
    server.kill("SIGTERM");
    stays.close();
    expect(await server.exit()).toBe(0);
    expect(server.stdout).not.toContain("not ours");
  });

  test("a thread that dies after the signal is told too, with exit 1", async () => {
    await using server = faulty(...mode);
    using conn = await connect({ port: await server.port() });
    await ask(conn, "die late");
    server.kill("SIGTERM");
    expect(await server.exit()).toBe(1);
    expect(server.stderr).toMatch(/^error: a thread has died \(the thread is wrong, at .*\)$/m);
  });

  test("the connections of a thread that died are counted no longer", async () => {
    await using server = faulty(...mode);
    const port = await server.port();
    const first = await openAll(port);
    await first[0]!.sendAll("die");
    await Promise.all(first.map((conn) => recvAll(conn).catch(() => {})));
    await askUntilServed(port, "hello");
    for (const conn of await openAll(port)) conn.close();
  });

  test("a thread that keeps dying is replaced once a second", async () => {
    await using server = faulty(...mode);
    const port = await server.port();
    const started = performance.now();
    for (let i = 0; i < 3; i++) {
      using conn = await connect({ port });
      await ask(conn, "hello");
      await conn.sendAll("die");
      await recvAll(conn).catch(() => {});
      await askUntilServed(port, "hello");
    }
    expect(performance.now() - started).toBeGreaterThan(1_900); // the first replacement comes at once
  });

  test.each([
    ["die", "the thread is wrong"],
    ["die of text", "nothing but text"],
    ["exit", "exit 7"],
  ])("a thread that dies (%s) is replaced, and that is told", async (order, why) => {
    await using server = faulty(...mode);
    const port = await server.port();
    for (let i = 0; i < 2; i++) {
      using conn = await connect({ port });
      await ask(conn, "hello");
      await conn.sendAll(order);
      await recvAll(conn).catch(() => {});
      expect(await askUntilServed(port, "hello")).toStartWith("hello");
    }
    await server.until(/another takes its place/, "stderr");
    expect(server.stderr).toMatch(/^warning: a thread has died .*; another takes its place$/m);
    expect(server.stderr).toContain(why);
    if (order === "die") expect(server.stderr).toContain("faulty-threads.ts:");
    server.kill("SIGTERM");
    expect(await server.exit()).toBe(0);
  });

  test("the server listens when the first thread accepts; the others join", async () => {
    await using server = faulty("--late", ...mode);
    const port = await server.port();
    using conn = await connect({ port });
    // The second thread may not be listening for "start" yet, so it is sent until the thread joins.
    while (!server.stdout.includes("the second thread joins")) await ask(conn, "start");
    conn.close();
    server.kill("SIGTERM");
    expect(await server.exit(), server.stderr).toBe(0);
  });

  test("threads that cannot start end the program with an error", async () => {
    await using server = faulty("--broken", ...mode);
    expect(await server.exit()).toBe(1);
    expect(server.stderr).toContain("a thread could not start");
    expect(server.stderr).toContain("not today");
  });

  test("so does one that cannot start again, also while a client waits for it", async () => {
    await using server = faulty("--mortal", ...mode);
    const port = await server.port();
    using doomed = await connect({ port });
    await ask(doomed, "hello");
    await doomed.sendAll("die");
    await recvAll(doomed).catch(() => {});
    const waiting = connect({ port }).then(recvAll); // only the relay listens until then
    waiting.catch(() => {}); // it ends with the program
    expect(await server.exit(), server.stderr).toBe(1);
    expect(server.stderr).toContain("a thread could not start: not today");
  });
});

test("with port 0, nobody else can take the port while the threads start", async () => {
  await using server = faulty("--stranger");
  using conn = await connect({ port: await server.port() });
  expect(await ask(conn, "hello")).toStartWith("hello from ");
  expect(server.stdout).toMatch(/^a stranger: .*EADDRINUSE/);
});

test("of copies that start together on one port, one gets it", async () => {
  for (let i = 0; i < 5; i++) {
    const port = freePort();
    const copies = Array.from({ length: 4 }, () => faulty("--port", `${port}`));
    const ends = copies.map(async (copy) => {
      const listening = copy.until(/listening on/).then(() => "listening");
      return Promise.race([listening, copy.exit()]).catch(() => copy.exit());
    });
    expect((await Promise.all(ends)).sort()).toEqual([1, 1, 1, "listening"]);
    for (const copy of copies) await copy[Symbol.asyncDispose]();
    const refused = copies.filter(({ stderr }) => /address already in use\n$/.test(stderr));
    expect(refused).toHaveLength(3);
  }
});

describe("the relay", () => {
  test("its inner ports serve nobody else, and wait for nobody long", async () => {
    await using server = faulty("--relay");
    const port = await server.port();
    const inner = (await listeningPorts(server.pid)).filter((candidate) => candidate !== port);
    expect(inner).toHaveLength(1);
    const claimed = {
      source: { host: "192.0.2.7", port: 1 },
      destination: { host: "::1", port: 2 },
    };
    const guessed = new Map([[UNIQUE_ID, Buffer.from("guessed")]]);
    const began = performance.now();
    for (const first of [
      "hello",
      encodeProxyHeader(claimed),
      encodeProxyHeader({ ...claimed, tlvs: guessed }),
      "PROXY", // and then silence
    ]) {
      using intruder = await connect({ port: inner[0]! });
      await intruder.sendAll(first);
      await fails(recvAll(intruder), "ECONNRESET");
      const who = `127.0.0.1:${intruder.localAddress.port}`;
      await server.until(new RegExp(`${who}: the relay did not make it$`, "m"), "stderr");
    }
    expect(performance.now() - began).toBeLessThan(8_000);
  });

  test("a client that comes while a thread is being replaced waits, and is served", async () => {
    await using server = faulty("--relay");
    const port = await server.port();
    for (let deaths = 1; deaths <= 2; deaths++) {
      using conn = await connect({ port });
      await ask(conn, "hello");
      await conn.sendAll("die");
      await recvAll(conn).catch(() => {});
      const told = new RegExp(`(another takes its place\\n[^]*){${deaths}}`);
      await server.until(told, "stderr");
      using next = await connect({ port }); // the second replacement comes after a second
      expect(await ask(next, "hello")).toStartWith("hello from ");
    }
  });

  test("passes a reset on as a reset, either way", async () => {
    await using server = script("echo-threaded-server", [
      ...["--port=0", "--relay", "--threads=1", "--max-connections=1"],
    ]);
    const port = await server.port();
    const first = await connect({ port });
    await first.sendAll("x");
    await first.recv(1);
    // The thread resets one connection too many. The reset may come before Bun has reported the connection.
    const second = connect({ port }).then((conn) => conn.recv(1));
    await fails(second, "ECONNRESET");
    first.reset();
    await server.until(/connection reset by peer/, "stderr"); // the reset has reached the thread
  });

  test("waits for the thread that takes the place of a dead one", async () => {
    await using server = faulty("--relay");
    const port = await server.port();
    for (let i = 0; i < 2; i++) {
      using doomed = await connect({ port });
      await ask(doomed, "hello");
      await doomed.sendAll("die");
      await recvAll(doomed).catch(() => {});
      using next = await connect({ port }); // at once: this connection waits; no second one is needed
      expect(await ask(next, "hello")).toStartWith("hello");
    }
  });

  testNetwork("knows a link-local client with its scope", async () => {
    using network = new Network();
    const run = [process.execPath, "run", "tests/fixtures/faulty-threads.ts"];
    await using server = network.process([...run, "--relay", "--host", "fe80::5%near"]);
    const port = await server.port();
    const code = `
import socket
c = socket.socket(socket.AF_INET6); c.connect(("fe80::5", ${port}, 0, socket.if_nametoindex("near")))
c.sendall(b"hello"); print(c.recv(100).decode(), flush=True)`;
    await using client = network.process(["python3", "-c", code]);
    await client.until(/hello from \[fe80::5%near\]:\d+/);
  });
});

/** The TCP ports on which a process listens, from /proc (proc(5), proc_pid_net(5)). */
async function listeningPorts(pid: number): Promise<number[]> {
  const inodes = readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).match(/socket:\[(\d+)\]/)?.[1];
    } catch {
      return undefined; // closed meanwhile
    }
  });
  const table = await Bun.file(`/proc/${pid}/net/tcp`).text();
  return table
    .split("\n")
    .map((line) => line.trim().split(/\s+/))
    .filter((column) => column[3] === "0A" && inodes.includes(column[9]))
    .map((column) => parseInt(column[1]!.split(":")[1]!, 16));
}
