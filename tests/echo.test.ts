// The echo servers and clients of tutorial 000, against each other and against CPython.

import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect, listen } from "../lib/socket.ts";
import {
  fails,
  python,
  pythonClient,
  recvAll,
  script,
  testPython,
  PATIENCE_MS,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

describe("echo-server and echo-client", () => {
  test("one message, and both exit", async () => {
    await using server = script("echo-server", ["--port", "0"]);
    const port = await server.port();
    await using client = script("echo-client", ["--port", `${port}`]);
    await client.until(/^:/);
    client.type("안녕 hello\n");
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(":>안녕 hello\n");
    expect(await server.exit()).toBe(0);
    expect(server.stdout).toBe(`listening on 127.0.0.1:${port}\n안녕 hello\n`);
    expect(server.stderr + client.stderr).toBe("");
  });

  test("--message asks nothing, --forever goes on with the next client", async () => {
    await using server = script("echo-server", ["--port", "0", "--forever"]);
    const port = await server.port();
    for (const message of ["one", "둘", "three"]) {
      await using client = script("echo-client", ["--port", `${port}`, "--message", message]);
      expect(await client.exit()).toBe(0);
      expect(client.stdout).toBe(`>${message}\n`);
    }
    const rude = await connect({ port });
    rude.reset(); // whether it was accepted by then or not, the next client is served
    await using client = script("echo-client", ["--port", `${port}`, "--message", "still there"]);
    expect(await client.exit()).toBe(0);
    server.kill("SIGTERM");
    expect(await server.exit()).toBe(0);
  });

  test("a message that the server takes only the beginning of: the client says so", async () => {
    using server = listen({ port: 0 });
    const args = ["--port", `${server.address.port}`, "--message", "x".repeat(5000)];
    await using client = script("echo-client", args);
    using conn = await server.accept();
    await conn.sendAll((await conn.recvExactly(5000)).subarray(0, 1024));
    conn.close();
    expect(await client.exit()).toBe(0);
    expect(client.stderr).toBe("warning: only 1024 of 5000 bytes came back\n");
  });

  test("an empty line, and the end of input, send nothing", async () => {
    for (const input of ["\n", ""]) {
      await using server = script("echo-server", ["--port", "0"]);
      await using client = script("echo-client", ["--port", `${await server.port()}`]);
      client.type(input);
      await client.endInput();
      expect(await client.exit()).toBe(0);
      expect(client.stdout).toBe(":>\n");
      expect(await server.exit()).toBe(0);
    }
  });

  testPython("each with CPython on the other side", async () => {
    await using server = script("echo-server", ["--port", "0"]);
    await using theirs = python(pythonClient, await server.port(), "안녕");
    await theirs.until(/got 안녕/);
    expect(await server.exit()).toBe(0);

    await using python3 = python(`
conn, _ = listen(1).accept()
message = conn.recv(1024); print("got", message.decode()); conn.sendall(message); conn.close()`);
    const port = `${await python3.port()}`;
    await using client = script("echo-client", ["--port", port, "--message", "여보세요"]);
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(">여보세요\n");
    await python3.until(/got 여보세요/);
  });

  testPython("the reply may come in pieces, cut within a character", async () => {
    await using server = python(`
conn, _ = listen(1).accept()
for byte in conn.recv(1024): conn.sendall(bytes([byte])); time.sleep(0.002)
conn.close()`);
    const port = `${await server.port()}`;
    await using client = script("echo-client", ["--port", port, "--message", "한국어"]);
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(">한국어\n");
  });
});

describe.each(["echo-server", "echo-loop-server"])("%s --forever --idle-timeout", (name) => {
  test("a silent client is reset, with one line; a slow one is served", async () => {
    await using server = script(name, ["--port", "0", "--forever", "--idle-timeout", "2"]);
    const port = await server.port();
    using silent = await connect({ port });
    await fails(recvAll(silent), "ECONNRESET");
    await server.until(/^warning: connection with .*: connection timed out\n$/, "stderr");
    using slow = await connect({ port });
    await Bun.sleep(300); // this pause is what is tested: it is shorter than the limit
    await slow.sendAll("hello");
    expect(String(await slow.recvExactly(5))).toBe("hello");
  });
});

describe("echo-loop-server and echo-loop-client", () => {
  test("line by line, until an empty one", async () => {
    await using server = script("echo-loop-server", ["--port", "0"]);
    await using client = script("echo-loop-client", ["--port", `${await server.port()}`]);
    for (const line of ["first", "둘째", "third"]) {
      client.type(`${line}\n`);
      await client.until(new RegExp(`^${line}$`, "m"));
    }
    client.type("\n");
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe("first\n둘째\nthird\n");
    expect(await server.exit()).toBe(0);
    expect(server.stdout).toEndWith("\nfirst\n둘째\nthird\n");
  });

  test("a line larger than every buffer comes back whole; end of input closes", async () => {
    await using server = script("echo-loop-server", ["--port", "0"]);
    await using client = script("echo-loop-client", ["--port", `${await server.port()}`]);
    const line = "가나다라".repeat(1_000_000);
    client.type(`${line}\nlast, without a newline`);
    await client.endInput();
    expect(await client.exit()).toBe(0);
    expect(client.stdout === `${line}\nlast, without a newline\n`).toBe(true);
    expect(await server.exit()).toBe(0);
    expect(server.stdout).not.toContain("\ufffd");
  });

  test("the server goes while the client waits for the keyboard: one line, exit 1", async () => {
    await using server = script("echo-loop-server", ["--port", "0"]);
    const port = await server.port();
    await using client = script("echo-loop-client", ["--port", `${port}`]);
    client.type("hello\n");
    await client.until(/hello/);
    server.kill("SIGKILL");
    expect(await client.exit()).toBe(1);
    expect(client.stderr).toMatch(/^error: .*127\.0\.0\.1:\d+.*\n$/);
  });

  test("a server that sends something else is not said to have closed", async () => {
    await using server = script("reply-threaded-server", ["--port", "0"]);
    await using client = script("echo-loop-client", ["--port", `${await server.port()}`]);
    client.type("hello\n");
    expect(await client.exit()).toBe(1);
    expect(client.stderr).toMatch(/^error: 127\.0\.0\.1:\d+ sent more than the echo\n$/);
  });

  testPython("each with CPython on the other side", async () => {
    await using server = script("echo-loop-server", ["--port", "0", "--forever"]);
    const port = await server.port();
    for (let i = 0; i < 2; i++) {
      await using theirs = python(pythonClient, port, "one", "둘", "three");
      expect(await theirs.exit()).toBe(0);
      expect(theirs.stdout).toBe("got one\ngot 둘\ngot three\n");
    }

    await using python3 = python(`
conn, _ = listen(1).accept()
while data := conn.recv(1024): conn.sendall(data)
conn.close()`);
    await using client = script("echo-loop-client", ["--port", `${await python3.port()}`]);
    client.type(`${"길다".repeat(5000)}\nend\n`);
    await client.endInput();
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(`${"길다".repeat(5000)}\nend\n`);
    expect(await python3.exit()).toBe(0);
  });
});
