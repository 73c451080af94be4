// --trace: the calls of a script as they return, in text and as a Mermaid diagram.

import { expect, setDefaultTimeout, test } from "bun:test";

import { PATIENCE_MS, script } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

/** The trace without times and ports, which differ from run to run. */
function calls(stderr: string, port: number): string[] {
  return stderr
    .trimEnd()
    .split("\n")
    .map((line) => line.replace(/^\d+ ms {2}/, "").replaceAll(`:${port}`, ":PORT"))
    .map((line) => line.replace(/127\.0\.0\.1:\d+/g, "PEER"));
}

async function echoOnce(flag: string) {
  await using server = script("echo-server", ["--port", "0", flag]);
  const port = await server.port();
  await using client = script("echo-client", [`--port=${port}`, "--message", "안녕", flag]);
  expect(await client.exit()).toBe(0);
  expect(await server.exit()).toBe(0);
  expect(client.stdout).toBe(">안녕\n");
  return { port, client: client.stderr, server: server.stderr };
}

test("--trace tells each call of both sides as it returns", async () => {
  const { port, client, server } = await echoOnce("--trace");
  expect(client.split("\n")[0]).toMatch(/^\d+ ms {2}connect\(/);
  expect(calls(client, port)).toEqual([
    "connect(127.0.0.1:PORT) -> conn#1 127.0.0.1:PORT",
    'conn#1 127.0.0.1:PORT  sendAll(6 bytes "안녕")',
    "conn#1 127.0.0.1:PORT  shutdown(write)",
    'conn#1 127.0.0.1:PORT  recv(1048576) -> 6 bytes "안녕"',
    "conn#1 127.0.0.1:PORT  recv(1048576) -> EOF",
    "conn#1 127.0.0.1:PORT  close()",
  ]);
  expect(calls(server, port)).toEqual([
    "listen(PEER) -> server#1 127.0.0.1:PORT",
    "server#1 127.0.0.1:PORT  accept() -> conn#1 PEER",
    'conn#1 PEER  recv(1024) -> 6 bytes "안녕"',
    'conn#1 PEER  sendAll(6 bytes "안녕")',
    "conn#1 PEER  close()",
    "server#1 127.0.0.1:PORT  close()",
  ]);
});

test("--trace=mermaid draws the run when it ends", async () => {
  const { client } = await echoOnce("--trace=mermaid");
  const lines = client.trimEnd().split("\n");
  expect(lines[0]).toBe("sequenceDiagram");
  expect(lines[1]).toMatch(/^ {2}participant end1 as this script, 127\.0\.0\.1:\d+$/);
  expect(lines[2]).toMatch(/^ {2}participant end2 as the peer, 127\.0\.0\.1:\d+$/);
  expect(lines.slice(3)).toEqual([
    "  end1->>end2: connect",
    '  end1->>end2: 6 bytes "안녕"',
    "  end1--)end2: FIN (shutdown write)",
    '  end2->>end1: 6 bytes "안녕"',
    "  end2--)end1: EOF",
    "  end1--)end2: close",
  ]);
});

test("failures are traced, and told as always", async () => {
  await using client = script("echo-client", ["--port", "1", "--message", "x", "--trace"]);
  expect(await client.exit()).toBe(1);
  expect(calls(client.stderr, 1)).toEqual([
    "connect(127.0.0.1:PORT) -> ECONNREFUSED",
    "error: cannot connect to 127.0.0.1:PORT: connection refused (is the server running?)",
  ]);
});

test("threads trace too, and what would block, and binary data", async () => {
  await using server = script("echo-threaded-server", ["--port", "0", "--trace"]);
  await using client = script("echo-loop-client", [`--port=${await server.port()}`]);
  client.type("hello\n");
  await server.until(/conn#1 127\.0\.0\.1:\d+ {2}recv\(1048576\) -> 5 bytes "hello"\n/, "stderr");
  await client.endInput();
  await server.until(/conn#1 127\.0\.0\.1:\d+ {2}close\(\)\n/, "stderr");

  await using order = script("byte-order", ["--trace"]);
  expect(await order.exit()).toBe(0);
  expect(order.stderr).toMatch(/sendAll\(4 bytes 00 00 00 01\)/);

  await using polling = script("select-server", ["--port", "0", "--trace"]);
  await using other = script("echo-loop-client", [`--port=${await polling.port()}`]);
  other.type("hello\n");
  await polling.until(/tryAccept\(\) -> conn#1/, "stderr");
  await polling.until(/tryAccept\(\) -> would block\n/, "stderr");
  await polling.until(/trySend\(5 bytes "hello"\) -> 5\n/, "stderr");
});

test("anything but text and mermaid is refused", async () => {
  await using client = script("echo-client", ["--trace=svg"]);
  expect(await client.exit()).toBe(2);
  expect(client.stderr).toMatch(/^error: --trace .*"svg"\n$/);
});
