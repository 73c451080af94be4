// The servers on threads, with the kernel spreading the connections and with the relay.

import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect } from "../lib/socket.ts";
import {
  echoes,
  python,
  pythonClient,
  script,
  testPython,
  PATIENCE_MS,
  untilRefused,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

for (const mode of [[], ["--relay"]]) {
  describe(`the threaded servers ${mode}`, () => {
    test("echo: many clients at once, every byte", async () => {
      await using server = script("echo-threaded-server", [
        "--port",
        "0",
        "--threads",
        "3",
        ...mode,
      ]);
      const port = await server.port();
      await Promise.all(Array.from({ length: 30 }, (_, i) => echoes(port, 200_000 + i)));
      expect(server.stderr).toBe("");
    });

    test("reply: says who connected, and answers each chunk", async () => {
      await using server = script("reply-threaded-server", ["--port=0", "--grace=600", ...mode]);
      const port = await server.port();
      expect(server.stdout).toStartWith("Server is running...\n");
      using conn = await connect({ port });
      await server.until(
        new RegExp(`^Client connected: 127.0.0.1:${conn.localAddress.port}$`, "m"),
      );
      // The last of these begins in the middle of a character.
      for (const said of ["hello", "한국어", "한국"].map((text, i) =>
        Buffer.from(text).subarray(i > 1 ? 1 : 0),
      )) {
        await conn.sendAll(said);
        const want = Buffer.concat([Buffer.from("Received: "), said]);
        expect(await conn.recvExactly(want.length)).toEqual(want);
      }
      conn.close();
      server.kill("SIGTERM");
      expect(await server.exit()).toBe(0); // nobody is connected: it does not wait for its grace to end
    });

    testPython("the lines that threads print stay whole", async () => {
      await using server = script("reply-threaded-server", [
        "--port",
        "0",
        "--threads",
        "4",
        ...mode,
      ]);
      const port = await server.port();
      await using clients = python(
        `
conns = [connect(sys.argv[1]) for _ in range(2000)]
for c in conns: c.sendall(b"x")
for c in conns: assert c.recv(100) == b"Received: x"
print("served")`,
        port,
      );
      await clients.until(/served\n/);
      const lines = server.stdout.trimEnd().split("\n").slice(2);
      expect(lines).toHaveLength(2000);
      for (const line of lines) expect(line).toMatch(/^Client connected: 127\.0\.0\.1:\d+$/);
    });

    test("a second copy on the same port is refused", async () => {
      await using server = script("echo-threaded-server", ["--port", "0", ...mode]);
      const port = await server.port();
      await using second = script("echo-threaded-server", ["--port", `${port}`, ...mode]);
      expect(await second.exit()).toBe(1);
      expect(second.stderr).toBe(
        `error: cannot listen on 127.0.0.1:${port}: address already in use\n`,
      );
    });

    test("a client that resets ends its connection and nothing else", async () => {
      await using server = script("echo-threaded-server", [
        "--port",
        "0",
        "--threads",
        "1",
        ...mode,
      ]);
      const port = await server.port();
      using stays = await connect({ port });
      const rude = await connect({ port });
      await rude.sendAll("x");
      await rude.recv(1);
      rude.reset();
      if (mode.length === 0) await server.until(/connection reset by peer/, "stderr");
      await stays.sendAll("still here");
      expect(String(await stays.recv(100))).toBe("still here");
    });

    test("SIGTERM with clients connected: they see an end, then exit 0", async () => {
      await using server = script("echo-threaded-server", ["--port", "0", ...mode]);
      const port = await server.port();
      using conn = await connect({ port });
      await conn.sendAll("before");
      await conn.recvExactly(6);
      server.kill("SIGTERM");
      expect((await conn.recv(1)).length).toBe(0);
      await untilRefused(port);
      conn.close();
      expect(await server.exit()).toBe(0);
      expect(server.stderr).toBe("");
    });

    testPython("with CPython on the other side", async () => {
      await using server = script("echo-threaded-server", ["--port", "0", ...mode]);
      await using theirs = python(pythonClient, await server.port(), "one", "둘");
      expect(await theirs.exit()).toBe(0);
      expect(theirs.stdout).toBe("got one\ngot 둘\n");
    });
  });
}
