// --trace: a line for each call when it returns, as text and as JSON; every line is correct.

import { expect, setDefaultTimeout, test } from "bun:test";

import type { TracedCall } from "../lib/trace.ts";
import { PATIENCE_MS, Process, python, script, testPython } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

/** The trace without times and ports, which differ from run to run. */
function calls(stderr: string, port: number): string[] {
  return stderr
    .trimEnd()
    .split("\n")
    .map((line) => line.replace(/^\d\d:\d\d:\d\d\.\d{3} {2}/, "").replaceAll(`:${port}`, ":PORT"))
    .map((line) => line.replace(/127\.0\.0\.1:\d+/g, "PEER"));
}

/** Runs `code` in a traced program that has `server`, `near` and `far`; gives the lines about its calls. */
async function traced(code: string): Promise<string[]> {
  const program = `
    import { connect, listen } from "./lib/socket.ts";
    import { select } from "./lib/select.ts";
    import { messages, lengthPrefixed, delimited } from "./lib/framing.ts";
    import { startTrace } from "./lib/trace.ts";
    const quiet = () => {};
    startTrace("text", (line) => console.log(line));
    const server = listen({ port: 0 });
    const near = await connect(server.address);
    const far = await server.accept();
    ${code}
    process.exit(0);`;
  await using process = new Process([globalThis.process.execPath, "-e", program]);
  expect(await process.exit(), process.stderr).toBe(0);
  const lines = calls(process.stdout, 0).slice(3); // listen, connect, accept
  return lines.map((line) => line.replace(/^(\w+#\d) PEER {2}/, "$1  "));
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

test("every line begins with the time of day, so that two terminals line up", async () => {
  const before = new Date();
  const { client, server } = await echoOnce("--trace");
  const clock = (date: Date) => date.toTimeString().slice(0, 8);
  const times = `${client}${server}`.trimEnd().split("\n");
  for (const line of times) expect(line).toMatch(/^\d\d:\d\d:\d\d\.\d{3} {2}\S/);
  const seconds = times.map((line) => line.slice(0, 8));
  const allowed = [];
  for (let at = before.getTime() - 1000; at <= Date.now() + 1000; at += 500) {
    allowed.push(clock(new Date(at)));
  }
  for (const second of seconds) expect(allowed).toContain(second);
});

test("--trace=json writes an object a line, and both processes have one clock", async () => {
  const before = Date.now();
  const { port, client, server } = await echoOnce("--trace=json");
  const parse = (text: string): TracedCall[] =>
    text
      .trimEnd()
      .split("\n")
      .map((l) => JSON.parse(l));
  const [ours, theirs] = [parse(client), parse(server)];
  expect(ours.map(({ call }) => call).join(" ")).toBe("connect sendAll shutdown recv recv close");
  expect(ours[0]).toMatchObject({
    args: `127.0.0.1:${port}`,
    result: `conn#1 127.0.0.1:${port}`,
    made: { name: "conn#1", local: expect.any(String), remote: `127.0.0.1:${port}` },
  });
  expect(ours[1]).toMatchObject({ on: "conn#1", bytes: 6, data: '"안녕"', result: "" });
  expect(ours[4]).toMatchObject({ on: "conn#1", bytes: 0, result: "EOF" });
  const accepted = theirs.find(({ call }) => call === "accept")!;
  expect(accepted.made).toEqual({
    name: "conn#1",
    local: `127.0.0.1:${port}`,
    remote: ours[0]!.made!.local,
  });
  expect(new Set(ours.map(({ pid }) => pid)).size).toBe(1);
  expect(ours[0]!.pid).not.toBe(theirs[0]!.pid);
  for (const { began, time } of [...ours, ...theirs]) {
    expect(began).toBeGreaterThan(before - 1000);
    expect(time).toBeGreaterThanOrEqual(began);
    expect(time).toBeLessThan(Date.now() + 1000);
  }
});

test("what is given back is undone: as many bytes less were received", async () => {
  await using program = new Process([
    process.execPath,
    "-e",
    `import { socketpair } from "./lib/socket.ts";
    import { startTrace } from "./lib/trace.ts";
    const { near, far } = await socketpair();
    startTrace("json", (line) => console.log(line));
    await near.sendAll("hello");
    far.unrecv((await far.recvExactly(5)).subarray(2));
    process.exit(0);`,
  ]);
  expect(await program.exit(), program.stderr).toBe(0);
  const told = program.stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(told.map(({ call, bytes, data }) => [call, bytes, data])).toEqual([
    ["sendAll", 5, '"hello"'],
    ["recvExactly", 5, '"hello"'],
    ["unrecv", -3, '"llo"'],
  ]);
});

test("in JSON, too, an abort and an end are no errors; what is one has its code", async () => {
  await using program = new Process([
    process.execPath,
    "-e",
    `import { socketpair } from "./lib/socket.ts";
    import { startTrace } from "./lib/trace.ts";
    const quiet = () => {};
    const { near, far } = await socketpair();
    startTrace("json", (line) => console.log(line));
    await near.recv(10, { signal: AbortSignal.timeout(5) }).catch(quiet);
    await near.recv(10, { signal: AbortSignal.abort({ any: "thing" }) }).catch(quiet);
    await near.sendAll("early", { signal: AbortSignal.abort() }).catch(quiet);
    await near.recv(0).catch(quiet);
    near.setTimeout(5);
    await near.recv(10).catch(quiet);
    const waiting = near.recv(10).catch(quiet);
    near.close();
    await waiting;
    await far.recvExactly(1).catch(quiet);
    far.shutdown("write");
    await far.sendAll("late").catch(quiet);
    process.exit(0);`,
  ]);
  expect(await program.exit(), program.stderr).toBe(0);
  const told = program.stdout
    .trimEnd()
    .split("\n")
    .map((line): TracedCall => JSON.parse(line));
  const receives = told.filter(({ call }) => !/close|setTimeout|shutdown/.test(call));
  expect(receives.map(({ result, error }) => [result, error])).toEqual([
    ["aborted (TimeoutError)", undefined],
    ['aborted ({ any: "thing" })', undefined],
    ["aborted", undefined],
    [expect.stringContaining("maxBytes"), "RangeError"],
    ["ETIMEDOUT", "ETIMEDOUT"],
    ["closed", undefined],
    ["EOF", undefined],
    ["EPIPE", "EPIPE"],
  ]);
  expect(receives.filter(({ peer }) => peer !== undefined)).toEqual([]); // a peer is a datagram's
  expect(receives.map(({ bytes }) => bytes).filter(Number.isInteger)).toEqual([0, 0]); // EOF, EPIPE
});

test("--trace=live also tells of a call that waits, before it returns", async () => {
  await using server = script("echo-server", ["--port", "0", "--trace=live"]);
  const port = await server.port();
  await server.until(/"waits":true}\n/, "stderr");
  await using client = script("echo-client", [`--port=${port}`, "--message", "안녕"]);
  expect(await server.exit()).toBe(0);
  expect(await client.exit()).toBe(0);
  const lines = server.stderr.trimEnd().split("\n");
  const told = lines.map((line): TracedCall => JSON.parse(line));
  const [waits, returned] = told.filter(({ call }) => call === "accept");
  expect(waits).toMatchObject({ on: "server#1", args: "", result: "", waits: true });
  expect(waits!.made).toBeUndefined();
  expect(returned).toMatchObject({ on: "server#1", began: waits!.began, made: { name: "conn#1" } });
  expect(returned!.waits).toBeUndefined();
  expect(told.filter(({ call, waits }) => waits && /listen|close|sendAll/.test(call))).toEqual([]);
});

test("a message is shown as it is, and counted as it came: with its length, or its delimiter", async () => {
  const program = `
    import { delimited, lengthPrefixed, messages, sendMessage } from "./lib/framing.ts";
    import { socketpair } from "./lib/socket.ts";
    import { startTrace } from "./lib/trace.ts";
    const { near, far } = await socketpair();
    startTrace("json", (line) => console.log(line));
    for (const framing of [lengthPrefixed(), delimited("\\r\\n")]) {
      await sendMessage(near, framing, "hello");
      await sendMessage(near, framing, "");
      const incoming = messages(far, framing);
      await incoming.next();
      await incoming.next();
    }
    process.exit(0);`;
  await using process = new Process([globalThis.process.execPath, "-e", program]);
  expect(await process.exit(), process.stderr).toBe(0);
  const lines = process.stdout.trimEnd().split("\n");
  const told = lines.map((line): TracedCall => JSON.parse(line));
  const received = told.filter(({ call }) => call === "recvMessage");
  expect(received.map(({ result, bytes, data }) => [result, bytes, data])).toEqual([
    ['5 bytes "hello"', 9, '"hello"'],
    ["0 bytes", 4, ""],
    ['5 bytes "hello"', 7, '"hello"'],
    ["0 bytes", 2, ""],
  ]);
});

test("what connect sends first is shown", async () => {
  const lines = await traced(`
    using other = await connect({ ...server.address, preface: Buffer.from("PROXY UNKNOWN\\r\\n") });`);
  expect(lines[0]).toBe('connect(PEER, preface 15 bytes "PROXY UNKNOWN\\r\\n") -> conn#3 PEER');
});

test("what a WebSocket receives is shown: each frame, and the end", async () => {
  const lines = await traced(`
    const { openWebSocket, acceptWebSocket } = await import("./lib/websocket.ts");
    const [socket, other] = await Promise.all([acceptWebSocket(far), openWebSocket(near)]);
    const receiving = (async () => { for await (const message of socket); })().catch(quiet);
    await other.send("안녕");
    near.close();
    await receiving;`);
  const received = lines.filter((line) => line.startsWith("conn#2  recvMessage"));
  expect(received.map((line) => line.replace(/.*-> /, ""))).toEqual([
    expect.stringMatching(/^\d+ bytes "GET \/ HTTP\/1\.1/),
    '6 bytes "안녕"',
    "EOF",
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

test("a sendAll gives nothing, also one that has to wait; send and trySend give the count", async () => {
  const lines = await traced(`
    const receiving = (async () => { for (let n = 0; n < 8_000_009; ) n += (await far.recv(1e9)).length; })();
    await near.sendAll(Buffer.alloc(8_000_000, "talk "));
    await near.send("four");
    near.trySend("five!");
    await receiving;`);
  const sent = lines.filter((line) => line.includes("end"));
  expect(sent).toEqual([
    'conn#1  sendAll(8000000 bytes "talk talk talk talk talk talk ta"…)',
    'conn#1  send(4 bytes "four") -> 4',
    'conn#1  trySend(5 bytes "five!") -> 5',
  ]);
});

test("nothing sent and nothing wanted are no EOF", async () => {
  const lines = await traced(`
    await near.sendAll("");
    await near.recvExactly(0);
    far.close();
    await near.recv(10);
    near.tryRecv(10);`);
  expect(lines).toEqual([
    "conn#1  sendAll(0 bytes)",
    "conn#1  recvExactly(0) -> 0 bytes",
    "conn#2  close()",
    "conn#1  recv(10) -> EOF",
    "conn#1  tryRecv(10) -> EOF",
  ]);
});

test("an abort is an abort, with its reason", async () => {
  const lines = await traced(`
    await near.recv(10, { signal: AbortSignal.timeout(5) }).catch(quiet);
    await near.recv(10, { signal: AbortSignal.abort() }).catch(quiet);
    await near.recv(10, { signal: AbortSignal.abort(new Error("enough")) }).catch(quiet);
    await server.accept({ signal: AbortSignal.abort("the partner has ended") }).catch(quiet);
    await connect({ port: 1, signal: AbortSignal.abort({ any: "thing" }) }).catch(quiet);`);
  expect(lines).toEqual([
    "conn#1  recv(10) -> aborted (TimeoutError)",
    "conn#1  recv(10) -> aborted",
    "conn#1  recv(10) -> aborted (enough)",
    "server#1  accept() -> aborted (the partner has ended)",
    'connect(PEER) -> aborted ({ any: "thing" })',
  ]);
});

test("ends that are no errors do not look like errors; those that are, do", async () => {
  const lines = await traced(`
    const waiting = near.recv(10).catch(quiet);
    near.close();
    await waiting;
    await near.recv(10).catch(quiet);
    await far.recvExactly(4).catch(quiet);
    const accepting = server.accept().catch(quiet);
    const selecting = select([server], [], []).catch(quiet);
    server.close();
    await Promise.all([accepting, selecting]);
    for await (const conn of server);`);
  expect(lines.filter((line) => !line.includes("select")).slice(0, -1)).toEqual([
    "conn#1  close()",
    "conn#1  recv(10) -> closed", // this call was waiting when we closed
    "conn#1  recv(10) -> EBADF", // a mistake: the socket was closed before the call
    "conn#2  recvExactly(4) -> EOF", // an end between two messages
    "server#1  close()",
    "server#1  accept() -> closed",
  ]);
  expect(lines).toContain("select([server#1], [], []) -> closed");
  expect(lines.at(-1)).toBe("server#1  accept() -> closed");
  expect(
    await traced(`
    await far.sendAll("abc");
    far.shutdown("write");
    await near.recvExactly(4).catch(quiet);`),
  ).toContain('conn#1  recvExactly(4) -> EINCOMPLETE after 3 bytes "abc"');
  expect(
    await traced(`
    await near.sendAll("abc");
    await far.waitReadable();
    far.reset();
    await near.recvExactly(4).catch(quiet);
    near.setTimeout(10);
    await near.recv(4).catch(quiet);`),
  ).toEqual(
    expect.arrayContaining([
      "conn#1  recvExactly(4) -> ECONNRESET",
      "conn#1  setTimeout(10)",
      "conn#1  recv(4) -> ECONNRESET",
    ]),
  );
});

test("what is closed already is not closed again", async () => {
  await using server = script("message-server", ["--port=0", "--trace"]);
  await server.port();
  server.kill("SIGTERM"); // the signal, serve() and the end of the script all close it
  expect(await server.exit()).toBe(0);
  expect(server.stderr.match(/close\(\)/g)).toHaveLength(1);
  expect(await traced(`near.reset(); near.close(); far.close(); far.close();`)).toEqual([
    "conn#1  reset()",
    "conn#2  close()",
  ]);
});

test("select is shown with what it found", async () => {
  const lines = await traced(`
    await far.sendAll("x");
    await near.waitReadable();
    await select(new Set([server, near, far]), [near].values(), [far], 1000);
    await select([far], [], [], 0);
    await connect(server.address);
    await select([server], [], []);
    await select(Array(40).fill(server), [], []);`);
  expect(lines[2]).toBe(
    "select([server#1, conn#1, conn#2], [conn#1], [conn#2], 1000) -> [conn#1], [conn#1], []",
  );
  expect(lines[3]).toBe("select([conn#2], [], [], 0) -> [], [], [] (time is up)");
  expect(lines[5]).toBe("select([server#1], [], []) -> [server#1], [], []");
  expect(lines[6]).toEndWith(", server#1, … 24 more], [], []");
});

test("datagrams: what came from whom, what went where, and what became of it", async () => {
  const lines = await traced(`
const { datagram } = await import("./lib/datagram.ts");
const any = await datagram({ host: "127.0.0.1", port: 0 });
const one = await datagram({ peer: any.address });
await one.send("");
await select([any], [], []);
const [data, from] = await any.recvFrom(100);
await any.sendTo("hello", from);
await one.recv();
any.tryRecvFrom();
any.trySendTo("x", { host: "127.0.0.1", port: 1 });
await any.send("x").catch(quiet);
await one.sendTo("x", { host: "127.0.0.1", port: 1 }).catch(quiet);
one.setTimeout(1);
await one.recvFrom().catch(quiet);
const looping = Array.fromAsync(any);
await 0;
any.close();
await looping;
await one.send("nobody is there");
await one.waitReadable();
await one.recv(1).catch(quiet);
one.close();
await one.recv(1).catch(quiet);`);
  expect(lines.map((line) => line.replace(/^(datagram#\d) PEER {2}/, "$1  "))).toEqual([
    "datagram(127.0.0.1:PORT) -> datagram#1 PEER",
    "datagram(peer PEER) -> datagram#2 PEER",
    "datagram#2  send(0 bytes)",
    "select([datagram#1], [], []) -> [datagram#1], [], []",
    "datagram#1  recvFrom(100) -> 0 bytes from PEER",
    'datagram#1  sendTo(5 bytes "hello", PEER)',
    'datagram#2  recv() -> 5 bytes "hello"',
    "datagram#1  tryRecvFrom() -> would block",
    'datagram#1  trySendTo(1 byte "x", PEER) -> true',
    'datagram#1  send(1 byte "x") -> EDESTADDRREQ',
    'datagram#2  sendTo(1 byte "x", PEER) -> EISCONN',
    "datagram#2  setTimeout(1)",
    "datagram#2  recvFrom() -> ETIMEDOUT",
    "datagram#1  close()",
    "datagram#1  recvFrom() -> closed",
    'datagram#2  send(15 bytes "nobody is there")',
    "datagram#2  waitReadable()",
    "datagram#2  recv(1) -> ECONNREFUSED",
    "datagram#2  close()",
    "datagram#2  recv(1) -> EBADF",
  ]);
});

test("threads have names, and no lock is a listen", async () => {
  await using server = script("echo-threaded-server", ["--port=0", "--threads=3", "--trace"]);
  const port = await server.port();
  await using client = script("echo-loop-client", [`--port=${port}`]);
  client.type("hello\n");
  const [, thread] = await server.until(
    /thread ([123]) conn#1 127\.0\.0\.1:\d+ {2}recv\(1048576\) -> 5 bytes "hello"\n/,
    "stderr",
  );
  await client.endInput();
  await server.until(new RegExp(`thread ${thread} conn#1 \\S+ {2}close\\(\\)\n`), "stderr");
  for (const each of [1, 2, 3]) await server.until(new RegExp(`thread ${each} +listen`), "stderr");
  const opened = calls(server.stderr, port).filter((line) =>
    /listen|server#\d \S+ {2}close/.test(line),
  );
  expect(opened.sort()).toEqual([
    "listen(PEER) -> server#1 127.0.0.1:PORT", // checks that the port is free
    "server#1 127.0.0.1:PORT  close()",
    "thread 1  listen(127.0.0.1:PORT) -> server#1 127.0.0.1:PORT",
    "thread 2  listen(127.0.0.1:PORT) -> server#1 127.0.0.1:PORT",
    "thread 3  listen(127.0.0.1:PORT) -> server#1 127.0.0.1:PORT",
  ]);
});

test("the accepts of a loop, what would block, and binary data", async () => {
  await using server = script("echo-server", ["--port", "0", "--forever", "--trace"]);
  for (const n of [1, 2]) {
    await using client = script("echo-client", [`--port=${await server.port()}`, "--message=x"]);
    await server.until(new RegExp(`server#1 \\S+ {2}accept\\(\\) -> conn#${n} `), "stderr");
    expect(await client.exit()).toBe(0);
  }
  server.kill("SIGTERM");
  expect(await server.exit()).toBe(0);
  expect(calls(server.stderr, 0)).toContain("server#1 PEER  accept() -> closed");

  await using order = script("byte-order", ["--trace"]);
  expect(await order.exit()).toBe(0);
  expect(order.stderr).toMatch(/sendAll\(4 bytes 00 00 00 01\)/);

  await using polling = script("select-server", ["--port", "0", "--trace"]);
  await using other = script("echo-loop-client", [`--port=${await polling.port()}`]);
  other.type("hello\n");
  await polling.until(/tryAccept\(\) -> conn#1/, "stderr");
  await polling.until(/tryAccept\(\) -> would block\n/, "stderr");
  await polling.until(/select\(\[server#1, conn#1\], \[\], \[\], \d+\) -> \[conn#1\]/, "stderr");
  await polling.until(/trySend\(5 bytes "hello"\) -> 5\n/, "stderr");
});

test("bytes are shown as what they are, and never command a terminal", async () => {
  const lines = await traced(`
    const text = ["a;b#c", "<b>", "tab\\there", "\\x1b[2J", "\\u202eevil", "é".repeat(20)];
    for (const data of [...text, Buffer.from("abc\\xff", "latin1"), Buffer.from("가").subarray(0, 2)]) {
      near.trySend(data);
    }`);
  const shown = lines.map((line) => line.replace(/.*trySend\((.*)\).*/, "$1"));
  expect(shown).toEqual([
    '5 bytes "a;b#c"',
    '3 bytes "<b>"',
    '8 bytes "tab\\there"',
    "4 bytes 1b 5b 32 4a",
    "7 bytes e2 80 ae 65 76 69 6c",
    `40 bytes "${"é".repeat(16)}"…`,
    "4 bytes 61 62 63 ff", // not text, though it begins like text
    "2 bytes ea b0",
  ]);
});

testPython("on a terminal, the trace and what the program prints keep to their lines", async () => {
  // CPython types into a terminal of the client's own, and keeps what comes out there.
  const program = `
import os, pty
near, far = pty.openpty()
run = [sys.argv[2], "run", "scripts/echo-client.ts", "--port", sys.argv[1], "--trace"]
import subprocess, fcntl, termios
fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
child = subprocess.Popen(run, stdin=far, stdout=far, stderr=far, env={**os.environ, "NO_COLOR": "1"})
os.close(far)
out = b""
def until(what):
    global out
    while what not in out:
        try: out += os.read(near, 1000)
        except OSError: return
until(b":")
while not out.endswith(b":"): out += os.read(near, 1000)
os.write(near, b"hello\\n")
until(b"never"); child.wait()
# What is on the screen: \\r goes back to the line's beginning, ESC [ K wipes it.
for line in out.decode().replace("\\r\\n", "\\n").split("\\n"): print("|" + line.split("\\r\\x1b[K")[-1])
`;
  await using server = script("echo-server", ["--port", "0"]);
  await using terminal = python(program, await server.port(), process.execPath);
  expect(await terminal.exit(), terminal.stderr).toBe(0);
  const lines = terminal.stdout.trimEnd().split("\n");
  const time = /^\|\d\d:\d\d:\d\d\.\d{3} {2}/;
  expect(lines.filter((line) => !time.test(line)).filter((line) => line !== "|")).toEqual([
    "|:hello",
    "|>hello",
  ]);
  expect(lines.filter((line) => time.test(line)).length).toBe(6);
  expect(lines.at(-2)).toMatch(/close\(\)$/);
});

test("untraced, it is not even loaded; traced, nothing is kept", async () => {
  const untraced = `
    import { cli } from "./lib/cli.ts";
    import { Socket } from "./lib/socket.ts";
    const before = Socket.prototype.recv;
    cli("", {});
    const loaded = Object.keys(require.cache).some((file) => file.endsWith("/trace.ts"));
    console.log(Socket.prototype.recv === before, loaded);
    process.exit(0);`;
  await using off = new Process([process.execPath, "-e", untraced]);
  expect(await off.exit(), off.stderr).toBe(0);
  expect(off.stdout).toBe("true false\n");
  await using on = new Process([process.execPath, "-e", untraced], { SOCKET_TRACE: "text" });
  expect(await on.exit(), on.stderr).toBe(0);
  expect(on.stdout).toBe("false true\n");

  const lines = await traced(`
    const { heapStats } = require("bun:jsc");
    const count = () => (Bun.gc(true), heapStats().objectCount);
    console.log = () => {};
    const rounds = async (n) => {
      for (; n > 0; n--) await Promise.all([near.sendAll("x"), far.recv(1)]);
    };
    await rounds(2_000);
    const before = count();
    await rounds(20_000);
    process.stdout.write("kept " + (count() - before));`);
  expect(Number(lines.at(-1)!.replace("kept ", ""))).toBeLessThan(15_000); // of 40,000 calls
});

test("anything but text and json is refused", async () => {
  await using client = script("echo-client", ["--trace=mermaid"]);
  expect(await client.exit()).toBe(2);
  expect(client.stderr).toMatch(/^error: --trace .*"mermaid"\n$/);
});
