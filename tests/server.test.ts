// The listening socket: who may wait for `accept`, who is refused, and that nothing stays behind.

import { getEventListeners } from "node:events";
import { readFileSync } from "node:fs";
import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect, listen, type ServerSocket, type Socket } from "../lib/socket.ts";
import { waiting } from "../lib/socket/queues.ts";
import { POLLERR, POLLIN } from "../lib/socket/readiness.ts";
import { PATIENCE_MS, Process, python, testPython, turn } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

/** The most connections that one turn of the loop can bring: the length of the kernel's queue. */
const ONE_TURN = 512;

/** The connections of a server that are open at our end, as proc_pid_net(5) shows them. */
function openConnections({ address }: ServerSocket): number {
  const table = readFileSync("/proc/self/net/tcp", "utf8");
  const port = address.port.toString(16).toUpperCase().padStart(4, "0");
  return table.match(new RegExp(`: [0-9A-F]{8}:${port} [0-9A-F:]+ 01 `, "g"))?.length ?? 0;
}

/** Accepts all that wait. */
function takeAll(server: ServerSocket): Socket[] {
  const taken = [];
  for (let conn = server.tryAccept(); conn !== null; conn = server.tryAccept()) taken.push(conn);
  return taken;
}

/** Opens connections in a process of its own; for each line of input it prints how many are still there. */
const storm = (port: number, connections: number) =>
  python(
    `
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
conns = [connect(sys.argv[1]) for _ in range(int(sys.argv[2]))]
print("connected", flush=True)
def there(c):
    try: c.setblocking(False); c.recv(1); return False
    except BlockingIOError: return True
    except ConnectionError: return False
for _ in sys.stdin: print("there", sum(there(c) for c in conns), flush=True)`,
    port,
    connections,
  );

describe("the backlog", () => {
  test("holds against a server that takes one connection a turn", async () => {
    using server = listen({ port: 0, backlog: 2 });
    const { port } = server.address;
    const clients: Socket[] = [];
    const accepted: Socket[] = [];
    let coming = true;
    const slow = (async () => {
      for (; coming; await turn()) {
        const conn = server.tryAccept();
        if (conn !== null) accepted.push(conn);
      }
    })();
    while (clients.length < 2_000) {
      clients.push(...(await Promise.all(Array.from({ length: 100 }, () => connect({ port })))));
    }
    const held = openConnections(server);
    expect(held - accepted.length).toBeLessThanOrEqual(2 + ONE_TURN + 200); // 200: the latest ones
    coming = false; // the server accepts no more: then two wait, and the others have been reset
    await slow;
    for (let i = 0; i < 4; i++) await turn();
    const waiting = takeAll(server);
    expect(waiting).toHaveLength(2);
    const there = clients.filter((conn) => !(conn.poll() & POLLERR));
    expect(there).toHaveLength(accepted.length + waiting.length);
    for (const conn of [...clients, ...accepted, ...waiting]) conn.close();
  });

  // Each of these accepts connections until it has `all` of them.
  const takers = {
    "waitReadable and tryAccept": async (server: ServerSocket, all: number) => {
      const taken: Socket[] = [];
      while (taken.length < all) {
        await server.waitReadable();
        await turn(); // as select does
        taken.push(...takeAll(server));
      }
      return taken;
    },
    accept: async (server: ServerSocket, all: number) => {
      const taken: Socket[] = [];
      while (taken.length < all) taken.push(await server.accept());
      return taken;
    },
    "for await": async (server: ServerSocket, all: number) => {
      const taken: Socket[] = [];
      for await (const conn of server) if (taken.push(conn) === all) break;
      return taken;
    },
  };
  describe.each(Object.entries(takers))("does not count against %s", (_, take) => {
    testPython("5,000 at once", async () => {
      using server = listen({ port: 0, backlog: 1 });
      await using crowd = storm(server.address.port, 5_000);
      const taken = await take(server, 5_000);
      await crowd.until(/connected/);
      crowd.type("count\n");
      await crowd.until(/there 5000\n/);
      for (const conn of taken) conn.close();
    });
  });
});

describe("those that are reset while they wait", () => {
  test("do not count in the backlog: with three of them, a fourth is accepted", async () => {
    using server = listen({ port: 0, backlog: 3 });
    const { port } = server.address;
    const gone = [await connect({ port }), await connect({ port }), await connect({ port })];
    for (let i = 0; i < 4; i++) await turn(); // they wait
    for (const conn of gone) conn.reset();
    for (let i = 0; i < 4; i++) await turn(); // their resets have arrived
    using stays = await connect({ port });
    await stays.sendAll("here");
    for (let i = 0; i < 4; i++) await turn();
    using conn = await server.accept();
    expect(conn.remoteAddress).toEqual(stays.localAddress);
    expect(String(await conn.recv(10))).toBe("here");
  });

  test("do not count in what waits at all connections together", async () => {
    using server = listen({ port: 0, backlog: 1 });
    const { port } = server.address;
    const before = waiting.bytes;
    const gone = await connect({ port });
    await gone.sendAll(new Uint8Array(1000));
    while (waiting.bytes === before) await turn();
    gone.reset();
    using second = await connect({ port }); // now the backlog is full
    for (let i = 0; i < 10 && waiting.bytes > before; i++) await turn();
    expect(waiting.bytes).toBe(before);
    expect(second.poll() & POLLERR).toBe(0);
  });

  test("are all skipped: with two of them, accept gives the third", async () => {
    using server = listen({ port: 0 });
    const { port } = server.address;
    const gone = [await connect({ port }), await connect({ port })];
    using stays = await connect({ port });
    while (takeable(server) === 0) await turn();
    for (const conn of gone) conn.reset();
    await stays.sendAll("here");
    for (let i = 0; i < 4; i++) await turn();
    using conn = server.tryAccept()!;
    expect(conn.remoteAddress).toEqual(stays.localAddress);
    expect(server.tryAccept()).toBeNull();
  });
});

/** Whether a connection could be accepted, as a bit of poll(2). */
const takeable = (server: ServerSocket) => server.poll() & POLLIN;

test("a signal is let go of by each accept, and by a server that is closed", async () => {
  const { signal } = new AbortController();
  const server = listen({ port: 0, signal });
  for (let i = 0; i < 3; i++) {
    const accepting = server.accept({ signal });
    (await connect({ port: server.address.port })).close();
    (await accepting).close();
  }
  expect(getEventListeners(signal, "abort")).toHaveLength(1); // the server's own
  server.close();
  expect(getEventListeners(signal, "abort")).toHaveLength(0);
});

testPython("out of descriptors: some wait, the others are told, and the loop is idle", async () => {
  const command = `ulimit -n 48; exec ${process.execPath} run scripts/echo-loop-server.ts --port 0 --forever`;
  await using server = new Process(["bash", "--norc", "-c", command]);
  const port = await server.port();
  await using crowd = storm(port, 200);
  await crowd.until(/connected/);
  await server.until(/^warning: no descriptor is left: more connections are refused\n/m, "stderr");
  let there = 200;
  for (let asked = 1; there >= 48; asked++) {
    crowd.type("count\n"); // the last resets may not have arrived yet
    const answer = await crowd.until(new RegExp(`^(?:.*\n){${asked}}there (\\d+)\n`));
    there = Number(answer[1]);
  }
  expect(there).toBeGreaterThan(10);
  // The server uses almost no CPU time: one that tries again and again would use all of it.
  const before = cpuTicks(server.pid);
  await Bun.sleep(500);
  expect(cpuTicks(server.pid) - before).toBeLessThan(10); // of 50
  expect(server.stderr.split("\n")).toHaveLength(2); // one line
  // When descriptors are free again, it serves as before.
  crowd.kill("SIGKILL");
  await crowd.exit();
  using conn = await connect({ port });
  await conn.sendAll("hello");
  expect(String(await conn.recv(10))).toBe("hello");
});

/** What a process has used of the CPU, in ticks of 10 ms: proc_pid_stat(5). */
function cpuTicks(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/.*\) /, "").split(" ");
  return Number(fields[11]) + Number(fields[12]);
}
