// netcat: unchanged bytes, both ways at once, and how each side ends; with CPython, socat and ncat.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";

import { connect, listen } from "../lib/socket.ts";
import { makeCertificate } from "../scripts/secure/certificate.ts";
import {
  freePort,
  PATIENCE_MS,
  pattern,
  Process,
  python,
  recvAll,
  script,
  testPython,
  testWith,
  turn,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const MIB = 1 << 20;
const folder = mkdtempSync(join(tmpdir(), "netcat-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Netcat in a shell, for its redirections. */
function shell(args: string, rest: string): Process {
  return new Process([
    "bash",
    "--norc",
    "-c",
    `${process.execPath} run scripts/netcat.ts ${args} ${rest}`,
  ]);
}

async function listening(process: Process): Promise<number> {
  return Number((await process.until(/^listening on 127\.0\.0\.1:(\d+)$/m, "stderr"))[1]);
}

test("one listens, one connects: what is typed here is seen there, both ways, and ends both", async () => {
  await using one = script("netcat", ["--listen", "--port", "0"]);
  await using two = script("netcat", ["--port", `${await listening(one)}`]);
  two.type("안녕\n");
  await one.until(/^안녕\n/);
  one.type("hello\n");
  await two.until(/^hello\n/);
  await two.endInput();
  expect(await one.exit()).toBe(0);
  expect(await two.exit()).toBe(0);
  expect(one.stdout).toBe("안녕\n"); // netcat adds nothing of its own
});

test("files both ways at once, as they are", async () => {
  const [up, down] = [pattern(16 * MIB, 1), pattern(16 * MIB + 1, 2)];
  writeFileSync(`${folder}/up`, up);
  writeFileSync(`${folder}/down`, down);
  await using one = shell("--listen --port 0", `<${folder}/down >${folder}/got-up`);
  const port = await listening(one);
  await using two = shell(`--port ${port}`, `<${folder}/up >${folder}/got-down`);
  expect(await one.exit(), one.stderr).toBe(0);
  expect(await two.exit(), two.stderr).toBe(0);
  expect(readFileSync(`${folder}/got-up`).equals(up)).toBe(true);
  expect(readFileSync(`${folder}/got-down`).equals(down)).toBe(true);
});

test("a file to one that has nothing to say arrives whole", async () => {
  const bytes = pattern(32 * MIB);
  writeFileSync(`${folder}/file`, bytes);
  for (const input of ["</dev/null", "<&-"]) {
    await using one = shell("--listen --port 0", `${input} >${folder}/copy`);
    await using two = shell(`--port ${await listening(one)}`, `<${folder}/file`);
    expect(await two.exit(), two.stderr).toBe(0);
    expect(await one.exit(), one.stderr).toBe(0);
    expect(readFileSync(`${folder}/copy`).equals(bytes)).toBe(true);
  }
});

test("the input's end is a FIN; the reply to all of it still comes", async () => {
  using server = listen({ port: 0 });
  await using client = script("netcat", ["--port", `${server.address.port}`]);
  using conn = await server.accept();
  client.type("question");
  await client.endInput();
  expect(String(await recvAll(conn))).toBe("question");
  await conn.sendAll("answer");
  conn.shutdown("write");
  expect(await client.exit()).toBe(0);
  expect(client.stdout).toBe("answer");
});

test("the other side's end is ours, though the input goes on", async () => {
  using server = listen({ port: 0 });
  await using client = script("netcat", ["--port", `${server.address.port}`]);
  using conn = await server.accept();
  client.type("unread");
  await conn.recv(100);
  await conn.sendAll(Buffer.from([0xff, 0, 0xfe]));
  conn.close();
  expect(await client.exit()).toBe(0);
  expect(client.stdout).toBe("\ufffd\0\ufffd");
  expect(client.stderr).toBe("");
});

test("a reset: one line, exit 1, and what came before is printed", async () => {
  using server = listen({ port: 0 });
  await using client = script("netcat", ["--port", `${server.address.port}`]);
  using conn = await server.accept();
  await conn.sendAll("before");
  await client.until(/before/);
  conn.reset();
  expect(await client.exit()).toBe(1);
  expect(client.stderr).toMatch(
    /^error: connection with 127\.0\.0\.1:\d+: connection reset by peer\n$/,
  );
});

test("--listen takes one connection; a second finds nobody", async () => {
  await using one = script("netcat", ["--listen", "--port", "0"]);
  const port = await listening(one);
  using conn = await connect({ port });
  await conn.sendAll("x");
  await one.until(/x/);
  expect(await connect({ port }).catch(({ code }) => code)).toBe("ECONNREFUSED");
  one.kill("SIGTERM");
  expect(await one.exit()).toBe(0);
});

test("SIGTERM while it waits for a connection, or for anything: exit 0, no word", async () => {
  await using one = script("netcat", ["--listen", "--port", "0"]);
  await listening(one);
  one.kill("SIGTERM");
  expect(await one.exit()).toBe(0);
  expect(one.stderr).not.toContain("error");
});

test("a reader of stdout that is slow makes the other side wait", async () => {
  using server = listen({ port: 0 });
  // At the other end of the pipe, `read` reads our input instead of the pipe, so it ends when our input ends.
  const netcat = `${process.execPath} run scripts/netcat.ts --port ${server.address.port}`;
  const command = `exec 3<&0; ${netcat} </dev/null | read -r <&3`;
  await using client = new Process(["bash", "--norc", "-c", command]);
  using conn = await server.accept();
  conn.sendAll(new Uint8Array(64 * MIB)).catch(() => {});
  for (let [before, same] = [-1, 0]; same < 200; before = conn.bytesSent) {
    same = conn.bytesSent === before ? same + 1 : 0;
    await Bun.sleep(2);
  }
  expect(conn.bytesSent).toBeLessThan(32 * MIB);
  await client.endInput();
  conn.close();
  await client.exit();
});

test("a reader of stdout that has gone ends it without a word, also in the middle of much", async () => {
  using server = listen({ port: 0 });
  for (let i = 0; i < 5; i++) {
    const rest = "</dev/null | head -c 1; exit ${PIPESTATUS[0]}";
    await using client = shell(`--port ${server.address.port}`, rest);
    using conn = await server.accept();
    const sending = conn.sendAll(new Uint8Array(8 * MIB)).catch(() => {}); // far more than a pipe holds
    expect(await client.exit()).toBe(0);
    expect(client.stderr).toBe("");
    await sending;
  }
});

test("TLS, in either role", async () => {
  const own = makeCertificate("localhost");
  for (const name of ["cert", "key"] as const) writeFileSync(`${folder}/${name}`, own[name]);
  const secured = ["--tls-cert", `${folder}/cert`, "--tls-key", `${folder}/key`];
  await using one = script("netcat", ["--listen", "--port", "0", ...secured]);
  const where = ["--host", "localhost", "--port", `${await listening(one)}`];
  await using two = script("netcat", [...where, "--tls-ca", `${folder}/cert`]);
  two.type("안녕\n");
  await one.until(/^안녕\n/);
  one.type("hello\n");
  await two.until(/^hello\n/);
  await two.endInput();
  expect(await one.exit(), one.stderr).toBe(0);
  expect(await two.exit(), two.stderr).toBe(0);

  await using server = script("netcat", ["--listen", "--port", "0", ...secured]);
  const port = `${await listening(server)}`;
  await using stranger = script("netcat", ["--host", "localhost", "--port", port, "--tls"]);
  expect(await stranger.exit()).toBe(1);
  expect(stranger.stderr).toMatch(/^error: cannot connect to localhost:\d+: self.signed.*\n$/);
  // One line about it; and it still waits for a connection.
  await server.until(
    /^listening on .*\nwarning: connection with 127\.0\.0\.1:\d+: .*\n$/,
    "stderr",
  );
});

test("a certificate in the environment is for servers: netcat connects as it is told", async () => {
  using server = listen({ port: 0 });
  const command = [
    process.execPath,
    "run",
    "scripts/netcat.ts",
    "--port",
    `${server.address.port}`,
  ];
  await using client = new Process(command, { TLS_CERT: "/none", TLS_KEY: "/none" });
  using conn = await server.accept();
  await conn.sendAll("hello");
  conn.shutdown("write");
  expect(await client.exit()).toBe(0);
  expect([client.stdout, client.stderr]).toEqual(["hello", ""]);
});

test("input that cannot be read is told, and nobody waits for its end", async () => {
  using server = listen({ port: 0 });
  await using client = shell(`--port ${server.address.port}`, `<${folder}`);
  using _conn = await server.accept();
  expect(await client.exit()).toBe(1);
  expect(client.stderr).toMatch(/^error: .*EISDIR.*\n$/);
});

testPython("on a terminal, the other side cannot command it", async () => {
  using server = listen({ port: 0 });
  await using terminal = python(
    `
import os, pty, subprocess
near, far = pty.openpty()
run = [sys.argv[2], "run", "scripts/netcat.ts", "--port", sys.argv[1]]
subprocess.run(run, stdin=subprocess.DEVNULL, stdout=far)
print(repr(os.read(near, 1000)))`,
    server.address.port,
    process.execPath,
  );
  using conn = await server.accept();
  const bytes = Buffer.from("\x1b[2J a line\r\nover\rwritten 한");
  await conn.sendAll(bytes.subarray(0, -1)); // cut within the last character
  for (let i = 0; i < 5; i++) await turn();
  await conn.sendAll(bytes.subarray(-1));
  conn.close();
  expect(await terminal.exit()).toBe(0);
  expect(eval(terminal.stdout.replace(/^b/, ""))).toBe(
    // The terminal puts a CR before each LF.
    Buffer.from("\ufffd[2J a line\r\r\nover\ufffdwritten 한").toString("latin1"),
  );
});

const peers = {
  socat: {
    listens: (port: number) => ["-d", "-d", `TCP-LISTEN:${port},bind=127.0.0.1`, "-"],
    connects: (port: number) => ["-", `TCP:127.0.0.1:${port}`],
  },
  ncat: {
    listens: (port: number) => ["-v", "-l", "127.0.0.1", `${port}`],
    connects: (port: number) => ["127.0.0.1", `${port}`],
  },
};
for (const [tool, { listens, connects }] of Object.entries(peers)) {
  testWith(tool, `with ${tool} on the other side, either way`, async () => {
    await using one = script("netcat", ["--listen", "--port", "0"]);
    await using theirs = new Process([tool, ...connects(await listening(one))]);
    theirs.type("from theirs\n");
    await one.until(/^from theirs\n/);
    one.type("from ours\n");
    await theirs.until(/^from ours\n/);
    await one.endInput();
    await theirs.endInput();
    expect(await one.exit(), one.stderr).toBe(0);

    const port = freePort();
    await using server = new Process([tool, ...listens(port)]);
    await server.until(/istening on/, "stderr");
    await using two = script("netcat", ["--port", `${port}`]);
    two.type("to theirs\n");
    await server.until(/^to theirs\n/);
    server.type("to ours\n");
    await two.until(/^to ours\n/);
    await two.endInput();
    await server.endInput();
    expect(await two.exit(), two.stderr).toBe(0);
  });
}
