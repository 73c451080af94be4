// connect(): names, several addresses, timeouts, and attempts that are given up.

import { getEventListeners } from "node:events";
import dns from "node:dns/promises";
import os from "node:os";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";

import { asWritten, formatAddress, isNumeric } from "../lib/address.ts";
import { connect, listen, type ServerSocket, type Socket } from "../lib/socket.ts";
import { lookUp } from "../lib/socket/dial.ts";
import {
  failure,
  Network,
  PATIENCE_MS,
  Process,
  python,
  root,
  script,
  sockets,
  testNetwork,
  testPython,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

/** CPython listens at an address and its queue is full: Linux does not answer further connections. */
function fullServer(host = "127.0.0.1"): Process {
  const code = `
host = sys.argv[1]; family = socket.AF_INET6 if ":" in host else socket.AF_INET
s = listen(0, host, family)
full = [socket.socket(family) for _ in range(4)]
for c in full: c.setblocking(False); c.connect_ex(s.getsockname())
print("full"); sys.stdin.readline()`;
  return python(code, host);
}

const LIB = `
import { connect, listen } from ${JSON.stringify(join(root, "lib/socket.ts"))};
import { readdirSync, readlinkSync } from "node:fs";
const target = (fd) => { try { return readlinkSync("/proc/self/fd/" + fd) } catch { return "" } };
// Not files: listen reads one, for a moment.
const sockets = () => readdirSync("/proc/self/fd").filter((fd) => target(fd).startsWith("socket:")).length;
const since = performance.now.bind(performance);
const say = (...values) => console.log(values.map((value) => JSON.stringify(value)).join(" "));
`;

/** A program over the lib, in a process of its own. */
function program(code: string): string[] {
  return [process.execPath, "-e", LIB + code];
}

/** A server for each of two addresses, on one port. */
function onBoth(first: string, second: string): [ServerSocket, ServerSocket] {
  for (;;) {
    const one = listen({ host: first, port: 0 });
    try {
      return [one, listen({ host: second, port: one.address.port })];
    } catch {
      one.close(); // the port is taken at the second address: try another
    }
  }
}

describe.if(process.platform === "linux").each([
  ["without a limit", {}],
  ["within a limit", { timeout: 60_000 }],
])("%s", (_, limit) => {
  testPython("a preface that meets a reset is no clean end", async () => {
    await using resetting = python(
      "c, _ = listen().accept(); sys.stdin.readline(); reset(c); sys.stdin.read()",
    );
    const port = await resetting.port();
    const mark = `:${port.toString(16).toUpperCase().padStart(4, "0")} 01 `; // established, to that port
    const target = {
      ...limit,
      port,
      // The lib reads this property when the connection is open, right before it sends the preface.
      get preface() {
        resetting.type("\n");
        while (readFileSync("/proc/net/tcp", "utf8").includes(mark));
        return Buffer.from("PROXY UNKNOWN\r\n");
      },
    };
    const error = await failure(connect(target).then((conn) => conn.recv(1)));
    expect(error.code).toBe("ECONNRESET");
  });
});

describe("what is given up", () => {
  testPython("leaves no descriptor: a timeout, a signal", async () => {
    await using server = fullServer();
    const port = await server.port();
    await server.until(/full/);
    await failure(connect({ port, timeout: 1 })); // warm-up: the first one loads node:net
    const before = sockets();
    const { signal } = new AbortController();
    for (let i = 0; i < 5; i++) {
      const error = await failure(connect({ port, signal, timeout: 20 }));
      expect(error.message).toBe(`connect ETIMEDOUT 127.0.0.1:${port}`);
      const stop = new AbortController();
      const waiting = failure(connect({ port, signal: stop.signal }));
      await Bun.sleep(1);
      stop.abort("enough");
      expect(await waiting).toBe("enough");
      const atOnce = new AbortController();
      const begun = failure(connect({ port, signal: atOnce.signal }));
      atOnce.abort("at once");
      expect(await begun).toBe("at once");
    }
    expect(sockets().difference(before).size).toBe(0);
    expect(getEventListeners(signal, "abort")).toEqual([]);
  });

  testPython("keeps no process alive", async () => {
    await using server = fullServer();
    const port = await server.port();
    await server.until(/full/);
    // The kernel would go on trying for two minutes, and the timer that is not needed would run for one.
    const code = `
await connect({ port: ${port}, timeout: 20 }).catch(({ code }) => say(code));
const stop = new AbortController();
setTimeout(() => stop.abort(), 20);
await connect({ port: ${port}, timeout: 60_000, signal: stop.signal }).catch(({ name }) => say(name));`;
    await using child = new Process(program(code));
    expect(await child.exit()).toBe(0);
    expect(child.stdout).toBe('"ETIMEDOUT"\n"AbortError"\n');
  });

  test("a timer that is not needed any more keeps no process alive either", async () => {
    const code = `
using server = listen({ port: 0 });
using conn = await connect({ port: server.address.port, timeout: 60_000 });
await connect({ host: "a\\0b", port: 1, timeout: 60_000 }).catch(({ code }) => say(code));
await connect({ host: "::1%\\0", port: 1, timeout: 60_000 }).catch(({ code }) => say(code));
say("done");`;
    await using child = new Process(program(code));
    expect(await child.exit()).toBe(0);
    expect(child.stdout).toBe('"ENOTFOUND"\n"ENOTFOUND"\n"done"\n');
    expect(child.stderr).toBe("");
  });
});

describe("several addresses", () => {
  test("the next is tried at once when one refuses, and the error is the last one's", async () => {
    using server = listen({ port: 0 });
    const { port } = server.address;
    using near = await connect({ host: "localhost", port }); // ::1 refuses
    expect(near.remoteAddress).toEqual({ host: "127.0.0.1", port });
    server.close();
    const error = await failure(connect({ host: "LocalHost", port }));
    expect(error.message).toBe(`connect ECONNREFUSED LocalHost:${port}`);
  });

  test("the first one that answers counts, and the others are not visited", async () => {
    const [six, four] = onBoth("::1", "127.0.0.1");
    using _six = six;
    using _four = four;
    const before = sockets();
    for (let i = 0; i < 20; i++) {
      using near = await connect({ host: "localhost", port: six.address.port });
      expect(near.remoteAddress.host).toBe("::1");
      using far = await six.accept();
      expect(far.remoteAddress).toEqual(near.localAddress);
    }
    using _last = await connect({ port: four.address.port });
    using only = await four.accept();
    expect(only.remoteAddress).toEqual(_last.localAddress);
    expect(four.tryAccept()).toBeNull();
    expect(sockets().difference(before).size).toBe(2);
  });

  test("no other one is visited while the TLS handshake with the first is under way", async () => {
    const [six, four] = onBoth("::1", "127.0.0.1"); // both accept, but do not speak TLS
    using _six = six;
    using _four = four;
    const options = { host: "localhost", port: six.address.port, tls: true, timeout: 600 } as const;
    expect((await failure(connect(options))).code).toBe("ETIMEDOUT");
    using _far = await six.accept();
    expect(four.tryAccept()).toBeNull();
  });

  testPython("one that does not answer costs 250 ms", async () => {
    await using silent = fullServer("::1");
    const port = await silent.port();
    await silent.until(/full/);
    using server = listen({ port });
    const before = sockets();
    const begun = performance.now();
    using near = await connect({ host: "localhost", port });
    const took = performance.now() - begun;
    expect(took).toBeGreaterThan(200);
    expect(took).toBeLessThan(5_000); // the kernel's next try comes after 1 s, its last after 127
    expect(near.remoteAddress.host).toBe("127.0.0.1");
    using _far = await server.accept();
    expect(sockets().difference(before).size).toBe(2);
  });

  const hosts = `127.0.0.1 localhost
2001:db8::9 silent
2001:db8::8 silent
2001:db8::7 silent
10.77.0.1 silent both
2001:db8::1 both
10.77.0.9 nobody
`;

  testNetwork("in a network: the families in turn, losers called off, one visit", async () => {
    using network = new Network(hosts);
    const code = `
const server = listen({ host: "::", port: 0 });
const { port } = server.address;
const time = async (host, options) => {
  const before = sockets();
  const begun = since();
  const conn = await connect({ host, port, ...options }).catch((error) => error);
  const took = since() - begun;
  const far = conn.code ? null : await server.accept();
  await new Promise((resolve) => setImmediate(resolve));
  say(host, conn.code ?? conn.remoteAddress.host, took > 200 || host === "both", took < 5_000, sockets() - before, server.tryAccept());
  conn.close?.(); far?.close();
};
await time("both");
await time("silent");
await time("nobody", { timeout: 300 });
server.close();
say("over");`;
    await using child = network.process(program(code));
    expect(await child.exit()).toBe(0);
    expect(child.stdout).toBe(`"both" "2001:db8::1" true true 2 null
"silent" "10.77.0.1" true true 2 null
"nobody" "ETIMEDOUT" true true 0 null
"over"
`);
  });

  testNetwork("a name server that does not answer holds nobody up, within a limit", async () => {
    using network = new Network(hosts);
    const code = `
let turns = 0;
setInterval(() => turns++, 10);
const begun = since();
const error = await connect({ host: "far.example", port: 1, timeout: 300 }).catch((error) => error);
say(error.message, turns > 3, since() - begun < 3_000);
process.exit();`;
    await using child = network.process(program(code));
    expect(await child.exit()).toBe(0);
    expect(child.stdout).toBe('"connect ETIMEDOUT far.example:1" true true\n');
  });
});

describe("addresses are as people write them", () => {
  test("those of a name are tried with the families in turn, each of them once", async () => {
    const found = ["::a", "::b", "192.0.2.1", "::a", "192.0.2.2"].map((address) => ({
      address,
      family: address.includes(":") ? 6 : 4,
    }));
    const looking = spyOn(dns, "lookup").mockResolvedValue(found as any);
    expect(await lookUp({ host: "several", port: 1 })).toEqual([
      "::a",
      "192.0.2.1",
      "::b",
      "192.0.2.2",
    ]);
    expect(await lookUp({ host: "LocalHost", port: 1 })).toEqual(["::1", "127.0.0.1"]); // RFC 6761
    expect(looking).toHaveBeenCalledTimes(1);
    looking.mockRestore();
  });

  test("which of them are IPv4, and when the interface is known", () => {
    expect(["fe80::1%eth0", "::1", "192.0.2.1"].every(isNumeric)).toBe(true);
    expect(["192.0.2.256", "192.0.2", "::g", "a.example"].some(isNumeric)).toBe(false);
    expect(asWritten("::ffff:192.0.2.1")).toBe("192.0.2.1");
    expect(asWritten("::ffff:1")).toBe("::ffff:1"); // an IPv6 address like others
    expect(asWritten("fec0::1", "fe80::2%eth0")).toBe("fec0::1");
    expect(formatAddress({ host: "[::1]", port: 80 })).toBe("[::1]:80"); // as a user may have typed it
    const on = (...names: string[]) =>
      spyOn(os, "networkInterfaces").mockReturnValueOnce(
        Object.fromEntries(names.map((name) => [name, [{ address: "fe80::5" } as any]])),
      );
    for (const [names, written] of [
      [["near"], "fe80::1%near"],
      [["near", "far"], "fe80::1"], // it could be either interface: VLANs may share an address
      [[], "fe80::1"],
    ] as [string[], string][]) {
      const interfaces = on(...names);
      expect(asWritten("fe80::1", "", "fe80::5")).toBe(written);
      interfaces.mockRestore();
    }
  });

  test("IPv6 in brackets", async () => {
    using server = listen({ host: "[::1]", port: 0 });
    expect(server.address.host).toBe("::1");
    using near = await connect({ host: "[::1]", port: server.address.port });
    expect(near.remoteAddress).toEqual(server.address);
    server.close();
    const error = await failure(connect({ host: "[::1]", port: server.address.port }));
    expect(error.message).toBe(`connect ECONNREFUSED [::1]:${server.address.port}`);
  });

  test("an IPv4 peer of a server for both families has its IPv4 address", async () => {
    using server = listen({ host: "::", port: 0 });
    for (const host of ["127.0.0.1", "::1"]) {
      using near = await connect({ host, port: server.address.port });
      using far = await server.accept();
      expect(far.remoteAddress).toEqual(near.localAddress);
      expect(far.localAddress).toEqual(near.remoteAddress);
      expect(near.remoteAddress.host).toBe(host);
    }
  });

  test("ipv6Only leaves IPv4 to others", async () => {
    using server = listen({ host: "::", port: 0, ipv6Only: true });
    const { port } = server.address;
    expect((await failure(connect({ port }))).code).toBe("ECONNREFUSED");
    using _near = await connect({ host: "::1", port });
    using _beside = listen({ host: "0.0.0.0", port });
  });

  test("a server's --host ::1, and --host :: for both", async () => {
    for (const [host, clients] of [
      ["::1", ["::1", "[::1]", "localhost"]],
      ["::", ["::1", "127.0.0.1", "localhost"]],
    ] as const) {
      await using server = script("echo-threaded-server", ["--host", host, "--port", "0"]);
      const port = `${await server.port()}`;
      expect(server.stdout).toBe(`listening on [${host}]:${port}\n`);
      for (const to of clients) {
        const args = ["--host", to, "--port", port, "--message", "hello"];
        await using client = script("echo-client", args);
        expect(await client.exit(), client.stderr).toBe(0);
        expect(client.stdout).toBe(">hello\n");
      }
    }
  });

  test("localhost: a server takes 127.0.0.1, a client finds either", async () => {
    using four = listen({ host: "localhost", port: 0 });
    expect(four.address.host).toBe("127.0.0.1");
    using six = listen({ host: "::1", port: 0 });
    for (const { port } of [four.address, six.address]) {
      using _conn: Socket = await connect({ host: "localhost", port });
    }
  });

  testNetwork("a link-local address keeps its interface", async () => {
    using network = new Network();
    const code = `
for (const host of ["fe80::5%near", "::"]) {
  const server = listen({ host, port: 0 });
  const near = await connect({ host: "fe80::5%near", port: server.address.port });
  const far = await server.accept();
  say(server.address.host, ...[near, far].flatMap((end) => [end.localAddress.host, end.remoteAddress.host]));
  near.close(); far.close(); server.close();
}`;
    await using child = network.process(program(code));
    expect(await child.exit()).toBe(0);
    const ends = Array(4).fill('"fe80::5%near"').join(" ");
    expect(child.stdout).toBe(`"fe80::5%near" ${ends}\n"::" ${ends}\n`);
  });
});

test("out of descriptors is EMFILE, to connect and to listen", async () => {
  const code = `
import { openSync } from "node:fs";
const { port } = listen({ port: 0 }).address;
await connect({ port, timeout: 1_000 }); // whatever the first one loads
const taken = [];
try { for (;;) taken.push(openSync("/dev/null")); } catch {}
const tell = (error) => say(error.message.replace(port, "PORT"));
await connect({ port }).catch(tell);
await connect({ port, timeout: 1_000 }).catch(tell);
await connect({ host: "localhost", port }).catch(tell);
await connect({ host: "some.name.invalid", port }).catch(tell);
try { listen({ port: 0 }) } catch (error) { tell(error) }
process.exit();`;
  const limited = ["bash", "--norc", "-c", 'ulimit -n 64; exec "$0" "$@"', ...program(code)];
  await using child = new Process(limited);
  expect(await child.exit()).toBe(0);
  expect(child.stdout.split("\n")).toEqual([
    '"connect EMFILE 127.0.0.1:PORT"',
    '"connect EMFILE 127.0.0.1:PORT"',
    '"connect EMFILE localhost:PORT"',
    '"connect EMFILE some.name.invalid:PORT"',
    '"listen EMFILE 127.0.0.1:0"',
    "",
  ]);
});
