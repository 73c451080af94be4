// TLS in the scripts: flags and their errors, renewed certificates, threads, and common tools at the
// other end: curl, openssl, Node, Go.

import { X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect, listen, type Socket } from "../lib/socket.ts";
import { type Certificate, makeCertificate } from "../scripts/secure/certificate.ts";
import {
  fails,
  pattern,
  PATIENCE_MS,
  Process,
  recvAll,
  root,
  script,
  testWith,
} from "./helpers.ts";

setDefaultTimeout(2 * PATIENCE_MS);

const folder = mkdtempSync(join(tmpdir(), "tls-"));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

const own = makeCertificate("localhost");
const cert = file("server.pem", own.cert);
const key = file("server.key", own.key);
const both = file("both.pem", own.cert + own.key);
const other = file("other.key", makeCertificate("localhost").key);
const junk = file("junk.pem", "no PEM at all\n");
const nowhere = join(folder, "nowhere.pem");
const cut = file("cut.pem", own.cert + own.cert.slice(0, 200)); // as a file that is still being written
const flags = ["--port", "0", "--tls-cert", cert, "--tls-key", key];

/** Sends bytes to a TLS echo server, and compares what comes back. */
async function echoes(port: number, { cert: ca }: Certificate = own): Promise<void> {
  using conn = await connect({ port, tls: { ca } });
  const data = pattern(100_000, port);
  const sending = conn.sendAll(data).then(() => conn.shutdown("write"));
  expect((await recvAll(conn)).equals(data)).toBe(true);
  await sending;
}

describe("flags", () => {
  test.each([
    [
      "--tls-cert FILE",
      "--tls-cert (TLS_CERT) and --tls-key (TLS_KEY) are needed together",
      ["--tls-cert", cert],
    ],
    [
      "--tls-key FILE",
      "--tls-cert (TLS_CERT) and --tls-key (TLS_KEY) are needed together",
      ["--tls-key", key],
    ],
    [
      "a missing certificate",
      `cannot read ${nowhere}: no such file or directory`,
      ["--tls-cert", nowhere, "--tls-key", key],
    ],
    [
      "a missing key",
      `cannot read ${nowhere}: no such file or directory`,
      ["--tls-cert", cert, "--tls-key", nowhere],
    ],
    [
      "a certificate that is none",
      `${junk} holds no certificate in PEM`,
      ["--tls-cert", junk, "--tls-key", key],
    ],
    [
      "a chain that is cut off",
      `${cut} holds no certificate in PEM`,
      ["--tls-cert", cut, "--tls-key", key],
    ],
    [
      "a key that is none",
      `${junk} holds no unencrypted private key in PEM`,
      ["--tls-cert", cert, "--tls-key", junk],
    ],
    [
      "the key of another certificate",
      `${other} is not the key of ${cert}`,
      ["--tls-cert", cert, "--tls-key", other],
    ],
  ])("%s: one line, exit 2, and nothing listens", async (_what, line, args) => {
    for (const name of ["echo-threaded-server", "http-server"]) {
      await using refused = script(name, ["--port", "0", ...args]);
      expect(await refused.exit()).toBe(2);
      expect(refused.stderr).toBe(`error: ${line}\n`);
      expect(refused.stdout).toBe("");
    }
  });

  test.each([
    [`cannot read ${nowhere}: no such file or directory`, nowhere],
    [`${junk} holds no certificate in PEM`, junk],
  ])("--tls-ca: %s", async (line, ca) => {
    for (const name of ["message-client", "http-client", "echo-bench", "websocket-client"]) {
      await using refused = script(name, ["--tls-ca", ca]);
      expect(await refused.exit()).toBe(2);
      expect(refused.stderr).toBe(`error: ${line}\n`);
    }
  });

  test("TLS_CERT and TLS_KEY; one of them alone is no plain server", async () => {
    await using server = script("message-server", ["--port", "0"], {
      TLS_CERT: cert,
      TLS_KEY: key,
    });
    await using client = script("message-client", [
      "--port",
      `${await server.port()}`,
      "--tls-ca",
      cert,
    ]);
    expect(await client.exit()).toBe(0);
    await using half = script("message-server", ["--port", "0"], { TLS_CERT: cert });
    expect(await half.exit()).toBe(2);
  });

  test("a client that is to trust somebody never speaks in clear", async () => {
    using plain = listen({ port: 0 });
    const port = `${plain.address.port}`;
    const greeting = (async () => {
      for await (const conn of plain) {
        expect((await conn.recv(1000))[0]).toBe(22); // a handshake's record
        await conn.sendAll("220 ready\r\n");
      }
    })();
    for (const way of [["--tls"], ["--tls-ca", cert]]) {
      await using client = script("http-client", ["--port", port, ...way]);
      expect(await client.exit()).toBe(1);
      const line = `error: cannot connect to 127.0.0.1:${port}: the other side does not speak TLS\n`;
      expect(client.stderr).toBe(line);
    }
    plain.close();
    await greeting;
  });
});

describe("our scripts with each other", () => {
  test("http-server and http-client; who is unknown is told in one line at both ends", async () => {
    await using server = script("http-server", flags);
    const port = `${await server.port()}`;
    await using client = script("http-client", [
      "--port",
      port,
      "--tls-ca",
      cert,
      "--path",
      "/hello",
    ]);
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toContain("GET /hello HTTP/1.0");
    await using stranger = script("http-client", ["--port", port, "--tls"]);
    expect(await stranger.exit()).toBe(1);
    expect(stranger.stderr).toBe(
      `error: cannot connect to 127.0.0.1:${port}: self signed certificate\n`,
    );
    await server.until(
      /^warning: connection with 127\.0\.0\.1:\d+: the connection ended in the TLS handshake\n/m,
      "stderr",
    );
  });

  test("websocket-server and websocket-client", async () => {
    await using server = script("websocket-server", flags);
    const port = `${await server.port()}`;
    await using client = script("websocket-client", [
      "--port",
      port,
      "--tls-ca",
      cert,
      "--message",
      "안녕",
    ]);
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(">안녕\n");
  });

  test("proxy, on either side; chat-server and netcat", async () => {
    await using chat = script("chat-server", flags);
    const to = `localhost:${await chat.port()}`;
    await using proxy = script("proxy", [...flags, "--to", to, "--to-ca", cert]);
    await using client = script("netcat", ["--port", `${await proxy.port()}`, "--tls-ca", cert]);
    await client.until(/^What is your name\?\n/);
    client.type("Ada\n");
    await client.until(/^Welcome, Ada\n/m);
    client.type("/quit\n");
    expect(await client.exit()).toBe(0);
    await proxy.until(/: 10 bytes there, .* back, .* s, ended\n/);
    // The certificate of the server behind the proxy is checked as well.
    await using wrong = script("proxy", ["--port", "0", "--to", to, "--to-tls"]);
    using conn = await connect({ port: await wrong.port() });
    await fails(conn.recv(1), "ECONNRESET");
    await wrong.until(/self signed certificate\n/);
  });

  test("proxy --send-proxy with TLS: the header first, in clear, and then the handshake", async () => {
    using behind = listen({ port: 0 });
    const to = `127.0.0.1:${behind.address.port}`;
    await using proxy = script("proxy", [
      "--port",
      "0",
      "--to",
      to,
      "--to-tls",
      "--send-proxy",
      "v1",
    ]);
    using client = await connect({ port: await proxy.port() });
    await client.sendAll("a secret");
    using conn = await behind.accept();
    const ends = `127.0.0.1 127.0.0.1 ${client.localAddress.port} ${client.remoteAddress.port}`;
    const header = `PROXY TCP4 ${ends}\r\n`;
    expect(String(await conn.recvExactly(header.length))).toBe(header);
    expect((await conn.recv(1000))[0]).toBe(22); // a handshake's record
  });

  test("proxy refuses --accept-proxy together with --tls-cert", async () => {
    const way = ["--to", "127.0.0.1:1", "--accept-proxy", "--tls-cert", cert, "--tls-key", key];
    await using refused = script("proxy", ["--port", "0", ...way]);
    expect(await refused.exit()).toBe(2);
    expect(refused.stderr).toBe(
      "error: --accept-proxy and --tls-cert cannot be had together (see --help)\n",
    );
  });

  test.each([[[]], [["--relay"]]])("echo-threaded-server %p", async (more) => {
    await using server = script("echo-threaded-server", [...flags, "--threads", "2", ...more]);
    const port = await server.port();
    await Promise.all(Array.from({ length: 20 }, () => echoes(port)));
    using plain = await connect({ port });
    await plain.sendAll("in clear?\n");
    expect((await recvAll(plain).catch(() => Buffer.alloc(0))).includes("in clear?")).toBe(false);
    server.kill("SIGTERM");
    expect(await server.exit()).toBe(0);
  });
});

test("a certificate that an authority has signed is not an authority", () => {
  const authority = makeCertificate("authority");
  const signed = makeCertificate("localhost", authority);
  const [ca, leaf] = [authority, signed].map(({ cert }) => new X509Certificate(cert));
  expect([ca!.ca, leaf!.ca]).toEqual([true, false]);
  expect(leaf!.verify(ca!.publicKey)).toBe(true);
});

test("secure shows the sentence in clear and not over TLS, and who is refused", async () => {
  await using shown = script("secure", ["--message", "open sesame"]);
  expect(await shown.exit(), shown.stderr).toBe(0);
  expect(shown.stderr).toBe("");
  const [, clear, secured, renamed, unknown] = shown.stdout.split(/^\S.*:\n/m);
  expect(clear!.match(/wire:   (client ->|-> client)  "open sesame"\n/g)).toHaveLength(2);
  expect(secured).toMatch(/wire: +client -> +\d+ bytes: 16 03 .*\(handshake\)\n/);
  expect(secured).toMatch(/connected in [\d.]+ ms, with the handshake\n/);
  expect(secured).toEndWith("  (ciphertext)\n\n");
  expect(secured!.match(/.*open sesame.*/g)).toEqual(['  client: received "open sesame"']);
  expect(renamed).toMatch(/client: refuses .*bank\.example/);
  expect(unknown).toMatch(/client: refuses .*: self signed certificate\n/);
  for (const refused of [renamed, unknown]) expect(refused).not.toContain("open sesame");
});

describe("SIGHUP", () => {
  // Clients tell the two certificates apart by the authority that has signed them.
  const [before, after] = [makeCertificate("one authority"), makeCertificate("another authority")];
  const [old, renewed] = [
    makeCertificate("localhost", before),
    makeCertificate("localhost", after),
  ];
  const all = before.cert + after.cert;

  test.each([[[]], [["--relay"]]])(
    "takes a renewed certificate, and no connection is lost %p",
    async (more) => {
      const [certFile, keyFile] = [file("live.pem", old.cert), file("live.key", old.key)];
      const trusted = file("trusted.pem", all);
      await using server = script("echo-threaded-server", [
        ...["--port", "0", "--threads", "2", "--tls-cert", certFile, "--tls-key", keyFile],
        ...more,
      ]);
      const port = await server.port();
      await using bench = script("echo-bench", [
        ...[
          "--port",
          `${port}`,
          "--tls-ca",
          trusted,
          "--connections",
          "20",
          "--seconds",
          "3",
          "--json",
        ],
      ]);
      // Besides the connections that stay, new ones come all the time.
      let coming = true;
      let visits = 0;
      const visitors = Array.from({ length: 4 }, async () => {
        for (; coming; visits++) {
          using conn = await connect({ port, tls: { ca: all } });
          await conn.sendAll("hello");
          expect(String(await conn.recvExactly(5))).toBe("hello");
        }
      });
      await echoes(port, before);
      writeFileSync(certFile, renewed.cert);
      writeFileSync(keyFile, renewed.key);
      server.kill("SIGHUP");
      await server.until(/^the certificate was renewed: valid until .*\n/m, "stderr");
      await untilRenewed(port);
      // If the file holds no certificate, the server keeps the one that it has.
      writeFileSync(certFile, "half a cert");
      server.kill("SIGHUP");
      await server.until(
        /^the certificate stays as it was: .*live\.pem holds no certificate in PEM\n/m,
        "stderr",
      );
      for (let i = 0; i < 10; i++) await echoes(port, after);
      expect(await bench.exit()).toBe(0);
      coming = false;
      await Promise.all(visitors);
      expect(visits).toBeGreaterThan(20);
      const { lost, reconnected, sentAgain, messages } = JSON.parse(bench.stdout);
      expect([lost, reconnected, sentAgain]).toEqual([0, 0, 0]);
      expect(messages).toBeGreaterThan(100);
      await fails(connect({ port, tls: { ca: before.cert } }), "UNABLE_TO_VERIFY_LEAF_SIGNATURE");
    },
  );

  // Each thread takes the new certificate in its own time, so it has to be seen 20 times in a row.
  async function untilRenewed(port: number): Promise<void> {
    for (let inARow = 0; inARow < 20; inARow++) {
      const conn = await connect({ port, tls: { ca: after.cert } }).catch(() => null);
      if (conn === null) inARow = -1;
      conn?.close();
    }
  }

  test("a thread that starts later gets the certificate from the main thread, not from the files", async () => {
    const [certFile, keyFile] = [file("live.pem", old.cert), file("live.key", old.key)];
    const command = [
      "tests/fixtures/faulty-threads.ts",
      "--tls-cert",
      certFile,
      "--tls-key",
      keyFile,
    ];
    await using server = new Process([process.execPath, "run", ...command]);
    const port = await server.port();
    writeFileSync(certFile, renewed.cert);
    writeFileSync(keyFile, renewed.key);
    server.kill("SIGHUP");
    await server.until(/^the certificate was renewed/m, "stderr");
    writeFileSync(certFile, "half a cert");
    using conn = await connect({ port, tls: { ca: all } }); // its thread may still have the old one
    await conn.sendAll("die");
    await server.until(/another takes its place/, "stderr");
    const tls = { ca: after.cert };
    let next: Socket | null = null;
    while (next === null) next = await connect({ port, tls }).catch(() => null);
    await next.sendAll("hello");
    expect(String(await next.recv(100))).toStartWith("hello from");
    next.close();
  });

  test("without TLS it ends a server, as everywhere", async () => {
    await using server = script("http-server", ["--port", "0"]);
    await server.port();
    server.kill("SIGHUP");
    expect(await server.exit()).toBe(128 + 1);
  });
});

describe("tools", () => {
  testWith("curl", "curl --cacert fetches a page from http-server", async () => {
    await using server = script("http-server", flags);
    const port = await server.port();
    for (const version of ["--tlsv1.3", "--tls-max 1.2"]) {
      const url = `https://localhost:${port}/from-curl`;
      await using curl = new Process(["curl", "-sS", "--cacert", cert, ...version.split(" "), url]);
      expect(await curl.exit()).toBe(0);
      expect(curl.stdout).toContain("GET /from-curl HTTP/1.1");
    }
    await using stranger = new Process(["curl", "-sS", `https://localhost:${port}/`]);
    expect(await stranger.exit()).toBe(60); // curl cannot verify the server's certificate
  });

  testWith("openssl", "openssl s_client talks to echo-threaded-server", async () => {
    await using server = script("echo-threaded-server", [...flags, "--threads", "1"]);
    const at = `localhost:${await server.port()}`;
    const command = [
      "openssl",
      "s_client",
      "-connect",
      at,
      "-CAfile",
      cert,
      "-verify_return_error",
      "-quiet",
      "-no_ign_eof",
    ];
    await using openssl = new Process(command);
    openssl.type("hello from openssl\n");
    await openssl.until(/^hello from openssl\n/m);
    await openssl.endInput();
    expect(await openssl.exit()).toBe(0);
  });

  testWith("openssl", "our client talks to openssl s_server", async () => {
    const command = [
      "openssl",
      "s_server",
      "-accept",
      "127.0.0.1:0",
      "-cert",
      cert,
      "-key",
      key,
      "-www",
    ];
    await using openssl = new Process(command);
    const [, port] = await openssl.until(/^ACCEPT 127\.0\.0\.1:(\d+)\n/m);
    await using client = script("http-client", ["--port", port!, "--tls-ca", cert]);
    await client.until(/New, TLSv1\.3, Cipher is/);
  });

  testWith("node", "Node's tls, as the client and as the server", async () => {
    await using server = script("echo-threaded-server", [...flags, "--threads", "1"]);
    const port = await server.port();
    const client = `
      const ca = require("fs").readFileSync(${JSON.stringify(cert)});
      const socket = require("tls").connect({ port: ${port}, host: "localhost", ca, allowHalfOpen: true });
      socket.on("secureConnect", () => socket.end("from Node"));
      socket.pipe(process.stdout);`;
    await using node = new Process(["node", "-e", client]);
    expect(await node.exit()).toBe(0);
    expect(node.stdout).toBe("from Node");

    const serve = `
      const fs = require("fs");
      const options = { cert: fs.readFileSync(${JSON.stringify(cert)}), key: fs.readFileSync(${JSON.stringify(key)}) };
      const server = require("tls").createServer({ ...options, allowHalfOpen: true }, (socket) => socket.pipe(socket));
      server.listen(0, "127.0.0.1", () => console.log(server.address().port));`;
    await using there = new Process(["node", "-e", serve]);
    await echoes(await there.port());
  });

  testWith("go", "Go's crypto/tls, as the client and as the server", async () => {
    const program = join(folder, "tls-go");
    const env = { GOFLAGS: "-mod=mod", GO111MODULE: "off" };
    await using build = new Process(
      ["go", "build", "-o", program, `${root}/tests/fixtures/tls.go`],
      env,
    );
    expect([await build.exit(), build.stderr]).toEqual([0, ""]);
    await using server = script("echo-threaded-server", [...flags, "--threads", "1"]);
    await using client = new Process([program, cert, `${await server.port()}`]);
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe("from Go\n");
    await using there = new Process([program, both]);
    await echoes(await there.port());
  });
});
