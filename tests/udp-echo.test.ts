// The echo server and client for datagrams, with each other and with CPython; and what happens to
// datagrams: losses, strangers, clients that are gone, floods.

import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { datagram } from "../lib/datagram.ts";
import {
  Network,
  PATIENCE_MS,
  pattern,
  python,
  script,
  testNetwork,
  testPython,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const SERVER = "udp-echo-server";
const CLIENT = "udp-echo-client";

/** Sends `text` until a reply comes (datagrams may be lost); the reply has to be the same text. */
async function echoes(host: string, port: number, text = "hello"): Promise<void> {
  using socket = await datagram({ peer: { host, port } });
  socket.setTimeout(500);
  for (;;) {
    await socket.send(text).catch(() => {});
    const reply = await socket.recv().catch(() => null);
    if (reply !== null) return expect(String(reply)).toBe(text);
  }
}

describe("the server", () => {
  test("sends everything back, 0 to 65,507 bytes, to whoever sent it", async () => {
    await using server = script(SERVER, ["--port", "0"]);
    const port = await server.port();
    using one = await datagram({ peer: { host: "127.0.0.1", port } });
    using other = await datagram({ peer: { host: "127.0.0.1", port } });
    for (const size of [0, 1, 1000, 65_507]) {
      await one.send(pattern(size, 1));
      await other.send(pattern(size, 2));
      expect((await one.recv()).equals(pattern(size, 1))).toBe(true);
      expect((await other.recv()).equals(pattern(size, 2))).toBe(true);
    }
    expect(server.stdout).toBe(`listening on 127.0.0.1:${port}\n`);
  });

  test.each([
    ["::1", "[::1]", ["::1"]],
    ["::", "[::]", ["::1", "127.0.0.1"]],
    ["localhost", "127.0.0.1", ["127.0.0.1"]],
  ])("--host %s listens on %s", async (host, told, from) => {
    await using server = script(SERVER, ["--host", host, "--port", "0"]);
    const port = await server.port();
    expect(server.stdout).toBe(`listening on ${told}:${port}\n`);
    for (const peer of from) await echoes(peer, port);
  });

  test("a client that is gone when the echo comes ends nobody", async () => {
    await using server = script(SERVER, ["--port", "0"]);
    const port = await server.port();
    const to = { host: "127.0.0.1", port };
    for (let i = 0; i < 50; i++) {
      using gone = await datagram();
      await gone.sendTo("who?", to);
    }
    await echoes("127.0.0.1", port);
    expect(server.stderr).toBe("");
  });

  const testForged = Bun.which("python3") === null ? testPython : testNetwork;
  testForged("a client to which no route exists does not end the server", async () => {
    using network = new Network();
    const run = [
      "run",
      "scripts/udp-echo-server.ts",
      "--host",
      "0.0.0.0",
      "--port",
      "0",
      "--trace",
    ];
    await using server = network.process([process.execPath, ...run]);
    const [, port] = await server.until(/^listening on 0.0.0.0:(\d+)\n/);
    // A forged datagram from 192.0.2.1, to which no route exists: a raw frame from the far end of the cable.
    const forge = `
import socket, struct, sys
def checksum(head):
    total = sum(struct.unpack("!10H", head)); total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
udp = struct.pack("!HHHH", 7, int(sys.argv[1]), 12, 0) + b"evil"
address = socket.inet_aton("192.0.2.1") + socket.inet_aton("10.77.0.1")
def head(sum): return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, sum) + address
near = bytes.fromhex(open("/sys/class/net/near/address").read().replace(":", ""))
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(("far", 0))
s.send(near + bytes(6) + b"\\x08\\x00" + head(checksum(head(0))) + udp)`;
    await using forger = network.process(["python3", "-c", forge, port!]);
    expect(await forger.exit(), forger.stderr).toBe(0);
    await server.until(/sendTo\(4 bytes "evil", 192.0.2.1:7\) -> ENETUNREACH/, "stderr");
    const ask = ["run", "scripts/udp-echo-client.ts", "--port", port!, "--message", "hello"];
    await using client = network.process([process.execPath, ...ask]);
    expect(await client.exit(), client.stderr).toBe(0);
    expect(client.stdout).toBe(">hello\n");
  });

  testPython("a flood keeps neither SIGTERM nor the memory, and others are served", async () => {
    await using server = script(SERVER, ["--port", "0"]);
    const port = await server.port();
    await using flood = python(
      `
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("127.0.0.1", int(sys.argv[1])))
print("begins")
while True:
    try: s.send(b"x" * 1000)
    except OSError: pass # the server is gone`,
      port,
    );
    await flood.until(/begins/);
    for (let i = 0; i < 3; i++) await echoes("127.0.0.1", port, `between ${i}`);
    const status = await Bun.file(`/proc/${server.pid}/status`).text();
    const [, kib] = status.match(/VmHWM:\s+(\d+) kB/) ?? []; // the most it ever had
    expect(Number(kib) / 1024).toBeLessThan(200);
    server.kill("SIGTERM");
    expect(await server.exit()).toBe(0);
    expect(server.stderr).toBe("");
  });

  test("traced, it tells who sent what, and where the reply went", async () => {
    await using server = script(SERVER, ["--port", "0", "--trace=json"]);
    const port = await server.port();
    await echoes("127.0.0.1", port);
    await server.until(/"sendTo".*\n/, "stderr");
    const told = server.stderr
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    const [opened, received, sent] = told;
    expect(opened.call).toBe("datagram");
    expect(opened.made).toEqual({ name: "datagram#1", local: `127.0.0.1:${port}` });
    for (const { on, bytes, data, peer } of [received, sent]) {
      expect({ on, bytes, data }).toEqual({ on: "datagram#1", bytes: 5, data: '"hello"' });
      expect(peer).toMatch(/^127\.0\.0\.1:\d+$/);
    }
    expect([received.call, sent.call]).toEqual(["recvFrom", "sendTo"]);
    expect(sent.peer).toBe(received.peer);
  });

  test("flags, environment, signals, and a port in use, as every server has them", async () => {
    await using byEnv = script(SERVER, ["--grace", "60"], { HOST: "127.0.0.1", PORT: "0" });
    const port = await byEnv.port();
    const wrongEnv = { HOST: "192.0.2.1", PORT: "x" };
    await using byFlag = script(
      SERVER,
      ["--port", "0", "--host", "::1", "--grace", "60"],
      wrongEnv,
    );
    await byFlag.until(/^listening on \[::1\]:\d+\n/);
    await using second = script(SERVER, ["--port", `${port}`]);
    expect(await second.exit()).toBe(1);
    expect(second.stderr).toBe(
      `error: cannot listen on 127.0.0.1:${port}: address already in use\n`,
    );
    await using nowhere = script(SERVER, [], { HOST: "no-such-host.invalid" });
    expect(await nowhere.exit()).toBe(1);
    expect(nowhere.stderr).toMatch(
      /^error: cannot listen on no-such-host.invalid: host not found .*HOST.*\n$/,
    );
    for (const wrong of ["80.5", "abc", "65536", "", "-1"]) {
      for (const name of [SERVER, CLIENT]) {
        await using refused = script(name, [`--port=${wrong}`]);
        expect(await refused.exit()).toBe(2);
        expect(refused.stderr).toMatch(/^error: --port [^\n]*\n$/);
      }
    }
    byEnv.kill("SIGINT");
    byFlag.kill("SIGTERM");
    for (const server of [byEnv, byFlag]) {
      expect(await server.exit()).toBe(0);
      expect(server.stderr).toBe("");
    }
  });
});

describe("the client", () => {
  test("sends --message, or line after line, and prints each reply behind a >", async () => {
    await using server = script(SERVER, ["--host", "::", "--port", "0"]);
    const port = `${await server.port()}`;
    for (const host of ["127.0.0.1", "::1", "[::1]", "localhost"]) {
      await using one = script(CLIENT, ["--port", port, "--host", host, "--message", "안녕"]);
      expect(await one.exit(), one.stderr).toBe(0);
      expect(one.stdout).toBe(">안녕\n");
    }
    await using lines = script(CLIENT, ["--port", port]);
    lines.type("one\ntwo\n");
    await lines.until(/>one\n>two\n/);
    lines.type("three");
    await lines.endInput();
    expect(await lines.exit(), lines.stderr).toBe(0);
    expect(lines.stdout).toBe(">one\n>two\n>three\n");
    await using empty = script(CLIENT, ["--port", port]);
    empty.type("one\n\n");
    expect(await empty.exit()).toBe(0);
    expect(empty.stdout).toBe(">one\n");
  });

  test("what was lost is sent again; late replies and other words are no answer", async () => {
    using server = await datagram();
    const args = ["--port", `${server.address.port}`, "--timeout", "0.1"];
    await using client = script(CLIENT, args);
    client.type("one\ntwo\n");
    const got = async () => {
      const [data, from] = await server.recvFrom();
      return [String(data), from] as const;
    };
    expect((await got())[0]).toBe("one"); // lost
    const [again, from] = await got();
    expect(again).toBe("one");
    await server.sendTo("other words", from);
    for (let i = 0; i < 3; i++) await server.sendTo("one", from); // the answers to both, and one more
    await client.until(/>one\n/);
    let text = "one";
    while (text === "one") [text] = await got(); // it may have asked once more
    expect(text).toBe("two");
    await server.sendTo("two", from);
    await client.until(/>two\n/);
    await client.endInput();
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(">one\n>two\n");
  });

  test("a stranger's answer is not taken", async () => {
    using server = await datagram();
    using stranger = await datagram();
    await using client = script(CLIENT, ["--port", `${server.address.port}`, "--message", "hello"]);
    const [data, from] = await server.recvFrom();
    await stranger.sendTo("hello", from);
    await stranger.sendTo("goodbye", from);
    await Bun.sleep(50); // if it took one of them, it would have ended by now
    expect(client.stdout).toBe("");
    await server.sendTo(data, from);
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(">hello\n");
  });

  test("says in one line that nobody answers, and exits 1", async () => {
    using silent = await datagram();
    const args = ["--timeout", "0.05", "--message", "hello", "--port"];
    await using patient = script(CLIENT, [...args, `${silent.address.port}`, "--tries", "3"]);
    expect(await patient.exit()).toBe(1);
    expect(patient.stderr).toBe(
      `error: no answer from 127.0.0.1:${silent.address.port}, asked 3 times (is the server running?)\n`,
    );
    await silent.waitReadable();
    for (let i = 0; i < 3; i++) expect(String(silent.tryRecvFrom()![0])).toBe("hello");
    expect(silent.tryRecvFrom()).toBeNull();
    silent.close();

    await using refused = script(CLIENT, [...args, "1"]);
    expect(await refused.exit()).toBe(1);
    expect(refused.stderr).toBe(
      "error: no answer from 127.0.0.1:1, asked 5 times, nobody listens there (is the server running?)\n",
    );
    await using lost = script(CLIENT, [...args, "1", "--host", "no-such-host.invalid"]);
    expect(await lost.exit()).toBe(1);
    expect(lost.stderr).toBe("error: cannot connect to no-such-host.invalid: host not found\n");
    await using large = script(CLIENT, [...args, "1", "--message", "x".repeat(65_508)]);
    expect(await large.exit()).toBe(1);
    expect(large.stderr).toBe("error: cannot send to 127.0.0.1:1: message too long\n");
  });

  test("waits for a server that comes up meanwhile, and ends at a signal", async () => {
    using reserved = await datagram();
    const { port } = reserved.address;
    reserved.close();
    const args = ["--port", `${port}`, "--timeout", "0.1", "--tries", "100", "--message", "hello"];
    await using client = script(CLIENT, [...args, "--trace"]);
    await client.until(/ECONNREFUSED/, "stderr");
    await using server = script(SERVER, ["--port", `${port}`]);
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(">hello\n");
    server.kill("SIGTERM");
    expect(await server.exit()).toBe(0);

    using silent = await datagram();
    const asks = ["--port", `${silent.address.port}`, "--timeout", "0.05", "--tries", "100"];
    const env = { PORT: "abc", HOST: "abc" }; // a client does not look at them
    await using waiting = script(CLIENT, [...asks, "--message", "hello"], env);
    for (let i = 0; i < 3; i++) await silent.recv();
    waiting.kill("SIGTERM");
    expect(await waiting.exit()).toBe(0);
    let asked = 0; // since the signal: the client does not go on with its 100 tries
    while (silent.tryRecvFrom() !== null) asked++;
    expect(asked).toBeLessThan(5);
  });
});

describe("with CPython", () => {
  testPython("its client and our server, over both families", async () => {
    await using server = script(SERVER, ["--host", "::", "--port", "0"]);
    await using client = python(
      `
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    s = socket.socket(family, socket.SOCK_DGRAM); s.connect((host, int(sys.argv[1])))
    for size in (0, 1, 1473, 65507):
        data = bytes(i % 251 for i in range(size))
        s.send(data)
        assert s.recv(65536) == data
    print("echoed", host)`,
      await server.port(),
    );
    expect(await client.exit(), client.stderr).toBe(0);
    expect(client.stdout).toBe("echoed 127.0.0.1\nechoed ::1\n");
  });

  testPython("its server and our client, which asks again when it is not heard", async () => {
    await using server = python(`
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("::1", 0))
print(s.getsockname()[1])
s.recv(65536) # lost
while True: s.sendto(*s.recvfrom(65536))`);
    const args = ["--host", "::1", "--port", `${await server.port()}`, "--timeout", "0.1"];
    const message = "말".repeat(20_000);
    await using client = script(CLIENT, [...args, "--message", message]);
    expect(await client.exit(), client.stderr).toBe(0);
    expect(client.stdout).toBe(`>${message}\n`);
  });
});

describe("datagrams", () => {
  test("shows what is lost, what is too large, what goes to nobody; and the same over TCP", async () => {
    await using shown = script("datagrams");
    expect(await shown.exit(), shown.stderr).toBe(0);
    const lines = shown.stdout.trimEnd().split("\n");
    const [, came] = lines[0]!.match(/^UDP, nobody reads: 2000 datagrams were sent, (\d+) came$/)!;
    expect(Number(came)).toBeGreaterThan(0);
    expect(Number(came)).toBeLessThan(2000);
    expect(lines.slice(1)).toEqual([
      "TCP, nobody reads: 2000000 bytes were sent, 2000000 came",
      "UDP, too large: 65508 bytes are EMSGSIZE, for 65507 is the most",
      "UDP, too large for the receiver: 65507 bytes, recv(1000) gives 1000, and the rest is gone",
      "TCP: 65508 bytes, recv(1000) gives 1000, and the next ones the other 64508",
      "UDP, to nobody: sendTo succeeds, and that is all we hear",
      "UDP, to nobody, with a peer: send succeeds, the next recv is ECONNREFUSED",
      "TCP, to nobody: connect is ECONNREFUSED, before anything was sent",
    ]);
  });

  test("few small ones survive all", async () => {
    await using shown = script("datagrams", ["--count", "20", "--bytes", "1"]);
    expect(await shown.exit(), shown.stderr).toBe(0);
    expect(shown.stdout).toStartWith("UDP, nobody reads: 20 datagrams were sent, 20 came\n");
  });
});
