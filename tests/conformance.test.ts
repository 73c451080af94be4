// The conformance kit on every kind of socket.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect, listen } from "../lib/socket.ts";
import { makeCertificate } from "../scripts/secure/certificate.ts";
import { checks, type Kind, libPeer, type Peer, runCheck } from "./conformance.ts";
import { onlyTls, PATIENCE_MS, Process, python, testPython, type TlsVersion } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const folder = mkdtempSync(join(tmpdir(), "conformance-"));
afterAll(() => rmSync(folder, { recursive: true }));
let files = 0;
const { cert, key } = makeCertificate("localhost");
const pem = join(folder, "server.pem");
writeFileSync(pem, cert + key);

/** Both ends are sockets of the lib; the end under test is the connected or the accepted one. */
function lib(
  end: "connected" | "accepted",
  where: () => { host: string } | { path: string },
  limit?: { timeout: number },
  version?: TlsVersion,
): Kind {
  return {
    hasReset: !("path" in where()),
    async make() {
      const at = where();
      const tls = version && { cert, key };
      using server = listen("path" in at ? { ...at, tls } : { ...at, port: 0, tls });
      const target = { ...("path" in at ? at : server.address), ...limit };
      const secure = version && { ca: cert };
      using _limit = version && (await onlyTls(version));
      const connecting = connect({ ...target, tls: secure });
      const [near, far] = await Promise.all([connecting, server.accept()]);
      const [conn, other] = end === "connected" ? [near, far] : [far, near];
      return { conn, peer: libPeer(other) };
    },
  };
}

// CPython executes commands, one per line, and writes what it receives into a file. Sends run in threads,
// while the other commands go on.
const OBEDIENT = `
import base64, json
def obey(conn, answer):
    print("ready") # Python's side of a TLS handshake may end after ours
    senders = []
    for line in sys.stdin:
        command, argument = json.loads(line)
        data = bytearray()
        if command == "sendAll":
            senders.append(threading.Thread(target=conn.sendall, args=(base64.b64decode(argument),)))
            senders[-1].start()
        elif command == "recvExactly":
            while len(data) < argument and (chunk := conn.recv(argument - len(data))): data += chunk
        elif command == "recvToEnd":
            data = recv_all(conn)
        elif command == "recvToReset":
            try:
                while chunk := conn.recv(65536): data += chunk
                raise Exception("no reset")
            except ConnectionResetError: pass
        else:
            for sender in senders: sender.join()
            if command == "shutdownWrite": conn.shutdown(socket.SHUT_WR)
            elif command == "close": conn.close()
            elif command == "reset": reset(getattr(conn, "tcp", conn))
        with open(answer, "wb") as file: file.write(data)
        print("done")
`;

// CPython's TLS sockets cannot end only one direction, and cannot send in one thread while another receives.
// So this class does TLS over buffers in memory (MemoryBIO), as Python's documentation shows it.
const SECURE = `
import ssl
class Secure:
    def __init__(self, conn, server, version, pem):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version.replace(".", "_")]
        context.load_cert_chain(pem) if server else context.load_verify_locations(pem)
        self.tcp, self.incoming, self.outgoing = conn, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.lock, self.sending = threading.RLock(), threading.RLock()
        name = None if server else "localhost"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server, name)
        self.until_done(self.tls.do_handshake)
    def until_done(self, call):
        while True:
            try:
                with self.lock: return call()
            except ssl.SSLWantReadError: pass
            finally: self.flush()
            data = self.tcp.recv(65536)
            with self.lock: self.incoming.write(data) if data else self.incoming.write_eof()
    def flush(self):
        if not self.outgoing.pending: return
        with self.sending:
            with self.lock: data = self.outgoing.read()
            self.tcp.sendall(data)
    def sendall(self, data):
        for at in range(0, len(data), 65536):
            with self.lock: self.tls.write(data[at:at + 65536])
            self.flush()
    def recv(self, size):
        try: return self.until_done(lambda: self.tls.read(size))
        except ssl.SSLZeroReturnError: return b""
    def shutdown(self, how):
        try:
            with self.lock: self.tls.unwrap()
        except ssl.SSLWantReadError: pass
        self.flush()
        self.tcp.shutdown(how)
    def close(self):
        try: self.shutdown(socket.SHUT_WR)
        except OSError: pass
        self.tcp.close()
`;

function pythonPeer({ process, answer }: Obedient): Peer {
  let answered = 0;
  let turn: Promise<unknown> = Promise.resolve();
  const tell = (command: string, argument: unknown = null): Promise<Buffer> => {
    const told = turn.then(async () => {
      process.type(`${JSON.stringify([command, argument])}\n`);
      await process.until(new RegExp(`(?:done\n){${++answered}}`));
      return readFileSync(answer);
    });
    turn = told.catch(() => {});
    return told;
  };
  return {
    sendAll: async (data) => void (await tell("sendAll", Buffer.from(data).toString("base64"))),
    recvExactly: (bytes) => tell("recvExactly", bytes),
    recvToEnd: () => tell("recvToEnd"),
    recvToReset: () => tell("recvToReset"),
    shutdownWrite: async () => void (await tell("shutdownWrite")),
    close: async () => void (await tell("close")),
    reset: async () => void (await tell("reset")),
    [Symbol.asyncDispose]: () => process[Symbol.asyncDispose](),
  };
}

interface Obedient {
  process: Process;
  /** The file with what it received last. */
  answer: string;
}

function obedient(conn: string, isServer: boolean, version?: TlsVersion, port = 0): Obedient {
  const answer = join(folder, `${files++}`);
  const secure = `Secure(${conn}, ${isServer ? "True" : "False"}, "${version}", "${pem}")`;
  const obey = `obey(${version ? secure : conn}, "${answer}")`;
  return { process: python(`${OBEDIENT}${SECURE}\n${obey}`, port), answer };
}

const pythonServes = (version?: TlsVersion): Kind => ({
  hasReset: true,
  async make() {
    const python = obedient("listen().accept()[0]", true, version);
    const port = await python.process.port();
    const tls = version && { ca: cert };
    const conn = await connect({ port, tls });
    await python.process.until(/ready\n/);
    return { conn, peer: pythonPeer(python) };
  },
});

const pythonConnects = (version?: TlsVersion): Kind => ({
  hasReset: true,
  async make() {
    using server = listen({ port: 0, tls: version && { cert, key } });
    const python = obedient("connect(sys.argv[1])", false, version, server.address.port);
    return { conn: await server.accept(), peer: pythonPeer(python) };
  },
});

const names = Object.keys(checks);
const unix = () => ({ path: join(folder, `${files++}`) });

describe.each([
  ["IPv4, connected", lib("connected", () => ({ host: "127.0.0.1" }))],
  [
    "IPv4, connected within a limit",
    lib("connected", () => ({ host: "127.0.0.1" }), { timeout: 60_000 }),
  ],
  ["IPv4, accepted", lib("accepted", () => ({ host: "127.0.0.1" }))],
  ["IPv6, connected", lib("connected", () => ({ host: "::1" }))],
  ["IPv6, accepted", lib("accepted", () => ({ host: "::1" }))],
  ["Unix, connected", lib("connected", unix)],
  ["Unix, accepted", lib("accepted", unix)],
  ...(["TLSv1.2", "TLSv1.3"] as const).flatMap((version): [string, Kind][] => [
    [
      `IPv4, ${version}, connected`,
      lib("connected", () => ({ host: "127.0.0.1" }), undefined, version),
    ],
    [
      `IPv4, ${version}, accepted`,
      lib("accepted", () => ({ host: "127.0.0.1" }), undefined, version),
    ],
    [
      `IPv6, ${version}, connected within a limit`,
      lib("connected", () => ({ host: "::1" }), { timeout: 60_000 }, version),
    ],
    [`Unix, ${version}, accepted`, lib("accepted", unix, undefined, version)],
  ]),
] as [string, Kind][])("%s", (_kind, kind) => {
  test.each(names)("%s", (name) => runCheck(name, kind));
});

for (const version of [undefined, "TLSv1.2", "TLSv1.3"] as const) {
  for (const [end, kind] of [
    ["server", pythonServes(version)],
    ["client", pythonConnects(version)],
  ] as const) {
    describe(`CPython is the ${end}${version ? `, ${version}` : ""}`, () => {
      for (const name of names) testPython(name, () => runCheck(name, kind));
    });
  }
}

test("wrapped by --trace, a socket keeps every promise", async () => {
  await using traced = new Process([
    process.execPath,
    "run",
    "tests/fixtures/traced-conformance.ts",
  ]);
  expect(await traced.exit()).toBe(0);
  expect(traced.stdout).toBe(`${names.length} checks passed\n`);
  expect(traced.stderr).toContain(" -> ECONNRESET");
});
