// The server with one loop over select().

import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { formatAddress } from "../lib/address.ts";
import { connect, type Socket } from "../lib/socket.ts";
import { POLLERR } from "../lib/socket/readiness.ts";
import {
  echoes,
  fails,
  PATIENCE_MS,
  pattern,
  python,
  pythonClient,
  recvAll,
  script,
  testPython,
  turn,
  untilRefused,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

describe("select-server", () => {
  test("serves many clients in one thread, and a slow one harms nobody", async () => {
    await using server = script("select-server", ["--port", "0"]);
    const port = await server.port();
    using slow = await connect({ port });
    const flood = pattern(32 << 20);
    const flooding = slow.sendAll(flood).then(() => slow.shutdown("write"));
    await Promise.all(Array.from({ length: 20 }, (_, i) => echoes(port, 100_000 + i)));
    expect((await recvAll(slow)).equals(flood)).toBe(true); // it was only slow
    await flooding;
    const rude = await connect({ port });
    await rude.sendAll("x");
    await rude.recv(1);
    rude.reset();
    await server.until(/warning: connection with .*: connection reset by peer/, "stderr");
    await echoes(port);
  });

  test("says when nothing happens", async () => {
    await using server = script("select-server", ["--port", "0", "--timeout", "0.01"]);
    await server.until(/no activity\nno activity\n/);
  });

  test("--log: a line when a connection has ended, and how", async () => {
    await using server = script("select-server", ["--port", "0", "--log", "--max-connections=2"]);
    const port = await server.port();
    using one = await connect({ port });
    using two = await connect({ port });
    for (const conn of [one, two]) {
      await conn.sendAll("hello");
      await conn.recvExactly(5);
    }
    const third = connect({ port }).then((conn) => conn.recv(1)); // either call may report the reset
    await fails(third, "ECONNRESET");
    const ended = async (who: Socket, how: string) => {
      const { port } = who.localAddress;
      const line = `^[-\\dT:.]+Z 127\\.0\\.0\\.1:${port} ${how}: \\d\\.\\d s, 5 bytes in, 5 out\n`;
      await server.until(new RegExp(line, "m"), "stderr");
    };
    one.shutdown("write");
    await ended(one, "ended");
    two.reset();
    await ended(two, "ECONNRESET");
    expect(server.stderr.match(/ bytes in, /g)).toHaveLength(2);
  });

  test("--verbose tells of each turn: the three lists that select is given, and the three that it gives", async () => {
    await using server = script("select-server", ["--port", "0", "--verbose"]);
    using conn = await connect({ port: await server.port() });
    const name = formatAddress(conn.localAddress);
    await server.until(/turn 2 select/);
    await conn.sendAll("안녕");
    await conn.recvExactly(6);
    await server.until(/turn 3 select/);
    conn.close();
    await server.until(/turn 4 select/);
    const [, ...lines] = server.stdout.trimEnd().replaceAll(name, "CLIENT").split("\n");
    expect(lines).toEqual([
      "turn 1 select  read [server]  write []  error []",
      "turn 1 ready   read [server]  write []  error []",
      "turn 2 select  read [server, CLIENT]  write []  error []",
      "turn 2 ready   read [CLIENT]  write []  error []", // its text
      "turn 3 select  read [server, CLIENT]  write []  error []",
      "turn 3 ready   read [CLIENT]  write []  error []", // its end
      "turn 4 select  read [server]  write []  error []",
    ]);
    using slow = await connect({ port: await server.port() });
    slow.sendAll(pattern(32 << 20)).catch(() => {}); // it receives nothing, so the server waits for room
    await server.until(/select  read \[server\]  write \[127\.0\.0\.1:\d+\]  error \[\]/);
  });

  test("SIGTERM: who is connected gets back what he has sent, and then an end; exit 0", async () => {
    await using server = script("select-server", ["--port", "0"]);
    const port = await server.port();
    using conn = await connect({ port });
    await conn.sendAll("before");
    await conn.recvExactly(6);
    // When the server continues, both the bytes and the signal are there.
    server.kill("SIGSTOP");
    await conn.sendAll("after");
    server.kill("SIGTERM");
    server.kill("SIGCONT");
    expect(String(await recvAll(conn))).toBe("after");
    await untilRefused(port);
    await conn.sendAll("late"); // bytes that come after the signal must not cause a reset
    for (let i = 0; i < 5; i++) await turn();
    expect(conn.poll() & POLLERR).toBe(0);
    conn.close();
    expect(await server.exit()).toBe(0);
    expect(server.stderr).toBe("");
  });

  testPython("with CPython on the other side", async () => {
    await using server = script("select-server", ["--port", "0"]);
    await using theirs = python(pythonClient, await server.port(), "one", "둘");
    expect(await theirs.exit()).toBe(0);
    expect(theirs.stdout).toBe("got one\ngot 둘\n");
  });
});
