// The server with one loop over select().

import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect } from "../lib/socket.ts";
import {
  echoes,
  pattern,
  python,
  pythonClient,
  recvAll,
  script,
  testPython,
  PATIENCE_MS,
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

  test("SIGTERM: goes on serving who is connected, then exits 0", async () => {
    await using server = script("select-server", ["--port", "0"]);
    const port = await server.port();
    using conn = await connect({ port });
    await conn.sendAll("before");
    await conn.recvExactly(6);
    server.kill("SIGTERM");
    await untilRefused(port);
    await conn.sendAll("after");
    expect(String(await conn.recvExactly(5))).toBe("after");
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
