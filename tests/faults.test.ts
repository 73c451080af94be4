// Faults of peers, of the machine and of the network, and the servers that have to survive them. (Faults of a
// single connection are in conformance.ts and socket.test.ts; threads that die are in threads.test.ts.)

import { readFileSync } from "node:fs";
import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect, listen, type Socket, socketpair } from "../lib/socket.ts";
import {
  echoes,
  failure,
  fails,
  fill,
  Network,
  PATIENCE_MS,
  pattern,
  Process,
  python,
  recvAll,
  script,
  testNetwork,
  testPython,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const MIB = 1 << 20;

// The matcher `rejects` runs the event loop itself until the promise is settled.
test.each([
  ["recv", (conn: Socket) => conn.recv(10)],
  ["sendAll", (conn: Socket) => conn.sendAll(Buffer.alloc(30 * MIB))],
])(
  "a %s that fails while it waits is a rejection that bun:test's own matcher takes",
  async (_, call) => {
    using ends = await socketpair();
    const called = call(ends.near);
    ends.far.reset();
    await expect(called).rejects.toMatchObject({ code: "ECONNRESET" });
  },
);

/** Resident memory of a process, in bytes: proc_pid_status(5). */
function memory(pid: number): number {
  const [, kib] = readFileSync(`/proc/${pid}/status`, "utf8").match(/^VmRSS:\s+(\d+) kB/m)!;
  return Number(kib) * 1024;
}

const echoServers = ["echo-threaded-server", "select-server"];

describe.each(echoServers)("%s", (name) => {
  testPython(
    "a peer that sends 64 MiB and never reads: it has to wait, others are served",
    async () => {
      await using server = script(name, ["--port", "0"]);
      const port = await server.port();
      await echoes(port, MIB); // warm
      const before = memory(server.pid);
      await using flood = python(
        `
conn = connect(sys.argv[1]); conn.settimeout(0.5); sent = 0
try:
    while sent < 64 << 20: sent += conn.send(b"x" * 65536)
except TimeoutError: pass
print("sent", sent); sys.stdin.readline()`,
        port,
      );
      const [, sent] = await flood.until(/sent (\d+)\n/);
      expect(Number(sent)).toBeLessThan(32 * MIB); // what the kernels' buffers hold
      expect(memory(server.pid) - before).toBeLessThan(16 * MIB);
      await echoes(port);
    },
  );

  testPython("peers that reset, half-close, dribble or vanish: others are served", async () => {
    await using server = script(name, ["--port", "0"]);
    const port = await server.port();
    await using bad = python(
      `
port = sys.argv[1]
for i in range(200):
    c = connect(port)
    if i % 4 == 0: c.sendall(b"half a mess"); reset(c)
    elif i % 4 == 1: c.shutdown(socket.SHUT_WR); assert c.recv(1) == b""
    elif i % 4 == 2: [c.send(b"x") for _ in range(20)]; c.close()
    else: c.sendall(b"x" * 100000); reset(c)
print("done")`,
      port,
    );
    await echoes(port, MIB);
    await bad.until(/done\n/);
    expect(await bad.exit()).toBe(0);
    await echoes(port, MIB);
    const lines = server.stderr.split("\n").slice(0, -1);
    for (const line of lines) expect(line).toMatch(/^warning: connection with 127\.0\.0\.1:\d+: /);
  });

  test("5,000 connections at once, each with its echo", async () => {
    await using server = script(name, ["--port", "0"]);
    const port = await server.port();
    const conns: Socket[] = [];
    while (conns.length < 5000) {
      const batch = Array.from({ length: 250 }, () => connect({ port }));
      conns.push(...(await Promise.all(batch)));
    }
    const replies = await Promise.all(
      conns.map(async (conn, i) => {
        await conn.sendAll(`message ${i}`);
        return String(await conn.recvExactly(`message ${i}`.length));
      }),
    );
    replies.forEach((reply, i) => expect(reply).toBe(`message ${i}`));
    for (const conn of conns) conn.close();
    expect(server.stderr).toBe("");
  });

  testPython(
    "descriptors exhausted: more are refused with one line; freed ones are used again",
    async () => {
      const command = `ulimit -n 64; exec ${process.execPath} run scripts/${name}.ts --port 0`;
      await using server = new Process(["bash", "--norc", "-c", command]);
      const port = await server.port();
      await using crowd = python(
        `
def served(c):
    try: c.settimeout(10); c.sendall(b"x"); return c.recv(1) == b"x"
    except OSError: return False
crowd = [connect(sys.argv[1]) for _ in range(100)]
lucky = [c for c in crowd if served(c)]
print("served", len(lucky)); sys.stdin.readline()
for c in crowd: c.close()
while not served(connect(sys.argv[1])): pass
print("served again")`,
        port,
      );
      const [, served] = await crowd.until(/served (\d+)\n/);
      expect(Number(served)).toBeGreaterThan(0);
      expect(Number(served)).toBeLessThan(64);
      await server.until(/^warning: \d+ connections are open: more are refused/m, "stderr");
      crowd.type("\n");
      await crowd.until(/served again\n/);
    },
  );

  testPython("--max-connections is exact, however the connections are spread", async () => {
    await using server = script(name, ["--port", "0", "--max-connections=8"]);
    const port = await server.port();
    await using crowd = python(
      `
def held(c):
    try: c.settimeout(10); c.sendall(b"x"); return c.recv(1) == b"x"
    except OSError: return False
def hold(n):
    conns = [connect(sys.argv[1]) for _ in range(n)]
    return conns, sum(map(held, conns))
some, n = hold(8); print("held", n)
more, n = hold(4); print("more", n)
for c in some: c.close()
while not held(connect(sys.argv[1])): pass
print("again")`,
      port,
    );
    await crowd.until(/held 8\nmore 0\nagain\n/);
  });

  test("--max-connections and --idle-timeout: silent clients are reset", async () => {
    const args = ["--port", "0", "--max-connections=2", "--idle-timeout=1", "--timeout=0.1"];
    if (name !== "select-server") args.splice(-1, 1, "--threads=1");
    await using server = script(name, args);
    const port = await server.port();
    const silent = [await connect({ port }), await connect({ port })];
    for (const conn of silent) {
      await conn.sendAll("x");
      expect(String(await conn.recv(1))).toBe("x");
    }
    const third = async () => {
      using conn = await connect({ port });
      await conn.recv(1);
    };
    expect((await failure(third)).code).toBe("ECONNRESET"); // one too many
    for (const conn of silent) await fails(conn.recv(1), "ECONNRESET"); // silent for too long
    await echoes(port);
    for (const conn of silent) conn.close();
  });

  test("SIGTERM while a client does not take its echo: it is reset, and exit 0 all the same", async () => {
    await using server = script(name, ["--port", "0", "--grace", "0.2"]);
    using conn = await connect({ port: await server.port() });
    while (fill(conn) > 0) await Bun.sleep(100); // until both kernels are full
    server.kill("SIGTERM");
    expect(await server.exit()).toBe(0);
    expect((await failure(recvAll(conn))).code).toBe("ECONNRESET"); // a FIN would make it look complete
  });
});

test("SIGTERM before a server listens ends it, one way or the other", async () => {
  for (let delay = 0; delay < 90; delay += 6) {
    await using server = script("echo-threaded-server", ["--port=0", "--threads=2", "--grace=600"]);
    await Bun.sleep(delay); // so that the signal comes at different moments of the start
    server.kill("SIGTERM");
    expect([0, 143]).toContain(await server.exit());
  }
});

testPython(
  "a storm of connections over the backlog: that many wait, the rest is reset",
  async () => {
    using server = listen({ port: 0, backlog: 100 });
    await using storm = python(
      `
conns = [connect(sys.argv[1]) for _ in range(400)]
def lost(c):
    try: c.setblocking(False); c.recv(1); return True
    except BlockingIOError: return False
    except ConnectionResetError: return True
refused = 0
while refused < 300: refused = sum(lost(c) for c in conns)
print("refused", refused); sys.stdin.readline()
print("refused", sum(lost(c) for c in conns))`,
      server.address.port,
    );
    expect((await storm.until(/refused (\d+)\n/))[1]).toBe("300");
    const conns: Socket[] = [];
    for (let conn = server.tryAccept(); conn !== null; conn = server.tryAccept()) conns.push(conn);
    expect(conns).toHaveLength(100);
    storm.type("\n");
    expect((await storm.until(/refused 300\nrefused (\d+)\n/))[1]).toBe("300");
    for (const conn of conns) conn.close();
  },
);

testNetwork("a network that cannot be reached: one line, exit 1", async () => {
  using network = new Network(); // it has no route to this address
  const run = [process.execPath, "run", "scripts/echo-client.ts", "--host", "192.0.2.1"];
  await using client = network.process([...run, "--message", "x"]);
  expect(await client.exit()).toBe(1);
  // The system says that the network is unreachable; Bun 1.4.4 calls that refused.
  expect(client.stderr).toMatch(
    /^error: cannot connect to 192\.0\.2\.1:4000: (network is unreachable|connection refused).*\n$/,
  );
});

testNetwork("a machine that vanishes is found by keep-alive", async () => {
  // A second host: a network namespace, and a cable between it and us.
  // Names and addresses contain our process number, because another run may do the same right now.
  const name = `vanish${process.pid}`;
  const [near, far] = [`near${process.pid}`, `far${process.pid}`];
  const subnet = `10.${64 + (process.pid & 63)}.${(process.pid >> 6) & 255}`;
  const ip = (...args: string[]) => {
    const { exitCode, stderr } = Bun.spawnSync(["ip", ...args]);
    if (exitCode !== 0) throw new Error(`ip ${args.join(" ")}: ${stderr}`);
  };
  ip("netns", "add", name);
  try {
    ip("link", "add", near, "type", "veth", "peer", "name", far);
    ip("link", "set", far, "netns", name);
    ip("addr", "add", `${subnet}.1/30`, "dev", near);
    ip("link", "set", near, "up");
    ip("-n", name, "addr", "add", `${subnet}.2/30`, "dev", far);
    ip("-n", name, "link", "set", far, "up");
    using server = listen({ host: `${subnet}.1`, port: 0 });
    const where = `{ hostname: "${subnet}.1", port: ${server.address.port}, socket: { data() {} } }`;
    const run = [process.execPath, "-e", `Bun.connect(${where})`];
    await using _peer = new Process(["ip", "netns", "exec", name, ...run]);
    using conn = await server.accept();
    conn.setKeepAlive(true, 1000);
    const receiving = failure(conn.recv(1));
    ip("-n", name, "link", "set", far, "down");
    const error = await receiving;
    expect(["ETIMEDOUT", "EHOSTUNREACH"]).toContain(error.code);
    expect(error.syscall).toBe("recv");
  } finally {
    ip("netns", "del", name);
    Bun.spawnSync(["ip", "link", "del", near]);
  }
});

test("stdin closed: the clients take it for the end of input", async () => {
  await using server = script("echo-threaded-server", ["--port", "0"]);
  const port = await server.port();
  for (const [name, want] of [
    ["echo-client", ":>\n"],
    ["echo-loop-client", ""],
  ]) {
    const command = `exec ${process.execPath} run scripts/${name}.ts --port ${port} <&-`;
    await using client = new Process(["bash", "--norc", "-c", command]);
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(want!);
  }
});

test("stdout full: one line, and the end", async () => {
  const command = `exec ${process.execPath} run scripts/echo-server.ts --port 0 >/dev/full`;
  await using server = new Process(["bash", "--norc", "-c", command]);
  expect(await server.exit()).toBe(1);
  expect(server.stderr).toMatch(/^error: cannot write to stdout: no space left on device\n$/);
});
