// Unix-domain sockets: the same calls, and what happens to their files.

import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";

import { SocketError } from "../lib/errors.ts";
import { connect, listen } from "../lib/socket.ts";
import { lockName } from "../lib/socket/lock.ts";
import {
  fails,
  failure,
  Network,
  PATIENCE_MS,
  pattern,
  Process,
  python,
  recvAll,
  root,
  testNetwork,
  testPython,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const folder = mkdtempSync(join(tmpdir(), "unix-"));
afterAll(() => rmSync(folder, { recursive: true }));
const path = join(folder, "socket");

test("bytes both ways, half-close, addresses; and the file goes with the server", async () => {
  const server = listen({ path });
  using near = await connect({ path });
  using far = await server.accept();
  for (const address of [server.address, near.remoteAddress, near.localAddress, far.localAddress]) {
    expect(address).toEqual({ host: path, port: 0 });
  }
  const data = pattern(4 << 20);
  const [got] = await Promise.all([
    recvAll(far),
    near.sendAll(data).then(() => near.shutdown("write")),
  ]);
  expect(got.equals(data)).toBe(true);
  await far.sendAll("answer"); // after the FIN
  far.close();
  expect(String(await recvAll(near))).toBe("answer");
  server.close();
  expect(existsSync(path)).toBe(false);
});

test("a file in use is EADDRINUSE, and its server notices nothing", async () => {
  using server = listen({ path });
  expect((await failure(() => listen({ path }))).message).toBe(`listen EADDRINUSE ${path}`);
  expect(server.tryAccept()).toBeNull();
  using _near = await connect({ path });
  using _far = await server.accept();
  expect(server.tryAccept()).toBeNull();
});

test("nobody there is ENOENT, a file that is no socket stays", async () => {
  expect((await failure(connect({ path }))).message).toBe(`connect ENOENT ${path}`);
  const file = join(folder, "text");
  writeFileSync(file, "not a socket");
  expect((await failure(() => listen({ path: file }))).code).toBe("EADDRINUSE");
  expect(await Bun.file(file).text()).toBe("not a socket");
  expect(await failure(() => listen({ path: "" }))).toBeInstanceOf(TypeError);
});

testPython("a stale file, left by a process that was killed, is taken over", async () => {
  await using peer = python(
    `
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
print("bound"); sys.stdin.readline()`,
    path,
  );
  await peer.until(/bound/);
  expect((await failure(() => listen({ path }))).code).toBe("EADDRINUSE"); // alive
  peer.kill("SIGKILL");
  await peer.exit();
  expect(existsSync(path)).toBe(true);
  expect((await failure(connect({ path }))).code).toBe("ECONNREFUSED");
  // If it is given as a host, it is a name that does not resolve, and the file is not touched.
  expect((await failure(() => listen({ host: path, port: 0 }))).code).toBe("ENOTFOUND");
  expect(existsSync(path)).toBe(true);
  using server = listen({ path });
  using _near = await connect({ path });
  using _far = await server.accept();
});

testPython("a stale file with the longest possible path is taken over", async () => {
  const long = join(folder, "x".repeat(107 - folder.length - 1)); // unix(7)
  await using peer = python(
    "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('bound'); sys.stdin.readline()",
    long,
  );
  await peer.until(/bound/);
  expect((await failure(() => listen({ path: long }))).code).toBe("EADDRINUSE");
  peer.kill("SIGKILL");
  await peer.exit();
  using server = listen({ path: long });
  using _near = await connect({ path: long });
  using _far = await server.accept();
});

testNetwork("a server that this network does not show keeps its file", async () => {
  using network = new Network(); // a process sees only the Unix sockets of its own network: proc_pid_net(5)
  const code = `
    import { listen } from ${JSON.stringify(join(root, "lib/socket.ts"))};
    listen({ path: ${JSON.stringify(path)} });
    console.log("listens");`;
  await using other = network.process([process.execPath, "-e", code]);
  await other.until(/listens\n/);
  expect((await failure(() => listen({ path }))).code).toBe("EADDRINUSE");
  using _near = await connect({ path });
});

const isLinux = process.platform === "linux";
test.skipIf(!isLinux)(
  `a name is locked for one, and others are free${isLinux ? "" : " (skipped: no Linux)"}`,
  async () => {
    const name = `${process.pid} ${Math.random()}`;
    using _one = lockName(`${name} one`);
    using _two = lockName(`${name} two`);
    expect((await failure(() => lockName(`${name} one`))).code).toBe("EADDRINUSE");
  },
);

test("close removes its own file, and not that of another server by now", async () => {
  const first = listen({ path });
  rmSync(path);
  const second = listen({ path });
  first.close();
  expect(existsSync(path)).toBe(true);
  using _near = await connect({ path });
  using _far = await second.accept();
  expect(readdirSync(folder).filter((name) => name.startsWith("socket"))).toEqual(["socket"]);
  second.close();
  expect(existsSync(path)).toBe(false);
  // Nothing there at all is fine too.
  const third = listen({ path });
  rmSync(path);
  third.close();
});

testPython("of several that find a stale file at once, one takes it over", async () => {
  const lib = JSON.stringify(join(root, "lib/socket.ts"));
  // All processes are running before the first round begins. Each round has a stale file of its own.
  const code = `import { listen } from ${lib};
    console.log("up");
    for await (const path of console) {
      try { listen({ path }); console.log("listens", path) }
      catch (error) { console.log(error.code, path) }
    }
    process.exit()`;
  const starters = Array.from({ length: 10 }, () => new Process([process.execPath, "-e", code]));
  await Promise.all(starters.map((starter) => starter.until(/up\n/)));
  for (let round = 0; round < 5; round++) {
    const stale = join(folder, `stale${round}`);
    await using dead = python(
      "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('bound'); sys.stdin.readline()",
      stale,
    );
    await dead.until(/bound/);
    dead.kill("SIGKILL");
    await dead.exit();
    for (const starter of starters) starter.type(`${stale}\n`);
    const said = starters.map(async (starter) => {
      return (await starter.until(new RegExp(`^(.*) ${stale}\n`, "m")))[1];
    });
    const listens = (await Promise.all(said)).filter((word) => word !== "EADDRINUSE");
    expect(listens).toEqual(["listens"]);
  }
  for (const starter of starters) await starter[Symbol.asyncDispose]();
});

testPython("a file that goes while listen looks at it is no error", async () => {
  const flickering = join(folder, "flickering");
  await using other = python(
    `
import os; print("begins")
while True:
    try: open(sys.argv[1], "x").close()
    except FileExistsError: continue # our server's
    os.unlink(sys.argv[1])`,
    flickering,
  );
  await other.until(/begins/);
  const outcomes = new Set<string>();
  for (let i = 0; i < 5_000 || outcomes.size < 2; i++) {
    try {
      listen({ path: flickering }).close();
      outcomes.add("listens");
    } catch (error) {
      outcomes.add(error instanceof SocketError ? error.code : String(error));
    }
  }
  expect([...outcomes].sort()).toEqual(["EADDRINUSE", "listens"]);
});

testPython("a stale file that somebody else takes over is left to them", async () => {
  const stale = join(folder, "taken");
  await using dead = python("socket.socket(socket.AF_UNIX).bind(sys.argv[1])", stale);
  expect(await dead.exit(), dead.stderr).toBe(0);
  {
    using _others = lockName(`take over ${stale}`);
    await fails(() => listen({ path: stale }), "EADDRINUSE");
  }
  listen({ path: stale }).close();
});

testPython("with CPython at the other end", async () => {
  using server = listen({ path });
  await using client = python(
    `
conn = socket.socket(socket.AF_UNIX); conn.connect(sys.argv[1])
conn.sendall(b"question"); conn.shutdown(socket.SHUT_WR)
print("got", recv_all(conn).decode())`,
    path,
  );
  using conn = await server.accept();
  expect(String(await recvAll(conn))).toBe("question");
  await conn.sendAll("answer");
  conn.close();
  await client.until(/got answer\n/);
});
