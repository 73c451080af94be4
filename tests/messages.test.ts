// The message server and client, with each framing.

import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect, listen } from "../lib/socket.ts";
import { fails, failure, PATIENCE_MS, python, recvAll, script, testPython } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

describe("message-server and message-client", () => {
  test.each([[[]], [["--framing", "fixed"]], [["--framing", "delimited"]]])(
    "%p",
    async (flags: string[]) => {
      await using server = script("message-server", ["--port", "0", ...flags]);
      const port = await server.port();
      await using client = script("message-client", ["--port", `${port}`, ...flags]);
      expect(await client.exit()).toBe(0);
      expect(client.stdout).toMatch(/^(\d+ bytes there and back: ".*"\n){3,4}$/);
      await using one = script("message-client", [
        "--port",
        `${port}`,
        "--message",
        "하나",
        ...flags,
      ]);
      expect(await one.exit()).toBe(0);
      expect(one.stdout).toMatch(/^\d+ bytes there and back: "하나 *"\n$/);
      expect(server.stderr).toBe("");
    },
  );

  test("a message that cannot be sent, and a reply that differs, are told; exit 1", async () => {
    await using server = script("message-server", ["--port", "0", "--framing=fixed", "--bytes=4"]);
    const args = ["--port", `${await server.port()}`, "--framing=fixed", "--bytes=4"];
    await using long = script("message-client", [...args, "--message", "too long"]);
    expect(await long.exit()).toBe(1);
    expect(long.stderr).toMatch(/^error: .*message too long\n$/);

    const cut = ["--port", args[1]!, "--framing=delimited", "--message", "two\nlines"];
    await using split = script("message-client", cut);
    expect(await split.exit()).toBe(1);
    expect(split.stderr).toMatch(
      /^error: connection with 127\.0\.0\.1:\d+: the message holds the delimiter\n$/,
    );

    const korean = `abc${"가".repeat(40)}`; // with its newline, whole units of the server's 4 bytes
    await using part = script("message-client", [...cut.slice(0, 3), "--message", korean]);
    expect(await part.exit()).toBe(0);
    expect(part.stdout).toBe(`123 bytes there and back: "abc${"가".repeat(27)}"\n`);

    using odd = listen({ port: 0 });
    await using client = script("message-client", ["--port", `${odd.address.port}`]);
    using conn = await odd.accept();
    await conn.recvExactly(9);
    await conn.sendAll("\0\0\0\x05HELLO");
    expect(await client.exit()).toBe(1);
    expect(client.stderr).toBe("error: a different message came back\n");
  });

  test("a length that lies, and a stream cut inside a message, end their connection", async () => {
    await using server = script("message-server", ["--port", "0"]);
    const port = await server.port();
    using liar = await connect({ port });
    await liar.sendAll(Uint8Array.of(0x7f, 0xff, 0xff, 0xff));
    await fails(recvAll(liar), "ECONNRESET");
    await server.until(/^warning: connection with .*: message too long\n/m, "stderr");
    using cut = await connect({ port });
    await cut.sendAll("\0\0\0\x05hel");
    cut.shutdown("write");
    await fails(recvAll(cut), "ECONNRESET");
    await server.until(/^warning: .*: closed before all of the data had come\n/m, "stderr");
    await using client = script("message-client", ["--port", `${port}`]);
    expect(await client.exit()).toBe(0);
  });

  test.each([
    ["fixed", ["--bytes", "1000"]],
    ["delimited", []],
    ["length", []],
  ])("%s: a message that has begun is whole within --idle-timeout", async (framing, more) => {
    const args = ["--port", "0", "--framing", framing, ...more, "--idle-timeout", "1"];
    await using server = script("message-server", args);
    using conn = await connect({ port: await server.port() });
    const ended = failure(recvAll(conn));
    await conn.sendAll("\0\0\u0003"); // the beginning of a length, or of a text
    // A byte now and then keeps the connection from being idle, but not the message from being late.
    for (let over = false; !over;) {
      await conn.sendAll("x").catch(() => {});
      over = await Promise.race([ended.then(() => true), Bun.sleep(100).then(() => false)]);
    }
    expect((await ended).code).toBe("ECONNRESET");
    expect(server.stderr).toMatch(/^warning: connection with .*: connection timed out\n$/);
  });

  testPython("--max-buffered: above it, messages become whole one after another", async () => {
    await using server = script("message-server", ["--port", "0", "--max-buffered", "8"]);
    // Fifty clients send a mebibyte each, at the same moment, and read what comes back.
    await using clients = python(
      `
frame = struct.pack(">I", 1 << 20) + b"x" * (1 << 20)
def talk():
    c = connect(sys.argv[1]); together.wait()
    sender = threading.Thread(target=c.sendall, args=(frame,)); sender.start()
    got = b""
    while len(got) < len(frame) and (chunk := c.recv(65536)): got += chunk
    whole.append(got == frame); sender.join()
together = threading.Barrier(50); whole = []
threads = [threading.Thread(target=talk) for _ in range(50)]
for t in threads: t.start()
for t in threads: t.join()
print("whole", whole.count(True))`,
      await server.port(),
    );
    expect((await clients.until(/whole (\d+)\n/))[1]).toBe("50");
    expect(server.stderr).toBe("");
  });

  testPython("who sends and does not receive has to wait, and costs little", async () => {
    await using server = script("message-server", ["--port", "0"]);
    await using flood = python(
      `
conn = connect(sys.argv[1]); conn.settimeout(0.5); sent = 0
frame = struct.pack(">I", 65536) + b"x" * 65536
try:
    while sent < 64 << 20: sent += conn.send(frame[sent % len(frame):])
except TimeoutError: pass
print("sent", sent)`,
      await server.port(),
    );
    const [, sent] = await flood.until(/sent (\d+)\n/);
    expect(Number(sent)).toBeLessThan(32 << 20); // what the kernels' buffers hold, and a message
  });

  testPython("with CPython on the other side", async () => {
    await using server = script("message-server", [
      "--port",
      "0",
      "--framing",
      "fixed",
      "--bytes",
      "8",
    ]);
    await using theirs = python(
      `
conn = connect(sys.argv[1])
conn.sendall(b"12345678abcd"); conn.sendall(b"efgh")
print("got", conn.recv(16, socket.MSG_WAITALL))`,
      await server.port(),
    );
    await theirs.until(/got b'12345678abcdefgh'\n/);

    await using python3 = python(`
conn, _ = listen().accept()
while prefix := conn.recv(4, socket.MSG_WAITALL):
    conn.sendall(prefix)
    for byte in conn.recv(struct.unpack("!I", prefix)[0], socket.MSG_WAITALL): conn.send(bytes([byte]))`);
    const port = `${await python3.port()}`;
    await using client = script("message-client", ["--port", port, "--message", "조각조각"]);
    expect(await client.exit()).toBe(0);
  });
});
