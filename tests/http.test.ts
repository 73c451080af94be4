// The HTTP server and client, against each other, curl and CPython.

import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect } from "../lib/socket.ts";
import { Process, python, recvAll, script, testPython, PATIENCE_MS } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

describe("http-server and http-client", () => {
  function curl(name: string, body: () => Promise<void>): void {
    if (Bun.which("curl") !== null) test(name, body);
    else test.skip(`${name} (skipped: no curl)`, body);
  }

  /** Sends raw bytes and FIN, and gives the whole reply. */
  async function ask(port: number, request: string): Promise<string> {
    using conn = await connect({ port });
    const sent = conn.sendAll(request).then(() => conn.shutdown("write"));
    const sending = sent.catch(() => {}); // the server may end before it has taken everything
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
    await using encoded = script("http-client", ["--port", `${port}`, "--path", "/안녕 x?a=%20"]);
    expect(await encoded.exit()).toBe(0);
    expect(encoded.stdout).toContain("GET /%EC%95%88%EB%85%95%20x?a=%20 HTTP/1.0\r\n");
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
      ["POST / HTTP/1.1\r\nHost: x\r\n\r\n", 405],
      ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200],
      ["GET / HTTP/1.1\r\nhOST:\r\n\r\n", 200],
      ["GET / HTTP/1.1\r\nX-Host: x\r\n\r\n", 400], // RFC 9112, 3.2: one Host, no more, no less
      ["GET / HTTP/1.1\r\nHost: x\r\nhost: x\r\n\r\n", 400],
      ["GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400],
      ["GET / HTTP/1.0\r\n\r\n", 200],
      ["\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 200], // RFC 9112, 2.2
      ["\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 200],
      ["\r\n", "closed"],
      ["HEAD / HTTP/1.0\r\n\r\n", 200],
      [`GET /${"x".repeat(1 << 20)}`, 431],
      [`GET / HTTP/1.1\r\n${"X: y\r\n".repeat(1 << 20)}`, 431],
      [`GET /${"x".repeat(16 * 1024 - 14)} HTTP/1.0\r\n\r\n`, 200], // exactly 16 KiB
      [`GET /${"x".repeat(16 * 1024 - 13)} HTTP/1.0\r\n\r\n`, 431],
    ] as const) {
      const want = status === "closed" ? /^$/ : new RegExp(`^HTTP/1\\.1 ${status} `);
      expect(await ask(port, request), request.slice(0, 60)).toMatch(want);
    }
    using cut = await connect({ port });
    await cut.sendAll("GET / HTTP/1.1\r\nHos");
    cut.shutdown("write");
    expect(String(await recvAll(cut))).toStartWith("HTTP/1.1 400 ");
    using silent = await connect({ port });
    silent.shutdown("write");
    expect(await recvAll(silent)).toHaveLength(0);
    using endless = await connect({ port }); // already too long, and its end does not come
    endless.setTimeout(5_000); // a reply after the 10 s for a head is too late
    await endless.sendAll(`GET /${"x".repeat(20_000)}`);
    expect(String(await recvAll(endless))).toStartWith("HTTP/1.1 431 ");
    expect(server.stderr).toBe("");
  });

  test("its length is that of the body, in bytes; HEAD has the same head, and no body", async () => {
    await using server = script("http-server", ["--port", "0"]);
    const port = await server.port();
    const rest = " / HTTP/1.1\r\nHost: x\r\nX-Name: 안녕\r\n\r\n";
    const [head = "", body = ""] = (await ask(port, `GET${rest}`)).split("\r\n\r\n");
    const length = Number(head.match(/^Content-Length: (\d+)$/m)?.[1]);
    expect(length).toBe(Buffer.byteLength(body));
    expect(length).toBeGreaterThan(body.length); // the body holds more than ASCII
    expect(body).toContain("X-Name: 안녕<");
    const only = await ask(port, `HEAD${rest}`);
    // The page shows the request, in which HEAD is one byte longer than GET.
    expect(only).toBe(`${head.replace(`${length}`, `${length + 1}`)}\r\n\r\n`);
  });

  test("the reply ends with a FIN: the client need not end first, and what it still sends is no harm", async () => {
    await using server = script("http-server", ["--port", "0", "--trace"]);
    using conn = await connect({ port: await server.port() });
    await conn.sendAll("GET / HTTP/1.0\r\n\r\n");
    expect(String(await recvAll(conn))).toStartWith("HTTP/1.1 200 ");
    await conn.sendAll("late");
    conn.close();
    await server.until(/close\(\)/, "stderr");
    expect(server.stderr).toMatch(
      /sendAll[^]*shutdown\(write\)[^]*recv\(65536\) -> 4 bytes "late"[^]*close/,
    );
  });

  test("a head that takes too long is told so (408), however slowly its bytes come", async () => {
    await using server = script("http-server", ["--port", "0", "--idle-timeout", "1"]);
    using conn = await connect({ port: await server.port() });
    const reply = recvAll(conn).then(String);
    const head = "GET / HTTP/1.1\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy";
    for (const byte of head) {
      await conn.sendAll(byte).catch(() => {});
      const over = await Promise.race([reply, Bun.sleep(100)]);
      if (over !== undefined) break;
    }
    expect(await reply).toStartWith("HTTP/1.1 408 Request Timeout\r\n");
  });

  test("half a head, and then nothing: 408 after 10 s, without any flag", async () => {
    await using server = script("http-server", ["--port", "0"]);
    using conn = await connect({ port: await server.port() });
    await conn.sendAll("GET / HTTP/1.1\r\nX: ");
    expect(String(await recvAll(conn))).toStartWith("HTTP/1.1 408 Request Timeout\r\n");
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
    await using bad = replying("HTTP/1.1 400 Bad Request\\r\\n\\r\\n");
    await using refused = script("http-client", ["--port", `${await bad.port()}`]);
    expect(await refused.exit()).toBe(1);
    const long = `HTTP/1.1 200 OK\\r\\nContent-Length: 400000\\r\\n\\r\\n" + b"x" * 400000 + b"`;
    await using much = replying(long);
    await using whole = script("http-client", ["--port", `${await much.port()}`]);
    expect(await whole.exit(), whole.stderr).toBe(0);
    expect(whole.stdout).toHaveLength(400_000);

    for (const [reply, told] of [
      ["220 mail.example ESMTP\\r\\n", "did not answer in HTTP"],
      ["HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nshort", "sent 5 of 100 bytes"],
      ["", "did not answer in HTTP"],
    ]) {
      await using odd = replying(reply!);
      await using client = script("http-client", ["--port", `${await odd.port()}`]);
      expect(await client.exit()).toBe(1);
      expect(client.stderr).toContain(`error: 127.0.0.1:${await odd.port()} ${told}\n`);
    }
  });

  /** A server that answers one request with these bytes. */
  function replying(reply: string): Process {
    return python(`
conn, _ = listen().accept(); recv_all(conn); conn.sendall(b"${reply}"); conn.close()`);
  }

  testPython("a status that has no body is whole, whatever length its head tells", async () => {
    for (const status of ["204 No Content", "304 Not Modified"]) {
      await using server = replying(`HTTP/1.1 ${status}\\r\\nContent-Length: 100\\r\\n\\r\\n`);
      await using client = script("http-client", ["--port", `${await server.port()}`]);
      expect(await client.exit(), client.stderr).toBe(0);
      expect(client.stderr).toBe(`${status}\n`);
      expect(client.stdout).toBe("");
    }
  });
});
