// Every script as a real process, against its partner, against CPython, and against bad input.

import { existsSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { describe, expect, test, setDefaultTimeout } from "bun:test";

import { connect, listen, type Socket } from "../lib/socket.ts";
import {
  echoes,
  failure,
  pattern,
  Process,
  python,
  recvAll,
  script,
  scripts,
  testPython,
  PATIENCE_MS,
  untilRefused,
  turn,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const servers = scripts.filter((name) => /server$|receiver$/.test(name));
const clients = scripts.filter((name) => /client$|sender$/.test(name));

// A client as the tutorials write it: one send, one recv; or line after line.
const pythonClient = `
conn = connect(sys.argv[1])
for text in sys.argv[2:]:
    conn.sendall(text.encode())
    got = b""
    while len(got) < len(text.encode()): got += conn.recv(1024)
    print("got", got.decode(), flush=True)
conn.close()`;

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
    rude.reset(); // accepted by now, or not: one or the other, the next one is served
    await using client = script("echo-client", ["--port", `${port}`, "--message", "still there"]);
    expect(await client.exit()).toBe(0);
    server.kill("SIGTERM");
    expect(await server.exit()).toBe(0);
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

describe("weather-receiver and weather-sender", () => {
  const readings = ["15", "22", "21", "26", "25", "19"];

  test("print what is documented", async () => {
    await using receiver = script("weather-receiver", ["--port", "0"]);
    const port = await receiver.port();
    await using sender = script("weather-sender", ["--port", `${port}`, "--interval", "0.01"]);
    expect(await sender.exit()).toBe(0);
    const [first, ...data] = sender.stdout.trimEnd().split("\n");
    expect(first).toMatch(/^connecting to \S+ \(\S+\) with \d+\.\d+\.\d+\.\d+$/);
    expect(data).toEqual(readings.map((reading) => `data: ${reading}`));

    await receiver.until(/no more data\.\n/);
    const lines = receiver.stdout.trimEnd().split("\n");
    expect(lines[0]).toMatch(/^working on \S+ \(\S+\) with \d+\.\d+\.\d+\.\d+$/);
    expect(lines[1]).toMatch(/^starting up on \d+\.\d+\.\d+\.\d+ port 0$/);
    expect(lines[2]).toMatch(/^listening on /);
    expect(lines[3]).toBe("waiting for a connection");
    expect(lines[4]).toMatch(/^connection from \d+\.\d+\.\d+\.\d+:\d+$/);
    expect(lines.filter((line) => line.startsWith("Data: "))).toEqual(
      readings.map((reading) => `Data: temperature: ${reading}`),
    );
    expect(lines.at(-1)).toBe("no more data.");
  });

  test("whole readings, however they arrive; many sensors at once; the last without newline", async () => {
    await using receiver = script("weather-receiver", ["--port", "0", "--host", "127.0.0.1"]);
    const port = await receiver.port();
    using silent = await connect({ port });
    using sensor = await connect({ port });
    const sent = Array.from({ length: 40 }, (_, i) => `temperature: ${i}°`);
    const bytes = Buffer.from(sent.join("\n"));
    for (const byte of bytes) await sensor.sendAll(Uint8Array.of(byte));
    sensor.shutdown("write");
    await receiver.until(/no more data\./);
    const data = receiver.stdout.split("\n").filter((line) => line.startsWith("Data: "));
    expect(data).toEqual(sent.map((line) => `Data: ${line}`));
    silent.reset();
    await receiver.until(/warning: connection with .*: connection reset by peer/, "stderr");
  });

  test("a reading without end ends its connection, with one line", async () => {
    await using receiver = script("weather-receiver", ["--port", "0", "--host", "127.0.0.1"]);
    using sensor = await connect({ port: await receiver.port() });
    sensor.sendAll("x".repeat(1 << 20)).catch(() => {});
    await receiver.until(/^warning: connection with .* over 1024 characters$/m, "stderr");
    await failure(recvAll(sensor)).catch(() => {});
  });

  test("--readings; a value that is no number is named", async () => {
    await using receiver = script("weather-receiver", ["--port", "0"]);
    const args = ["--port", `${await receiver.port()}`, "--interval", "0", "--readings"];
    await using sender = script("weather-sender", [...args, "15,-2.5"]);
    expect(await sender.exit()).toBe(0);
    await receiver.until(/Data: temperature: 15\nData: temperature: -2\.5\nno more data\./);
    await using wrong = script("weather-sender", [...args, "15,warm"]);
    expect(await wrong.exit()).toBe(2);
    expect(wrong.stderr).toMatch(/^error: --readings .*"15,warm"\n$/);
  });

  testPython("each with CPython on the other side", async () => {
    await using receiver = script("weather-receiver", ["--port", "0", "--host", "127.0.0.1"]);
    await using theirs = python(
      `
conn = connect(sys.argv[1])
for reading in (3, 4): conn.sendall(f"temperature: {reading}\\n".encode())
conn.close()`,
      await receiver.port(),
    );
    expect(await theirs.exit()).toBe(0);
    await receiver.until(/Data: temperature: 3\nData: temperature: 4\nno more data\./);

    await using python3 = python(`
conn, _ = listen(1).accept()
print("got", recv_all(conn)); conn.close()`);
    const args = ["--host", "127.0.0.1", "--port", `${await python3.port()}`, "--interval", "0"];
    await using sender = script("weather-sender", [...args, "--readings", "1,2"]);
    expect(await sender.exit()).toBe(0);
    await python3.until(/got b'temperature: 1\\ntemperature: 2\\n'/);
  });

  test("a station that closes in between is noticed, not only the second reading after", async () => {
    await using receiver = script("weather-receiver", ["--port", "0", "--host", "127.0.0.1"]);
    const port = `${await receiver.port()}`;
    const args = ["--host", "127.0.0.1", "--port", port, "--interval", "2", "--readings", "1,-2"];
    await using sender = script("weather-sender", args);
    await receiver.until(/Data: temperature: 1\n/);
    receiver.kill("SIGKILL");
    expect(await sender.exit()).toBe(1);
    expect(sender.stderr).toBe("error: the station has closed the connection\n");
    expect(sender.stdout).not.toContain("data: -2");
  });

  testPython("a receiver that dies on the way is noticed", async () => {
    await using python3 = python(`
conn, _ = listen(1).accept()
conn.recv(64); reset(conn)`);
    const args = ["--host", "127.0.0.1", "--port", `${await python3.port()}`, "--interval", "0.1"];
    await using sender = script("weather-sender", args);
    expect(await sender.exit()).toBe(1);
    expect(sender.stderr).toMatch(/^error: (the station|connection with 127\.0\.0\.1:\d+: ).*\n$/);
  });
});

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
      await using server = script("reply-threaded-server", ["--port", "0", ...mode]);
      const port = await server.port();
      expect(server.stdout).toStartWith("Server is running...\n");
      using conn = await connect({ port });
      await server.until(
        new RegExp(`^Client connected: 127.0.0.1:${conn.localAddress.port}$`, "m"),
      );
      for (const text of ["hello", "한국어"]) {
        await conn.sendAll(text);
        const want = `Received: ${text}`;
        expect(String(await conn.recvExactly(Buffer.byteLength(want)))).toBe(want);
      }
    });

    testPython("lines that threads print stay whole, however slowly they are read", async () => {
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

    test("SIGTERM with clients connected: they may finish, then exit 0", async () => {
      await using server = script("echo-threaded-server", ["--port", "0", ...mode]);
      const port = await server.port();
      using conn = await connect({ port });
      await conn.sendAll("before");
      await conn.recvExactly(6);
      server.kill("SIGTERM");
      await untilRefused(port);
      await conn.sendAll("after");
      expect(String(await conn.recvExactly(5))).toBe("after");
      conn.shutdown("write");
      expect((await conn.recv(1)).length).toBe(0);
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

describe("http-server and http-client", () => {
  const curl = Bun.which("curl") === null ? test.skip : test;

  /** Sends raw bytes, and gives the whole reply. */
  async function ask(port: number, request: string): Promise<string> {
    using conn = await connect({ port });
    const sending = conn.sendAll(request).catch(() => {}); // it may be cut off
    const reply = String(await recvAll(conn));
    await sending;
    return reply;
  }

  test("the client prints the body, tells the status, and half-closes after its request", async () => {
    await using server = script("http-server", ["--port", "0"]);
    const port = await server.port();
    await using client = script("http-client", ["--port", `${port}`, "--path", "/a?<b>"]);
    expect(await client.exit()).toBe(0);
    expect(client.stderr).toBe("200 OK\n");
    expect(client.stdout).toContain("<title>200 OK</title>");
    expect(client.stdout).toContain("GET /a?&lt;b&gt; HTTP/1.0\r\n");
    await using wrong = script("http-client", ["--path", "no slash"]);
    expect(await wrong.exit()).toBe(2);
    expect(wrong.stderr).toMatch(/^error: --path .*"no slash"\n$/);
  });

  curl("curl gets a page, a head, and is told what is not for here", async () => {
    await using server = script("http-server", ["--port", "0"]);
    const url = `http://127.0.0.1:${await server.port()}/page`;
    const run = async (...args: string[]) => {
      await using process = new Process(["curl", "-sS", "--max-time", "20", ...args, url]);
      expect(await process.exit()).toBe(0);
      return process.stdout;
    };
    expect(await run("-i")).toMatch(/^HTTP\/1\.1 200 OK\r\n.*<title>200 OK<\/title>/s);
    const head = await run("-I");
    expect(head).toStartWith("HTTP/1.1 200 OK\r\n");
    expect(head).toMatch(/^Content-Length: [1-9]/m);
    const code = ["-o", "/dev/null", "-w", "%{http_code}"];
    expect(await run(...code, "-d", "x".repeat(100_000))).toBe("405");
    expect(await run(...code, "-H", `X: ${"x".repeat(20_000)}`)).toBe("431");
    expect(await run(...code, "-X", "BREW")).toBe("405");
  });

  test("refuses what is malformed or too long, in bounded memory, and goes on", async () => {
    await using server = script("http-server", ["--port", "0"]);
    const port = await server.port();
    for (const [request, status] of [
      ["nonsense\r\n\r\n", 400],
      ["GET / HTTP/9.9\r\n\r\n", 400],
      ["GET /\r\n\r\n", 400],
      ["get / http/1.1\r\n\r\n", 400],
      ["GET / HTTP/1.1\r\nno colon\r\n\r\n", 400],
      ["GET / HTTP/1.1\r\nbad name: x\r\n\r\n", 400],
      ["\0\0\0\r\n\r\n", 400],
      ["POST / HTTP/1.1\r\n\r\n", 405],
      ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200],
      ["HEAD / HTTP/1.0\r\n\r\n", 200],
      [`GET /${"x".repeat(1 << 20)}`, 431],
      [`GET / HTTP/1.1\r\n${"X: y\r\n".repeat(1 << 20)}`, 431],
      [`GET /${"x".repeat(16 * 1024 - 14)} HTTP/1.1\r\n\r\n`, 200], // 16 KiB, and no more
      [`GET /${"x".repeat(16 * 1024 - 13)} HTTP/1.1\r\n\r\n`, 431],
    ] as const) {
      expect(await ask(port, request)).toStartWith(`HTTP/1.1 ${status} `);
    }
    using cut = await connect({ port });
    await cut.sendAll("GET / HTTP/1.1\r\nHos");
    cut.shutdown("write");
    expect(String(await recvAll(cut))).toStartWith("HTTP/1.1 400 ");
    using silent = await connect({ port });
    silent.shutdown("write");
    expect(await recvAll(silent)).toHaveLength(0);
    expect(server.stderr).toBe("");
  });

  testPython("CPython's http.client gets the page, one byte at a time too", async () => {
    await using server = script("http-server", ["--port", "0"]);
    await using client = python(
      `
import http.client
c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1])); c.request("GET", "/py", headers={"X-Y": "z"})
r = c.getresponse(); print(r.status, r.getheader("content-length"), len(r.read()))
s = connect(sys.argv[1]); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for b in b"GET /slow HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n": s.send(bytes([b]))
print("slow", recv_all(s)[:15])`,
      await server.port(),
    );
    const [, header, body] = await client.until(/200 (\d+) (\d+)\n/);
    expect(header).toBe(body!);
    await client.until(/slow b'HTTP\/1\.1 200 OK'\n/);
  });

  testPython("our client with CPython's http.server, and with servers that misbehave", async () => {
    await using server = python(`
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ok" else 404); self.end_headers()
        self.wfile.write("본문 ".encode() * 50000)
    def log_message(self, *args): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(s.server_address[1]); s.serve_forever()`);
    const port = `${await server.port()}`;
    await using ok = script("http-client", ["--port", port, "--path", "/ok"]);
    expect(await ok.exit()).toBe(0);
    expect(ok.stdout === "본문 ".repeat(50_000)).toBe(true);
    expect(ok.stderr).toBe("200 OK\n");
    await using missing = script("http-client", ["--port", port, "--path", "/missing"]);
    expect(await missing.exit()).toBe(1);
    expect(missing.stderr).toBe("404 Not Found\n");

    for (const [reply, told] of [
      ["220 mail.example ESMTP\\r\\n", "did not answer in HTTP"],
      ["HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nshort", "sent 5 of 100 bytes"],
      ["", "did not answer in HTTP"],
    ]) {
      await using odd = python(`
conn, _ = listen().accept(); recv_all(conn); conn.sendall(b"${reply}"); conn.close()`);
      await using client = script("http-client", ["--port", `${await odd.port()}`]);
      expect(await client.exit()).toBe(1);
      expect(client.stderr).toContain(`error: 127.0.0.1:${await odd.port()} ${told}\n`);
    }
  });
});

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
    expect(await recvAll(liar)).toHaveLength(0);
    await server.until(/^warning: connection with .*: message too long\n/m, "stderr");
    using cut = await connect({ port });
    await cut.sendAll("\0\0\0\x05hel");
    cut.shutdown("write");
    expect(await recvAll(cut)).toHaveLength(0);
    await server.until(/^warning: .*: closed before all of the data had come\n/m, "stderr");
    await using client = script("message-client", ["--port", `${port}`]);
    expect(await client.exit()).toBe(0);
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

describe("echo-bench", () => {
  test("measures, closed and open loop, and compares every byte", async () => {
    await using server = script("echo-threaded-server", ["--port", "0"]);
    const port = `${await server.port()}`;
    for (const load of [
      ["--size", "100"],
      ["--size", "300000", "--pipeline", "3"],
      ["--rate", "500"],
    ]) {
      const args = ["--port", port, "--connections", "5", "--seconds", "0.3", "--json", ...load];
      await using bench = script("echo-bench", args);
      expect(await bench.exit(), bench.stderr).toBe(0);
      const result = JSON.parse(bench.stdout);
      expect(result.messages).toBeGreaterThan(0);
      expect(result.unanswered).toBe(0);
      const { p50, p90, p99, p999, max } = result.ms;
      expect([p50, p90, p99, p999, max]).toEqual([p50, p90, p99, p999, max].sort((a, b) => a - b));
    }
    await using told = script("echo-bench", ["--port", port, "--seconds", "1.1"]);
    expect(await told.exit()).toBe(0);
    expect(told.stdout).toMatch(
      /^\d+ messages\/s, .*\np50 .*p999 .*max .*ms\n( +[\d.]+ ms {2}#+ .*%\n)+$/,
    );
    expect(told.stderr).toMatch(/^1 s {2}\d+ messages\/s\n/);
  });

  test("a server that changes a byte, repeats, closes, or does not answer is not let through", async () => {
    const serveWith = async (answer: (conn: Socket) => Promise<unknown>) => {
      using server = listen({ port: 0 });
      const args = ["--port", `${server.address.port}`, "--connections", "1", "--seconds", "0.2"];
      await using bench = script("echo-bench", args);
      using conn = await server.accept();
      await answer(conn);
      expect(await bench.exit()).toBe(1);
      return bench.stderr;
    };
    const wrong = async (conn: Socket) => {
      const message = await conn.recvExactly(1000);
      message[500]! ^= 1;
      await conn.sendAll(message);
    };
    expect(await serveWith(wrong)).toBe("error: other bytes came back\n");
    const repeats = async (conn: Socket) => {
      const message = await conn.recvExactly(1000);
      await conn.sendAll(Buffer.concat([message, message]));
    };
    expect(await serveWith(repeats)).toBe("error: more came back than was sent\n");
    const closes = async (conn: Socket) => (await conn.recvExactly(1000)) && conn.close();
    expect(await serveWith(closes)).toBe("error: the server has closed a connection\n");
    expect(await serveWith(async () => {})).toMatch(/error: 1 messages were not answered\n$/);
  });

  test("a signal ends it before its time, with what was measured until then", async () => {
    await using server = script("echo-threaded-server", ["--port", "0"]);
    const args = ["--port", `${await server.port()}`, "--seconds", "60"];
    await using bench = script("echo-bench", args);
    await bench.until(/^1 s {2}\d+ messages\/s\n/, "stderr");
    bench.kill("SIGINT");
    expect(await bench.exit()).toBe(0);
    expect(bench.stdout).toMatch(/^[1-9]\d* messages\/s, .*\np50 /);
  });

  test("a server that stalls is not flattered: time counts from when a message was due", async () => {
    using server = listen({ port: 0 });
    const args = [
      "--port",
      `${server.address.port}`,
      "--connections=1",
      "--size=100",
      "--rate=200",
    ];
    await using bench = script("echo-bench", [...args, "--seconds=1", "--json"]);
    using conn = await server.accept();
    await conn.sendAll(await conn.recvExactly(100));
    await Bun.sleep(600); // the stall: some 120 messages come due in it
    for await (const chunk of conn) await conn.sendAll(chunk);
    expect(await bench.exit()).toBe(0);
    const { ms, messages } = JSON.parse(bench.stdout);
    expect(messages).toBeGreaterThan(150);
    expect(ms.p90).toBeGreaterThan(100);
    expect(ms.max).toBeGreaterThan(550);
  });
});

describe("the benchmark", () => {
  test.if(process.platform === "linux")("leaves nothing running when it is stopped", async () => {
    const flags = ["--loads=1x100", "--parts=echo", "--seconds=60", "--only=recv"];
    await using bench = new Process([process.execPath, "bench/run.ts", ...flags]);
    await bench.until(/medians of/);
    const children = `/proc/${bench.pid}/task/${bench.pid}/children`;
    const peers = () => readFileSync(children, "utf8").trim().split(" ").filter(Boolean);
    let started: string[] = [];
    while (started.length < 2) {
      await turn();
      started = peers(); // the server and its load
    }
    bench.kill("SIGTERM");
    expect(await bench.exit()).toBe(1);
    const runs = (pid: string) => existsSync(`/proc/${pid}/exe`);
    while (started.some(runs)) await turn();
  });

  test.if(process.platform === "linux")(
    "every part of it measures, and wrong flags are named",
    async () => {
      const run = (...flags: string[]) => new Process([process.execPath, "run", "bench", ...flags]);
      const short = [
        "--loads=2x100",
        "--rounds=1",
        "--seconds=0.2",
        "--idle=20",
        "--only=for await",
      ];
      await using bench = run(...short);
      expect(await bench.exit(), bench.stderr).toBe(0);
      const rows = (name: string) =>
        bench.stdout.split("\n").filter((line) => line.startsWith(`| ${name} |`));
      const measured = /^\|[^|]+\| \d+\.\d\d µs \| \S+ \| .* \| [1-9]\d* \| .* ms \| .* MiB \|$/;
      for (const name of ["bare Bun.listen", "lib, for await"]) {
        const [echo, rate, proxy, start, idle] = rows(name);
        for (const row of [echo, rate, proxy]) expect(row).toMatch(measured);
        expect(start).toMatch(/ \d+\.\d ms \|$/);
        expect(idle).toMatch(/ -?\d+\.\d\d KiB \|$/);
      }
      const [selects, more] = [
        rows("100 idle connections beside them"),
        rows("2000 idle connections beside them"),
      ];
      expect(selects.length).toBe(3);
      for (const row of [...selects, ...more]) expect(row).toMatch(measured);

      await using wrongLoad = run("--loads=50");
      expect(await wrongLoad.exit()).toBe(2);
      expect(wrongLoad.stderr).toContain(
        'error: --loads takes connections x bytes, as 50x1000, not "50"\n',
      );
      await using wrongPeer = run("--only=nobody");
      expect(await wrongPeer.exit()).toBe(2);
      expect(wrongPeer.stderr).toContain('error: --only: no peer\'s name holds "nobody"\n');
      await using wrongPart = run("--loads=1x1", "--parts=ecko");
      expect(await wrongPart.exit()).toBe(2);
      expect(wrongPart.stderr).toContain('error: --parts: there is no "ecko"');
    },
    60_000,
  );
});

describe("the scripts that need no partner", () => {
  test("byte-order shows the bytes, and refuses what is no 32-bit number", async () => {
    await using one = script("byte-order", ["--number", "258"]);
    expect(await one.exit()).toBe(0);
    expect(one.stdout).toMatch(/258 in 16 bits: host order (02 01|01 02), network order 01 02\n/);
    expect(one.stdout).toMatch(/258 in 32 bits: host order .*, network order 00 00 01 02\n/);
    expect(one.stdout).toContain("00 00 01 02 on the wire, read with ntohl: 258\n");
    await using large = script("byte-order", ["--number", "4294967296"]);
    expect(await large.exit()).toBe(2);
    expect(large.stderr).toMatch(/^error: --number .*"4294967296"\n$/);
  });

  test("ipc: two processes, over loopback and over a file that is gone afterwards", async () => {
    await using ipc = script("ipc");
    expect(await ipc.exit()).toBe(0);
    expect(ipc.stderr).toBe("");
    const lines = ipc.stdout.trimEnd().split("\n");
    expect(lines).toHaveLength(4);
    const [, partner] = lines[0]!.match(/^127\.0\.0\.1:\d+: "hello from process (\d+)"/) ?? [];
    expect(Number(partner)).not.toBe(ipc.pid);
    const [, file] = lines[2]!.match(/^(\/.*): "hello from process \d+"/) ?? [];
    expect(existsSync(dirname(file!))).toBe(false);
  });

  test("silent-peer: what hangs, what a timeout finds, what keep-alive does not", async () => {
    await using silent = script("silent-peer", ["--wait", "0.05"]);
    expect(await silent.exit()).toBe(0);
    expect(silent.stderr).toBe("");
    expect(silent.stdout).toMatch(
      /"I am here".*stopped.*recv: nothing.*send: no error.*keep-alive: still open.*setTimeout: ETIMEDOUT.*died: recv gives (EOF|ECONNRESET)/s,
    );
  });

  test("duplex: one way, in turns, both at once", async () => {
    await using duplex = script("duplex", ["--bytes", "20000000"]);
    expect(await duplex.exit()).toBe(0);
    expect(duplex.stderr).toBe("");
    expect(duplex.stdout).toMatch(
      /^simplex: .*\n(half duplex: .*\n){2}full duplex: 20000000 bytes/,
    );
    expect(duplex.stdout).toEndWith('received "far may still talk"\n');
  });
});

describe("every script", () => {
  test.each(scripts)("%s --help tells what it is, its terminals and its flags", async (name) => {
    await using process = script(name, ["--help"]);
    expect(await process.exit()).toBe(0);
    expect(process.stdout).toContain(`bun run scripts/${name}.ts`);
    if (!["copy", "echo-bench"].includes(name)) expect(process.stdout).toMatch(/tutorial 00\d/);
    expect(process.stdout).toMatch(/^ {2}--help +this text$/m);
    expect(process.stderr).toBe("");
  });

  test.each(scripts)(
    "%s refuses wrong flags and arguments with one line and exit 2",
    async (name) => {
      for (const [args, named] of [
        [["--no-such-flag"], "--no-such-flag"],
        [["stray"], "stray"],
      ] as const) {
        const words = name === "copy" ? ["echo-server", "folder"] : [];
        await using process = script(name, [...words, ...args]);
        expect(await process.exit()).toBe(2);
        expect(process.stderr).toMatch(/^error: [^\n]*\n$/);
        expect(process.stderr).toContain(named);
        expect(process.stdout).toBe("");
      }
    },
  );

  test.each([...servers, ...clients])("%s names a port that is none", async (name) => {
    for (const port of ["80.5", "abc", "65536", "", "-1"]) {
      await using process = script(name, [`--port=${port}`]);
      expect(await process.exit()).toBe(2);
      expect(process.stderr).toMatch(/^error: --port [^\n]*\n$/);
    }
  });
});

testPython(
  "on a terminal, the other side has a colour, and cannot command the terminal",
  async () => {
    // CPython gives the client a terminal of its own, and shows what came out there.
    const onTerminal = (port: number, ...env: string[]) =>
      python(
        `
import os, pty, subprocess
near, far = pty.openpty()
env = {**os.environ, **dict(word.split("=") for word in sys.argv[3:])}
if "NO_COLOR=" in sys.argv: del env["NO_COLOR"]
run = [sys.argv[2], "run", "scripts/echo-client.ts", "--port", sys.argv[1], "--message", "hi \\x1b[2J"]
subprocess.run(run, stdout=far, env=env)
print(repr(os.read(near, 1000)))`,
        port,
        process.execPath,
        ...env,
      );
    await using server = script("echo-server", ["--port", "0", "--forever"]);
    const port = await server.port();
    await using coloured = onTerminal(port, "NO_COLOR=");
    await coloured.until(/b'>\\x1b\[36mhi \\xef\\xbf\\xbd\[2J\\x1b\[39m\\r\\n'\n/);
    await using plain = onTerminal(port, "NO_COLOR=1");
    await plain.until(/b'>hi \\xef\\xbf\\xbd\[2J\\r\\n'\n/);
    await using piped = script("echo-client", ["--port", `${port}`, "--message", "hi \x1b[2J"]);
    expect(await piped.exit()).toBe(0);
    expect(piped.stdout).toBe(">hi \x1b[2J\n");
  },
);

test("flags take the next word, as everywhere; numbers have limits", async () => {
  for (const [name, args, told] of [
    ["echo-client", ["--port", "-1"], '--port must be a whole number from 1 to 65535, not "-1"'],
    [
      "select-server",
      ["--timeout", "3000000"],
      '--timeout must be a number of seconds .*"3000000"',
    ],
    ["echo-threaded-server", ["--threads", "5000"], '--threads must be .* 1 to 1024, not "5000"'],
    ["weather-sender", ["--readings", "-5,x"], '--readings must be numbers .*"-5,x"'],
    ["echo-client", ["--port"], "Option '--port <value>' argument missing"],
  ] as const) {
    await using process = script(name, [...args]);
    expect(await process.exit()).toBe(2);
    expect(process.stderr).toMatch(new RegExp(`^error: ${told}.*\n$`));
  }
  await using server = script("echo-server", ["--port", "0"]);
  const port = `${await server.port()}`;
  await using client = script("echo-client", ["--port", port, "--message", "--not-a-flag"]);
  expect(await client.exit()).toBe(0);
  expect(client.stdout).toBe(">--not-a-flag\n");
  await using helped = script("echo-server", ["--port", "abc", "--help"], { PORT: "abc" });
  expect(await helped.exit()).toBe(0);
});

describe("every server", () => {
  test.each(servers)(
    "%s takes HOST and PORT from the environment, flags before them",
    async (name) => {
      await using byEnv = script(name, [], { HOST: "127.0.0.1", PORT: "0" });
      await byEnv.until(/^listening on 127\.0\.0\.1:\d+$/m);
      await using byFlag = script(name, ["--port", "0", "--host", "localhost"], {
        HOST: "192.0.2.1",
        PORT: "abc",
      });
      await byFlag.until(/^listening on (127\.0\.0\.1|\[::1\]):\d+$/m);
      await using wrong = script(name, [], { PORT: "abc" });
      expect(await wrong.exit()).toBe(2);
      expect(wrong.stderr).toMatch(/^error: PORT [^\n]*"abc"\n$/);
    },
  );

  test.each(servers)("%s exits 0 on SIGINT and SIGTERM, also with an idle client", async (name) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      await using server = script(name, ["--port", "0"], { HOST: "127.0.0.1" });
      using conn = await connect({ port: await server.port() });
      server.kill(signal);
      expect(await server.exit()).toBe(0);
      expect(server.stderr).toBe("");
      conn.close();
    }
  });

  // Those that show from outside that the connection is accepted, and keep it.
  const keeping = ["echo-loop-server", "echo-threaded-server", "select-server"];
  test.each(keeping)("%s exits at once on a second signal", async (name) => {
    for (const [signal, code] of [
      ["SIGINT", 130],
      ["SIGTERM", 143],
    ] as const) {
      await using server = script(name, ["--port", "0"]);
      const port = await server.port();
      using conn = await connect({ port });
      await conn.sendAll("hello");
      await conn.recvExactly(5);
      server.kill(signal);
      await untilRefused(port); // it stops accepting
      server.kill(signal);
      expect(await server.exit()).toBe(code);
    }
  });

  test.each(servers)("%s says in one line that its port is taken", async (name) => {
    await using first = script("echo-threaded-server", ["--port", "0"]);
    const port = await first.port();
    await using second = script(name, ["--host", "127.0.0.1", "--port", `${port}`]);
    expect(await second.exit()).toBe(1);
    expect(second.stderr).toBe(
      `error: cannot listen on 127.0.0.1:${port}: address already in use\n`,
    );
  });

  const printing = [
    "echo-loop-server",
    "reply-threaded-server",
    "select-server",
    "weather-receiver",
  ];
  test.each(printing)("%s ends quietly when its stdout is closed", async (name) => {
    const args = name === "select-server" ? "--timeout 0.05" : "";
    const run = `${process.execPath} run scripts/${name}.ts --host 127.0.0.1 --port 0 ${args}`;
    const shell = `${run} | sed /listening/q; echo "exit \${PIPESTATUS[0]}"`;
    await using server = new Process(["bash", "-c", shell]);
    const port = await server.port();
    // Each client makes it print, until it has noticed that nobody reads that any more. (One of
    // them prints when there are none.)
    while (name !== "select-server") {
      const conn = await connect({ port }).catch(() => null);
      if (conn === null) break;
      await conn.sendAll("makes it print\n").catch(() => {});
      await conn.recv(1, { signal: AbortSignal.timeout(20) }).catch(() => {});
      conn.close();
    }
    await server.until(/^exit 0$/m);
    expect(server.stderr).toBe("");
  });
});

describe("every client", () => {
  test.each(clients)("%s says in one line that nobody is there, and exits 1", async (name) => {
    await using client = script(name, ["--host", "127.0.0.1", "--port", "1"]);
    await client.endInput();
    expect(await client.exit()).toBe(1);
    expect(client.stderr).toBe(
      "error: cannot connect to 127.0.0.1:1: connection refused (is the server running?)\n",
    );
    await using lost = script(name, ["--host", "no-such-host.invalid"]);
    expect(await lost.exit()).toBe(1);
    expect(lost.stderr).toBe("error: cannot connect to no-such-host.invalid: host not found\n");
  });

  test.each(clients)("%s does not listen to HOST and PORT", async (name) => {
    await using client = script(name, ["--host", "127.0.0.1", "--port", "1"], { PORT: "abc" });
    expect(await client.exit()).toBe(1);
  });
});
