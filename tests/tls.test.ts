// TLS: who is refused and why, that nothing leaves in clear, how a connection ends, renewed certificates,
// and other people's TLS as the peer. (That all the promises of a socket hold over TLS, too, is in conformance.)

import { describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";

import { describe as describeError } from "../lib/cli/describe.ts";
import { type ClientTls, connect, listen, type ServerSocket, type Socket } from "../lib/socket.ts";
import { checkTls } from "../lib/socket/tls.ts";
import { makeCertificate } from "../scripts/secure/certificate.ts";
import {
  failure,
  fails,
  pattern,
  PATIENCE_MS,
  Process,
  python,
  recvAll,
  sockets,
  testPython,
  turn,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS + 5_000);

const authority = makeCertificate("test authority");
const server = makeCertificate("localhost", authority);
const client = makeCertificate("a client", authority);
const selfSigned = makeCertificate("localhost");
const expired = makeCertificate("localhost", authority, -1);
const elsewhere = makeCertificate("elsewhere.example", authority);
const known = { ca: authority.cert };

/** An echo server, and its messages about the clients that it refuses. */
class Echo implements Disposable {
  readonly refused: string[] = [];
  readonly server: ServerSocket;
  readonly port: number;
  constructor(options: Partial<Parameters<typeof listen>[0]> = {}) {
    this.server = listen({ port: 0, tls: pick(server), ...options });
    this.server.onRefused = (why) => this.refused.push(describeError(why));
    this.port = this.server.address.port;
    this.#run();
  }
  async #run() {
    for await (const conn of this.server) {
      (async () => {
        for await (const chunk of conn) await conn.sendAll(chunk);
        conn.close();
      })().catch(() => conn.close());
    }
  }
  [Symbol.dispose]() {
    this.server.close();
  }
}

const pick = ({ cert, key }: { cert: string; key: string }) => ({ cert, key });

/** Asks an echo server for a word. */
async function ask(port: number, tls: true | ClientTls = known, host = "127.0.0.1") {
  using conn = await connect({ host, port, tls });
  await conn.sendAll("hello");
  return String(await conn.recvExactly(5));
}

/** Why a client is refused: the code, and the reason. */
async function refusal(port: number, tls: true | ClientTls = known): Promise<string> {
  const { code, syscall, reason } = await fails(ask(port, tls), ...CODES);
  return `${syscall} ${code}: ${reason}`;
}

const CODES = [
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "CERT_HAS_EXPIRED",
  "ERR_TLS_CERT_ALTNAME_INVALID",
  "EPROTO",
  "ECONNRESET",
  "EINCOMPLETE",
];

/** Waits for something to become true. */
async function until(what: () => boolean): Promise<void> {
  while (!what()) await turn();
}

describe("a server is refused", () => {
  for (const [who, certificate, tls, why] of [
    [
      "of an unknown authority",
      server,
      true,
      "connect UNABLE_TO_VERIFY_LEAF_SIGNATURE: unable to verify the first certificate",
    ],
    [
      "of another authority",
      server,
      { ca: selfSigned.cert },
      "connect UNABLE_TO_VERIFY_LEAF_SIGNATURE: unable to verify the first certificate",
    ],
    [
      "that has signed for itself",
      selfSigned,
      known,
      "connect DEPTH_ZERO_SELF_SIGNED_CERT: self signed certificate",
    ],
    [
      "whose certificate has expired",
      expired,
      known,
      "connect CERT_HAS_EXPIRED: certificate has expired",
    ],
    [
      "with another name",
      elsewhere,
      { ...known, serverName: "localhost" },
      /^connect ERR_TLS_CERT_ALTNAME_INVALID: .*localhost.*elsewhere\.example/,
    ],
    [
      "with another address",
      elsewhere,
      known,
      /^connect ERR_TLS_CERT_ALTNAME_INVALID: .*127\.0\.0\.1/,
    ],
  ] as const) {
    test(who, async () => {
      using echo = new Echo({ tls: pick(certificate) });
      const before = sockets();
      expect(await refusal(echo.port, tls)).toMatch(why);
      await until(() => echo.refused.length > 0);
      expect(echo.refused[0]).toMatch(
        /^connection with 127\.0\.0\.1:\d+: the connection ended in the TLS handshake$/,
      );
      await until(() => sockets().difference(before).size === 0);
    });
  }

  test("that speaks no TLS, that ends or resets in the handshake", async () => {
    using plain = listen({ port: 0 });
    const { port } = plain.address;
    const answers: [(conn: Socket) => unknown, string][] = [
      [(conn) => conn.sendAll("220 ready\r\n"), "EPROTO: the other side does not speak TLS"],
      [(conn) => conn.close(), "ECONNRESET: the connection ended in the TLS handshake"],
      [(conn) => conn.shutdown("write"), "ECONNRESET: the connection ended in the TLS handshake"],
      [(conn) => conn.reset(), "ECONNRESET: the connection ended in the TLS handshake"],
    ];
    for (const [answer, why] of answers) {
      const asking = refusal(port);
      using conn = await plain.accept();
      await conn.recv(1000);
      await answer(conn);
      expect(await asking).toBe(`connect ${why}`);
    }
  });

  testPython("that speaks TLS 1.1 alone", async () => {
    await using old = python(`
import ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.set_ciphers("ALL:@SECLEVEL=0")
context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
s = listen()
for _ in range(1):
    try: context.wrap_socket(s.accept()[0], server_side=True)
    except ssl.SSLError as error: print(error.reason, flush=True)`);
    expect(await refusal(await old.port())).toBe("connect EPROTO: tlsv1 alert protocol version");
  });

  test("is given up at once: by a signal, by the timeout, which counts the handshake", async () => {
    using mute = listen({ port: 0 });
    const { port } = mute.address;
    const started = performance.now();
    const stop = new AbortController();
    const aborted = failure(connect({ port, tls: known, signal: stop.signal }));
    using first = await mute.accept();
    await first.waitReadable();
    stop.abort(new Error("enough"));
    expect((await aborted).message).toBe("enough");
    await fails(connect({ port, tls: known, timeout: 50 }), "ETIMEDOUT");
    using second = await mute.accept();
    for (const conn of [first, second]) await recvAll(conn).catch(() => {}); // an end, or a reset
    expect(performance.now() - started).toBeLessThan(5_000);
  });
});

describe("a client is refused", () => {
  const asking = { ...pick(server), clientCa: authority.cert };
  test("without a certificate, with one of somebody else, with one that has expired", async () => {
    using echo = new Echo({ tls: asking });
    expect(await ask(echo.port, { ...known, ...pick(client) })).toBe("hello");
    expect(echo.refused).toEqual([]);
    // With TLS 1.3, the client's handshake ends before the server has checked its certificate.
    expect(await refusal(echo.port)).toBe("recv EPROTO: tlsv1 alert certificate required");
    for (const bad of [selfSigned, expired]) {
      const refused = ask(echo.port, { ...known, ...pick(bad) });
      await fails(refused, "ECONNRESET", "EINCOMPLETE", "EPIPE");
    }
    await until(() => echo.refused.length === 3);
    expect(echo.refused.map((why) => why.replace(/.*\d: /, ""))).toEqual([
      "peer did not return a certificate",
      "self signed certificate",
      "certificate has expired",
    ]);
  });

  test("that speaks no TLS, that resets in the handshake; the next one is served", async () => {
    using echo = new Echo();
    for (const words of ["GET / HTTP/1.0\r\n\r\n", "hello, is this port 4000?\n"]) {
      using plain = await connect({ port: echo.port });
      await plain.sendAll(words);
      const answer = await recvAll(plain).catch(() => Buffer.alloc(0));
      expect(answer.length).toBeLessThanOrEqual(7); // an alert
    }
    (await connect({ port: echo.port })).reset();
    (await connect({ port: echo.port })).close();
    await until(() => echo.refused.length === 4);
    expect(echo.refused[0]).toEndWith("the other side does not speak TLS");
    expect(echo.refused[1]).toEndWith("the other side does not speak TLS");
    expect(await ask(echo.port)).toBe("hello");
  });

  testPython("that speaks TLS 1.1 alone", async () => {
    using echo = new Echo();
    await using old = python(
      `
import ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_ciphers("ALL:@SECLEVEL=0")
context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
try: context.wrap_socket(connect(sys.argv[1]))
except ssl.SSLError as error: print(error.reason, flush=True)`,
      echo.port,
    );
    await old.until(/TLSV1_ALERT_PROTOCOL_VERSION/);
    await until(() => echo.refused.length === 1);
    expect(echo.refused[0]).toEndWith("unsupported protocol");
  });

  testPython("that does not trust us: what it says of that is told", async () => {
    using echo = new Echo();
    for (const [version, why] of [
      ["TLSv1_3", "the other side has refused the TLS handshake"], // OpenSSL sends this alert unencrypted
      ["TLSv1_2", "tlsv1 alert unknown ca"],
    ]) {
      await using stranger = python(
        `
import ssl
context = ssl.create_default_context()
context.minimum_version = context.maximum_version = ssl.TLSVersion[sys.argv[2]]
try: context.wrap_socket(connect(sys.argv[1]), server_hostname="localhost")
except ssl.SSLError as error: print(error.reason, flush=True)`,
        echo.port,
        version!,
      );
      await stranger.until(/CERTIFICATE_VERIFY_FAILED/);
      await until(() => echo.refused.length > 0);
      expect(echo.refused.pop()).toEndWith(`: ${why}`);
    }
  });

  test("that resets after its first bytes leaves nothing behind", async () => {
    using echo = new Echo();
    const before = sockets();
    for (let i = 0; i < 20; i++) {
      const conn = await connect({ port: echo.port });
      await conn.sendAll(HELLO.subarray(0, 1 + i * 10));
      conn.reset();
    }
    await until(() => sockets().difference(before).size === 0);
    expect(await ask(echo.port)).toBe("hello");
  });
});

/** The beginning of a ClientHello: a part of it makes a server wait for the rest. */
const HELLO = Buffer.from("16030100f8010000f40303".padEnd(2 * 253, "00"), "hex");

test("a record that was tampered with is EPROTO at both ends, and the bytes before it come first", async () => {
  for (const direction of ["to the server", "to the client"] as const) {
    using far = listen({ port: 0, tls: pick(server) });
    using between = listen({ port: 0 });
    const connecting = connect({ port: between.address.port, tls: known });
    const near = await between.accept();
    const beyond = await connect({ port: far.address.port });
    let tamper = false;
    const pass = async (from: Socket, to: Socket, isTampered: boolean) => {
      for await (const chunk of from) {
        if (tamper && isTampered) chunk[chunk.length - 1]! ^= 1;
        await to.sendAll(chunk);
      }
    };
    pass(near, beyond, direction === "to the server").catch(() => {});
    pass(beyond, near, direction === "to the client").catch(() => {});
    using client = await connecting;
    using accepted = await far.accept();
    const [sender, receiver] =
      direction === "to the server" ? [client, accepted] : [accepted, client];
    await sender.sendAll("fine");
    expect(String(await receiver.recvExactly(4))).toBe("fine");
    await sender.sendAll("before");
    await receiver.waitReadable();
    tamper = true;
    await sender.sendAll("after");
    await until(() => (receiver.poll() & 8) !== 0);
    expect(String(await receiver.recv(100))).toBe("before");
    const error = await fails(receiver.recv(100), "EPROTO");
    expect(error.reason).toBe("decryption failed or bad record mac");
    await fails(sender.recv(100), "EPROTO"); // the receiver has sent it an alert
    for (const conn of [near, beyond]) conn.reset();
  }
});

describe("nothing leaves in clear", () => {
  const SECRET = "a secret that nobody may read";

  /** Connects, says the secret if that works, and gives all that was seen on the wire. */
  async function seen(tls: any): Promise<{ error: any; wire: Buffer }> {
    using recorder = listen({ port: 0 });
    const { port } = recorder.address;
    const wire: Buffer[] = [];
    const recording = (async () => {
      for await (const conn of recorder) for await (const chunk of conn) wire.push(chunk);
    })().catch(() => {});
    const error = await failure(
      (async () => {
        using conn = await connect({ port, tls, timeout: 200 });
        await conn.sendAll(SECRET);
        await conn.recv(1);
      })(),
    );
    await turn();
    recorder.close();
    await Promise.race([recording, turn()]);
    return { error, wire: Buffer.concat(wire) };
  }

  // %p would show all of a certificate.
  const labelled = (...list: unknown[]) =>
    list.map(
      (tls) =>
        [
          Bun.inspect(tls)
            .replace(/-----BEGIN[^"]*/g, "…")
            .replace(/\s+/g, " "),
          tls,
        ] as const,
    );

  test.each(
    labelled(
      null,
      false,
      "yes",
      { ca: undefined },
      { ca: [] },
      { ca: "" },
      { ca: [""] },
      { rejectUnauthorized: false },
      { servername: "localhost" },
      { serverName: "" },
      { cert: client.cert },
      { key: client.key, ca: authority.cert },
    ),
  )("connect({ tls: %s }) is a TypeError", async (_label, tls) => {
    const { error, wire } = await seen(tls);
    expect(error).toBeInstanceOf(TypeError);
    expect(wire.length).toBe(0);
  });

  test.each(labelled(true, {}, { serverName: "localhost" }, known, { serverName: undefined }))(
    "connect({ tls: %s }) begins with a handshake",
    async (_label, tls) => {
      const { error, wire } = await seen(tls);
      expect(error.code).toBe("ETIMEDOUT"); // nobody answers here
      expect([...wire.subarray(0, 2)]).toEqual([22, 3]); // a handshake's record
      expect(wire.includes(SECRET)).toBe(false);
    },
  );

  test.each(
    labelled(
      null,
      true,
      {},
      { cert: undefined, key: undefined },
      { cert: server.cert },
      { key: server.key },
      { cert: "", key: "" },
      { cert: [], key: [] },
      { ...pick(server), clientCa: undefined },
      { ...pick(server), clientCa: [] },
      { ...pick(server), ca: authority.cert },
      { ...pick(server), rejectUnauthorized: false },
    ),
  )("listen({ tls: %s }) is a TypeError", async (_label, tls: any) => {
    const error = await failure(() => listen({ port: 0, tls }));
    expect(error).toBeInstanceOf(TypeError);
    expect(error.message).not.toContain("PRIVATE KEY");
  });

  test("what is no PEM, and the key of another certificate, is named", async () => {
    const error = (tls: any) => failure(() => listen({ port: 0, tls }));
    expect(await error({ ...pick(server), cert: "server.pem" })).toMatchObject({
      code: "ERR_OSSL_PEM_NO_START_LINE",
      reason: "no PEM",
    });
    expect(await error({ ...pick(server), key: "server.key" })).toMatchObject({
      code: "ERR_OSSL_PEM_NO_START_LINE",
      reason: "no PEM",
    });
    expect(await error({ ...pick(server), key: client.key })).toMatchObject({
      code: "ERR_OSSL_X509_KEY_VALUES_MISMATCH",
      reason: "key values mismatch",
    });
    expect(await error({ ...pick(server), clientCa: "x" })).toMatchObject({
      syscall: "listen",
      reason: "Invalid CA",
    });
    expect(await failure(connect({ port: 1, tls: { ca: "ca.pem" } }))).toMatchObject({
      syscall: "connect",
      reason: "Invalid CA",
    });
  });

  test("no environment switches the checks off", async () => {
    using echo = new Echo({ tls: pick(selfSigned) });
    const program = `import { connect } from "./lib/socket.ts";
      await connect({ port: ${echo.port}, tls: true }).then(() => console.log("in"), ({ code }) => console.log(code));`;
    await using child = new Process([process.execPath, "-e", program], {
      NODE_TLS_REJECT_UNAUTHORIZED: "0",
    });
    await child.exit();
    expect(child.stdout).toBe("DEPTH_ZERO_SELF_SIGNED_CERT\n");
  });
});

test("the name that counts: the host, a name or an address; serverName instead; for a path, localhost", async () => {
  using echo = new Echo();
  for (const host of ["127.0.0.1", "localhost", "LOCALHOST"])
    expect(await ask(echo.port, known, host)).toBe("hello");
  using six = new Echo({ host: "::1" });
  for (const host of ["::1", "[::1]", "localhost"])
    expect(await ask(six.port, known, host)).toBe("hello");
  // A certificate with a name only is valid for that name, not for the server's address.
  const named = makeCertificate("LocalHost", authority); // no addresses in it
  using byName = new Echo({ tls: pick(named) });
  expect(await ask(byName.port, known, "localhost")).toBe("hello");
  await fails(ask(byName.port, known, "127.0.0.1"), "ERR_TLS_CERT_ALTNAME_INVALID");
  const scoped = checkTls("connect", known, { host: "fe80::1%eth0", port: 1 });
  expect(scoped.serverName).toBe("fe80::1"); // an address in a certificate has no interface
  using other = new Echo({ tls: pick(elsewhere) });
  expect(await ask(other.port, { ...known, serverName: "elsewhere.example" })).toBe("hello");
});

test("authorities: one, several in a text, several texts, bytes; a self-signed certificate is its own", async () => {
  using echo = new Echo();
  using own = new Echo({ tls: pick(selfSigned) });
  const both = [authority.cert, selfSigned.cert];
  for (const ca of [both, both.join(""), both.map((pem) => Buffer.from(pem))]) {
    expect(await ask(echo.port, { ca })).toBe("hello");
    expect(await ask(own.port, { ca })).toBe("hello");
  }
  expect(await ask(own.port, { ca: selfSigned.cert })).toBe("hello");
});

describe("the end", () => {
  /** Two ends of one connection over TLS. */
  async function pair(): Promise<[Socket, Socket]> {
    using listening = listen({ port: 0, tls: pick(server) });
    const connecting = connect({ port: listening.address.port, tls: known });
    return await Promise.all([connecting, listening.accept()]);
  }

  testPython("a close and a shutdown send close_notify, which Python asks for", async () => {
    using listening = listen({ port: 0, tls: pick(server) });
    for (const way of ["close", "shutdown"] as const) {
      await using peer = python(
        `${STRICT}
print("got", conn.recv(100), flush=True)
print("end", conn.recv(100), flush=True)`,
        listening.address.port,
        authority.cert,
      );
      const conn = await listening.accept();
      await conn.sendAll("last words");
      if (way === "close") conn.close();
      else conn.shutdown("write");
      await peer.until(/got b'last words'\s+end b''/);
      conn.close();
    }
  });

  testPython(
    "a FIN without close_notify cannot be told from an end; close_notify without a FIN is one",
    async () => {
      using listening = listen({ port: 0, tls: pick(server) });
      for (const end of [
        "socket.socket.shutdown(conn, socket.SHUT_WR)",
        "threading.Thread(target=conn.unwrap).start()",
      ]) {
        await using peer = python(
          `${STRICT}
conn.sendall(b"cut")
${end}
sys.stdin.read()`,
          listening.address.port,
          authority.cert,
        );
        using conn = await listening.accept();
        expect(String(await conn.recvExactly(3))).toBe("cut");
        expect(await conn.recv(10)).toHaveLength(0);
        await peer.endInput();
      }
    },
  );

  test("all that was sent arrives, though the program has ended: it waits for a slow reader", async () => {
    const size = 8 << 20;
    using listening = listen({ port: 0, tls: pick(server) });
    const program = `import { connect } from "./lib/socket.ts";
      const conn = await connect({ port: ${listening.address.port}, tls: { ca: process.env.CA } });
      const data = new Uint8Array(${size});
      let sent = 0;
      while (sent < data.length) {
        const taken = conn.trySend(data.subarray(sent));
        if (taken === 0) await conn.waitWritable();
        sent += taken;
        console.log(sent);
      }
      conn.close();
      console.log("closed");`;
    await using child = new Process([process.execPath, "-e", program], { CA: authority.cert });
    using conn = await listening.accept();
    let got = 0;
    while (!child.stdout.includes("closed")) {
      got += (await conn.recv(65_536)).length; // the rest is in the kernel and in Bun when it closes
      await Bun.sleep(1);
    }
    for await (const chunk of conn) got += chunk.length;
    expect(got).toBe(size);
    expect(await child.exit()).toBe(0);
  });

  test("bytes that nobody has read make a close a reset, as without TLS", async () => {
    const [near, far] = await pair();
    await near.sendAll(pattern(1 << 20));
    await far.waitReadable();
    far.close();
    await until(() => (near.poll() & 8) !== 0);
    await fails(near.sendAll("more"), "EPIPE", "ECONNRESET");
    near.close();
  });

  /** Sends until nothing fits any more, and closes: what is left waits for the peer to read. */
  function fillAndClose(conn: Socket): number {
    let sent = 0;
    for (let took = 1; took > 0; sent += took) took = conn.trySend(new Uint8Array(1 << 20));
    conn.close();
    return sent;
  }

  test("a closed connection that waits for its peer drops what comes, and ends when the peer has read", async () => {
    const before = sockets();
    const [near, far] = await pair();
    const both = sockets().difference(before);
    const sent = fillAndClose(near);
    await far.sendAll(new Uint8Array(32 << 20)); // more than the kernel's buffers hold
    expect(near.bytesReceived).toBeGreaterThan(0);
    expect(sockets().isSupersetOf(both)).toBe(true);
    const started = performance.now();
    expect((await far.recvExactly(sent)).length).toBe(sent);
    expect(await far.recv(1)).toHaveLength(0); // no reset, though nobody has received those
    await until(() => !sockets().isSupersetOf(both));
    expect(performance.now() - started).toBeLessThan(8_000);
    far.close();
  });

  test("a peer that resets ends the wait, and the program with it", async () => {
    using listening = listen({ port: 0, tls: pick(server) });
    const program = `import { connect } from "./lib/socket.ts";
      const conn = await connect({ port: ${listening.address.port}, tls: { ca: process.env.CA } });
      while (conn.trySend(new Uint8Array(1 << 20)) > 0);
      conn.close();
      console.log("closed");`;
    await using child = new Process([process.execPath, "-e", program], { CA: authority.cert });
    const conn = await listening.accept();
    await child.until(/closed/);
    const started = performance.now();
    conn.reset();
    expect(await child.exit()).toBe(0);
    expect(performance.now() - started).toBeLessThan(8_000);
  });

  test("a close that could send everything leaves no descriptor, also while the peer stays", async () => {
    const before = sockets();
    const [near, far] = await pair();
    await near.sendAll("x");
    near.close();
    for (let i = 0; i < 10; i++) await turn(); // far less than the 12 s for a peer that reads nothing
    expect(sockets().difference(before).size).toBe(1); // the peer's
    expect(String(await far.recv(1))).toBe("x");
    far.close();
  });

  test("resets and closes leave no descriptor", async () => {
    const before = sockets();
    for (let i = 0; i < 20; i++) {
      const [near, far] = await pair();
      near.sendAll("x").catch(() => {});
      if (i % 2 === 0) near.reset();
      else near.close();
      await far.waitReadable();
      far.close();
    }
    await until(() => sockets().difference(before).size === 0);
  });
});

/** A CPython client that treats an end without close_notify as an error. */
const STRICT = `
import ssl
context = ssl.create_default_context(cadata=sys.argv[2])
conn = context.wrap_socket(connect(sys.argv[1]), server_hostname="localhost", suppress_ragged_eofs=False)`;

describe("peers that take their time", () => {
  // Each of these takes ten seconds or more, so they run at the same time.
  test("10 s for a handshake, 12 s for an end; 300 who begin one do not keep a client out", async () => {
    using echo = new Echo();
    using mute = listen({ port: 0 });
    using listening = listen({ port: 0, tls: pick(server) });
    const [near, far] = await Promise.all([
      connect({ port: listening.address.port, tls: known }),
      listening.accept(),
    ]);
    const before = sockets();
    const started = performance.now();
    const seconds = () => (performance.now() - started) / 1000;

    const stalled = await Promise.all(
      Array.from({ length: 300 }, () => connect({ port: echo.port })),
    );
    for (const [i, conn] of stalled.entries()) await conn.sendAll(HELLO.subarray(0, i % 200));
    expect(await ask(echo.port)).toBe("hello");
    expect(seconds()).toBeLessThan(5);

    const client = fails(connect({ port: mute.address.port, tls: known }), "ETIMEDOUT");
    const held = mute.accept();

    // The receiver never reads: what the kernel has no room for is still in the sender.
    while (near.trySend(new Uint8Array(1 << 20)) > 0);
    near.close();
    const closed = (async () => {
      await until(() => (far.poll() & 8) !== 0);
      return seconds();
    })();

    expect((await client).reason).toBe("no TLS handshake within 10 s");
    expect(seconds()).toBeWithin(9.5, 11.5);
    await Promise.all(stalled.map((conn) => recvAll(conn).then(Boolean, () => true)));
    expect(seconds()).toBeWithin(9.5, 12);
    await until(() => echo.refused.length === 300);
    expect(echo.refused[0]).toEndWith(": no TLS handshake within 10 s");
    expect(await closed).toBeWithin(11.5, 14);
    const clock = spyOn(performance, "now"); // who sets a timer looks at it
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setTimeout(resolve, 1));
    expect(clock.mock.calls.length, "looks at the clock when all is over").toBeLessThan(5);
    clock.mockRestore();
    for (const conn of [...stalled, await held, far]) conn.close();
    await until(() => sockets().difference(before).size === 0);
  });
});

describe("handshakes and the backlog", () => {
  test("a handshake counts in the backlog: the newest beyond it are reset", async () => {
    using listening = listen({ port: 0, backlog: 3, tls: pick(server) });
    listening.onRefused = () => {};
    const { port } = listening.address;
    const begun: Socket[] = [];
    while (begun.length < 8) begun.push(await connect({ port }));
    const isReset = (conn: Socket) => (conn.poll() & 8) !== 0;
    await until(() => begun.some(isReset)); // after a second: a burst has that long
    expect(begun.map(isReset)).toEqual([false, false, false, true, true, true, true, true]);
    for (const conn of begun) conn.close();
  });

  test.each([
    [500, 511],
    [100, 2],
  ])("%d at once are all served, with a backlog of %d", async (clients, backlog) => {
    using echo = new Echo({ backlog });
    const all = await Promise.all(Array.from({ length: clients }, () => ask(echo.port)));
    expect(all.every((word) => word === "hello")).toBe(true);
    expect(echo.refused).toEqual([]);
  });

  test("a server that closes ends the handshakes that are under way", async () => {
    const listening = listen({ port: 0, tls: pick(server) });
    const conn = await connect({ port: listening.address.port });
    await conn.sendAll(HELLO.subarray(0, 50));
    for (let i = 0; i < 3; i++) await turn();
    listening.close();
    conn.setTimeout(5_000); // less than the 10 s that a handshake has
    await fails(conn.recv(1), "ECONNRESET");
    conn.close();
  });
});

test("a renewed certificate counts from the next handshake on; who is connected stays", async () => {
  const tls: { cert: string; key: string } = pick(server);
  using echo = new Echo({ tls });
  using before = await connect({ port: echo.port, tls: known });
  Object.assign(tls, pick(selfSigned));
  await fails(ask(echo.port), "DEPTH_ZERO_SELF_SIGNED_CERT");
  expect(await ask(echo.port, { ca: selfSigned.cert })).toBe("hello");
  await before.sendAll("still here");
  expect(String(await before.recvExactly(10))).toBe("still here");
});
