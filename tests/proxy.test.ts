// proxy: what it passes on, how connections end, its cost; and the PROXY protocol with CPython and HAProxy.

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";

import { decodeProxyHeader, encodeProxyHeader } from "../lib/relay.ts";
import { connect, listen, type ServerSocket, type Socket } from "../lib/socket.ts";
import { makeCertificate } from "../scripts/secure/certificate.ts";
import {
  echoes,
  failure,
  fails,
  fill,
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

setDefaultTimeout(2 * PATIENCE_MS);

const MIB = 1 << 20;
const folder = mkdtempSync(join(tmpdir(), "proxy-"));
afterAll(() => rmSync(folder, { recursive: true }));

function proxy(backend: number | string, ...args: string[]): Process {
  const to = typeof backend === "number" ? `127.0.0.1:${backend}` : backend;
  return script("proxy", ["--port", "0", "--to", to, ...args]);
}

/** Both ends of one connection through the proxy. */
async function through(port: number, backends: ServerSocket) {
  const client = await connect({ port });
  const backend = await backends.accept();
  const close = () => [client, backend].forEach((end) => end.close());
  return { client, backend, [Symbol.dispose]: close };
}

/** The bytes that the kernel holds for connections, named by both ports, at both ends of each: proc_net_tcp(5). */
function inKernel(...connections: [number, number][]): number {
  let bytes = 0;
  for (const row of readFileSync("/proc/net/tcp", "utf8").split("\n").slice(1, -1)) {
    const [, local, remote, , queues] = row.trim().split(/\s+/);
    // Both ports: another connection of this machine may have one of them, too.
    const ends = [local, remote].map((end) => parseInt(end!.split(":")[1]!, 16));
    const isOurs = connections.some((ports) => ports.every((port) => ends.includes(port)));
    for (const queue of queues!.split(":")) if (isOurs) bytes += parseInt(queue, 16);
  }
  return bytes;
}

const descriptors = (pid: number) => readdirSync(`/proc/${pid}/fd`).length;

/** CPU time of a process, in ms: proc_pid_stat(5), in ticks of 10 ms. */
function cpuTime(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

describe("proxy", () => {
  test("16 MiB both ways at once, unchanged; and one line about it", async () => {
    using backends = listen({ port: 0 });
    await using server = proxy(backends.address.port);
    using ends = await through(await server.port(), backends);
    const { client, backend } = ends;
    const [up, down] = [pattern(16 * MIB, 1), pattern(16 * MIB, 2)];
    const send = async (conn: Socket, bytes: Buffer) => {
      await conn.sendAll(bytes);
      conn.shutdown("write");
    };
    const sending = Promise.all([send(client, up), send(backend, down)]);
    const [gotUp, gotDown] = await Promise.all([recvAll(backend), recvAll(client)]);
    await sending;
    expect(gotUp.equals(up) && gotDown.equals(down)).toBe(true);
    const from = `127.0.0.1:${client.localAddress.port} to 127.0.0.1:${backends.address.port}`;
    const bytes = `${16 * MIB} bytes there, ${16 * MIB} back`;
    await server.until(new RegExp(`^${from}: ${bytes}, \\d+\\.\\d s, ended\\n`, "m"));
    expect(server.stderr).toBe("");
  });

  test("half-close, each side first", async () => {
    using backends = listen({ port: 0 });
    await using server = proxy(backends.address.port);
    const port = await server.port();
    for (const first of ["client", "backend"] as const) {
      using ends = await through(port, backends);
      const [near, far] = [ends[first], ends[first === "client" ? "backend" : "client"]];
      await near.sendAll("question");
      near.shutdown("write");
      expect(String(await recvAll(far))).toBe("question");
      await far.sendAll("answer");
      far.shutdown("write");
      expect(String(await recvAll(near))).toBe("answer");
    }
  });

  test("a reset is a reset on the other side, within a second, also when that reads nothing", async () => {
    using backends = listen({ port: 0 });
    await using server = proxy(backends.address.port);
    const port = await server.port();
    for (const first of ["client", "backend"] as const) {
      for (const isStuck of [false, true]) {
        using ends = await through(port, backends);
        const [near, far] = [ends[first], ends[first === "client" ? "backend" : "client"]];
        await near.sendAll("x");
        await far.recvExactly(1);
        // Until everything between the two is full.
        for (let quiet = 0; isStuck && quiet < 50; await Bun.sleep(1)) {
          quiet = fill(near) > 0 ? 0 : quiet + 1;
        }
        const lines = server.stdout.split("\n").length;
        const began = performance.now();
        near.reset();
        while (server.stdout.split("\n").length === lines) await Bun.sleep(5);
        expect(performance.now() - began).toBeLessThan(1_000);
        await fails(recvAll(far), "ECONNRESET");
        const broken = first === "client" ? near.localAddress.port : backends.address.port;
        const how = `connection with 127.0.0.1:${broken}: connection reset by peer`;
        expect(server.stdout.trimEnd().split("\n").at(-1)).toEndWith(how);
      }
    }
    expect(server.stderr).toBe("");
  });

  test("a back-end that never reads, or floods a client that does not read: the proxy holds less than 2 MiB", async () => {
    using backends = listen({ port: 0 });
    await using server = proxy(backends.address.port);
    const port = await server.port();
    for (const sender of ["client", "backend"] as const) {
      using ends = await through(port, backends);
      let sent = 0;
      (async () => {
        for (; sent < 64; sent++) await ends[sender].sendAll(new Uint8Array(MIB));
      })().catch(() => {});
      for (let [last, same] = [-1, 0]; same < 100; last = sent) {
        same = sent === last ? same + 1 : 0;
        await Bun.sleep(2);
      }
      expect(sent).toBeLessThan(48);
      // What the proxy itself holds: its memory would show that and garbage, which is collected at any time.
      const kernels = inKernel(
        [ends.client.localAddress.port, port],
        [ends.backend.remoteAddress.port, backends.address.port],
      );
      expect(ends[sender].bytesSent - kernels).toBeWithin(1, 2 * MIB);
    }
  });

  test("500 clients, each with its own echo, and back to the old number of descriptors", async () => {
    await using echo = script("echo-threaded-server", ["--port", "0"]);
    await using server = proxy(await echo.port());
    const port = await server.port();
    await echoes(port);
    while (!server.stdout.includes(", ended\n")) await turn();
    const before = descriptors(server.pid);
    await Promise.all(Array.from({ length: 500 }, (_, i) => echoes(port, 10_000 + i)));
    while (server.stdout.split(", ended\n").length < 502) await turn();
    while (descriptors(server.pid) > before) await turn();
    expect(server.stderr).toBe("");
  });

  testPython(
    "ulimit -n 160 with 200 clients: those that fit are served, the others refused; nothing spins",
    async () => {
      await using echo = script("echo-threaded-server", ["--port", "0"]);
      const args = `--port 0 --to 127.0.0.1:${await echo.port()}`;
      const command = `ulimit -n 160; exec ${process.execPath} run scripts/proxy.ts ${args}`;
      await using server = new Process(["bash", "--norc", "-c", command]);
      const port = await server.port();
      await using crowd = python(
        `
def served(c):
    try: c.settimeout(10); c.sendall(b"x"); return c.recv(1) == b"x"
    except ConnectionError: return False
crowd = [connect(sys.argv[1]) for _ in range(200)]
lucky = [c for c in crowd if served(c)]
print("served", len(lucky)); sys.stdin.readline()
for c in crowd: c.close()
while not served(connect(sys.argv[1])): pass
print("again")`,
        port,
      );
      const [, served] = await crowd.until(/served (\d+)\n/);
      expect(Number(served)).toBeGreaterThanOrEqual(60);
      expect(Number(served)).toBeLessThanOrEqual(64); // (160 - 32) / 2
      expect(server.stderr).toMatch(
        /^warning: 64 connections are open: more are refused [^\n]*\n$/,
      );
      const before = cpuTime(server.pid);
      await Bun.sleep(500); // the CPU time of this pause is measured: nothing happens in it
      expect(cpuTime(server.pid) - before).toBeLessThan(100);
      crowd.type("\n");
      await crowd.until(/again\n/);
    },
  );

  test("a back-end that is down, then up, then gone", async () => {
    const behind = freePort();
    await using server = proxy(behind);
    const port = await server.port();
    const isReset = async () => {
      using conn = await connect({ port });
      await fails(conn.recv(1), "ECONNRESET");
      const who = `127.0.0.1:${conn.localAddress.port} to 127.0.0.1:${behind}`;
      const why = `cannot connect to 127.0.0.1:${behind}: connection refused (is the server running?)`;
      await server.until(/refused .*\n$/);
      const lines = server.stdout.replace(/\d\.\d s/g, "N s");
      expect(lines).toContain(`${who}: 0 bytes there, 0 back, N s, ${why}\n`);
    };
    await isReset();
    {
      const preface = Buffer.from("to nobody"); // the proxy may reset before `connect` is through
      await connect({ port, preface })
        .then(recvAll)
        .catch(() => {});
      await server.until(/refused .*\n.*: 0 bytes there, .*refused .*\n$/);
    }
    {
      using backends = listen({ port: behind });
      using ends = await through(port, backends);
      await ends.client.sendAll("hello");
      expect(String(await ends.backend.recv(100))).toBe("hello");
    }
    await isReset();
    expect(server.stderr).toBe("");
  });

  test("--log says how it ended, as the line on stdout does, and nothing twice", async () => {
    using backends = listen({ port: 0 });
    await using server = proxy(backends.address.port, "--log");
    using ends = await through(await server.port(), backends);
    await ends.client.sendAll("x");
    await ends.backend.recv(1);
    ends.backend.reset();
    await server.until(/ECONNRESET: .*\n/, "stderr");
    expect(server.stderr).toMatch(
      /^\S+Z 127\.0\.0\.1:\d+ ECONNRESET: \d\.\d s, 1 bytes in, 0 out\n$/,
    );
    expect(server.stdout).toMatch(
      /: 1 bytes there, 0 back, \d\.\d s, .*connection reset by peer\n$/,
    );
  });

  test("SIGTERM: those who are connected finish; exit 0", async () => {
    using backends = listen({ port: 0 });
    await using server = proxy(backends.address.port);
    using ends = await through(await server.port(), backends);
    await ends.client.sendAll("question");
    await ends.backend.recvExactly(8);
    server.kill("SIGTERM");
    expect((await ends.backend.recv(1)).length).toBe(0); // an end: no more will come
    await ends.backend.sendAll("answer");
    ends.backend.shutdown("write");
    expect(String(await recvAll(ends.client))).toBe("answer");
    ends.client.close();
    expect(await server.exit()).toBe(0);
    expect(server.stderr).toBe("");
  });

  test("--to is needed, and named when it is wrong", async () => {
    for (const [args, told] of [
      [[], /^error: --to is missing.*\n$/],
      [["--to", "127.0.0.1"], /^error: --to must be HOST:PORT, not "127\.0\.0\.1"\n$/],
      [["--to", "127.0.0.1:0"], /^error: --to .*\n$/],
      [["--to", "127.0.0.1:65536"], /^error: --to .*\n$/],
      [["--to", "::1:80"], /^error: --to .*\n$/],
      [["--to", ":80"], /^error: --to .*\n$/],
    ] as const) {
      await using server = script("proxy", ["--port", "0", ...args]);
      expect(await server.exit()).toBe(2);
      expect(server.stderr).toMatch(told);
    }
    using backends = listen({ host: "::1", port: 0 });
    for (const to of [`[::1]:${backends.address.port}`, `localhost:${backends.address.port}`]) {
      await using server = proxy(to);
      using ends = await through(await server.port(), backends);
      await ends.client.sendAll("hello");
      expect(String(await ends.backend.recv(100))).toBe("hello");
    }
  });
});

describe("proxy and the PROXY protocol", () => {
  test.each(["v1", "v2"])(
    "--send-proxy %s tells the back-end who the client is",
    async (version) => {
      using backends = listen({ port: 0 });
      await using server = proxy(backends.address.port, "--send-proxy", version);
      const port = await server.port();
      using ends = await through(port, backends);
      await ends.client.sendAll("hello");
      ends.client.shutdown("write");
      const got = await recvAll(ends.backend);
      const { source, destination, length } = decodeProxyHeader(got)!;
      expect(source).toEqual(ends.client.localAddress);
      expect(destination).toEqual({ host: "127.0.0.1", port });
      expect(String(got.subarray(length))).toBe("hello");
      expect(String(got).startsWith("PROXY TCP4 127.0.0.1 127.0.0.1 ")).toBe(version === "v1");
      ends.backend.close();
      await server.until(/: 5 bytes there, 0 back, .* ended\n/); // the header is not counted
    },
  );

  test("--accept-proxy passes on what the proxy before it has told", async () => {
    using backends = listen({ port: 0 });
    await using server = proxy(backends.address.port, "--accept-proxy", "--send-proxy", "v2");
    const port = await server.port();
    const told = {
      source: { host: "2001:db8::7", port: 56_324 },
      destination: { host: "2001:db8::1", port: 443 },
    };
    for (const version of [1, 2] as const) {
      using client = await connect({ port });
      const header = encodeProxyHeader(told, version);
      for (const byte of header) {
        await client.sendAll(Uint8Array.of(byte)); // in pieces
        await turn();
      }
      await client.sendAll("hello");
      client.shutdown("write");
      using backend = await backends.accept();
      const got = await recvAll(backend);
      expect(decodeProxyHeader(got)).toMatchObject(told);
      backend.close();
    }
    const line = /^\[2001:db8::7\]:56324 to 127\.0\.0\.1:\d+: 5 bytes there, 0 back, .* ended$/gm;
    while (server.stdout.match(line)?.length !== 2) await turn();
    // No header, or a wrong one: refused in one line, and the back-end hears nothing.
    for (const [wrong, why] of [
      ["GET / HTTP/1.1\r\n\r\n", "no PROXY header came first"],
      ["PROXY TCP4 1.2.3.4\r\n", "its PROXY line is none"],
    ] as const) {
      using client = await connect({ port });
      await client.sendAll(wrong);
      await fails(recvAll(client), "ECONNRESET");
      const name = `127.0.0.1:${client.localAddress.port}`;
      await server.until(new RegExp(`^${name} to .*, connection with ${name}: ${why}\\n`, "m"));
    }
    expect(backends.tryAccept()).toBeNull();
    expect(server.stderr).toBe("");
  });
});

// ---- behind a proxy

/** What to say to each server that takes --accept-proxy, and how its answer begins. */
const behind: [name: string, args: string[], ask: string, answer: string][] = [
  ["echo-threaded-server", [], "hello", "hello"],
  ["echo-threaded-server", ["--relay"], "hello", "hello"],
  ["message-server", [], "\0\0\0\x05hello", "\0\0\0\x05hello"],
  ["http-server", [], "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 "],
  ["websocket-server", [], "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 "],
  ["chat-server", [], "", "What is your name?\n"],
];

describe.each(behind)("%s %p --accept-proxy", (name, args, ask, answer) => {
  const server = () => script(name, ["--port", "0", "--accept-proxy", "--trace", ...args]);
  const told = {
    source: { host: "203.0.113.7", port: 56_324 },
    destination: { host: "192.0.2.1", port: 443 },
  };

  test("serves, and knows the client's address; one that is the proxy's own, too", async () => {
    await using running = server();
    const port = await running.port();
    const nobody = { source: null, destination: null };
    for (const header of [
      encodeProxyHeader(told),
      encodeProxyHeader(told, 1),
      encodeProxyHeader(nobody),
    ]) {
      using conn = await connect({ port });
      await conn.sendAll(Buffer.concat([header, Buffer.from(ask)]));
      expect(String(await conn.recvExactly(answer.length))).toBe(answer);
      conn.reset();
    }
    await running.until(/conn#\d+ 203\.0\.113\.7:56324 {2}send/, "stderr");
  });

  test("refuses who has no header, in one line; a wrong one; and part of one", async () => {
    await using running = server();
    const port = await running.port();
    for (const wrong of [ask || "hello", "PROXY TCP4 203.0.113.7\r\n", "PROXY TCP4 203"]) {
      using conn = await connect({ port });
      await conn.sendAll(wrong);
      if (wrong === "PROXY TCP4 203") conn.shutdown("write");
      await fails(recvAll(conn), "ECONNRESET");
      if (wrong !== (ask || "hello")) continue; // only one warning a second is printed
      const line = `^warning: connection with 127.0.0.1:${conn.localAddress.port}: no PROXY header came first$`;
      await running.until(new RegExp(line, "m"), "stderr");
    }
  });
});

test("--accept-proxy is off: a header is data like any other", async () => {
  await using server = script("echo-threaded-server", ["--port", "0"]);
  using conn = await connect({ port: await server.port() });
  const header = encodeProxyHeader({ source: null, destination: null });
  await conn.sendAll(header);
  expect(await conn.recvExactly(header.length)).toEqual(header);
});

// HAProxy reads the header, and answers over HTTP with the addresses that it has read.
for (const version of ["v1", "v2"]) {
  testWith("haproxy", `HAProxy reads what --send-proxy ${version} writes`, async () => {
    const port = freePort();
    const answer =
      'status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst] %[dst_port]"';
    writeFileSync(
      join(folder, "haproxy.cfg"),
      `defaults
  mode http
  timeout connect 2s
  timeout client 10s
  timeout server 10s
frontend f
  bind :::${port} v4v6 accept-proxy
  http-request return ${answer}
`,
    );
    await using haproxy = new Process(["haproxy", "-db", "-f", join(folder, "haproxy.cfg")]);
    const isUp = async () => {
      using conn = await connect({ port }).catch(() => null);
      return conn !== null;
    };
    while (!(await isUp())) await turn();
    for (const host of ["127.0.0.1", "::1"]) {
      await using server = proxy(port, "--host", host, "--send-proxy", version);
      using conn = await connect({ host, port: await server.port() });
      await conn.sendAll("GET / HTTP/1.0\r\n\r\n");
      const { localAddress: us, remoteAddress: it } = conn;
      expect(String(await recvAll(conn))).toEndWith(
        `\r\n\r\n${us.host} ${us.port} ${it.host} ${it.port}`,
      );
    }
    haproxy.kill("SIGKILL");
  });
}

// ---- TLS on either side

const own = makeCertificate("localhost");
const file = (name: string, text: string) => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};
const cert = file("cert.pem", own.cert);
const key = file("key.pem", own.key);

describe("proxy and TLS", () => {
  test("before its clients, before the server behind, and both", async () => {
    const secured = ["--tls-cert", cert, "--tls-key", key];
    for (const [behind, front, to] of [
      [[], secured, []],
      [secured, [], ["--to-ca", cert]],
      [secured, secured, ["--to-ca", cert]],
    ]) {
      await using echo = script("echo-threaded-server", ["--port", "0", "--threads=1", ...behind!]);
      await using server = proxy(`localhost:${await echo.port()}`, ...front!, ...to!);
      const port = await server.port();
      const tls = front!.length > 0 ? { ca: own.cert } : undefined;
      using conn = await connect({ host: "localhost", port, tls });
      const bytes = pattern(4 * MIB, port);
      const sending = conn.sendAll(bytes).then(() => conn.shutdown("write"));
      expect((await recvAll(conn)).equals(bytes)).toBe(true);
      await sending;
      await server.until(/, ended\n/);
      expect(server.stderr + echo.stderr).toBe("");
    }
  });

  test("a server behind whose certificate is unknown: its client is reset, and told why", async () => {
    await using echo = script("echo-threaded-server", [
      ...["--port", "0", "--threads=1", "--tls-cert", cert, "--tls-key", key],
    ]);
    await using server = proxy(`localhost:${await echo.port()}`, "--to-tls");
    using conn = await connect({ port: await server.port() });
    await fails(recvAll(conn), "ECONNRESET");
    await server.until(/: 0 bytes there, 0 back, .* cannot connect to localhost:\d+: self.signed/);
  });

  testPython("a PROXY header goes before TLS, as it has to", async () => {
    await using theirs = python(
      `
import ssl
s = listen(); conn, _ = s.accept()
header = b""
while not header.endswith(b"\\r\\n"): header += conn.recv(1)
print(header.decode().strip())
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain(*sys.argv[1:])
conn = context.wrap_socket(conn, server_side=True)
conn.sendall(conn.recv(100).upper()); conn.close()`,
      cert,
      key,
    );
    const to = `localhost:${await theirs.port()}`;
    await using server = proxy(to, "--to-ca", cert, "--send-proxy", "v1");
    const port = await server.port();
    using conn = await connect({ port });
    await conn.sendAll("hello");
    expect(String(await recvAll(conn))).toBe("HELLO");
    const { localAddress } = conn;
    await theirs.until(
      new RegExp(`^PROXY TCP4 127.0.0.1 127.0.0.1 ${localAddress.port} ${port}$`, "m"),
    );
  });

  test("--accept-proxy and --tls-cert exclude each other: a header comes before TLS", async () => {
    for (const name of ["proxy", "echo-threaded-server", "chat-server"]) {
      const args = ["--accept-proxy", "--tls-cert", cert, "--tls-key", key];
      await using server = script(name, [...args, ...(name === "proxy" ? ["--to=x:1"] : [])]);
      expect(await server.exit()).toBe(2);
      expect(server.stderr).toMatch(/^error: --accept-proxy and --tls-cert [^\n]*\n$/);
    }
  });
});
