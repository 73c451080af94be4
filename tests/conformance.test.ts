// The conformance kit on every kind of socket.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect, listen } from "../lib/socket.ts";
import { checks, type Kind, libPeer, type Peer, runCheck } from "./conformance.ts";
import { PATIENCE_MS, Process, python, testPython } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const folder = mkdtempSync(join(tmpdir(), "conformance-"));
afterAll(() => rmSync(folder, { recursive: true }));
let files = 0;

/** Both ends over the lib; the one under test is the connected or the accepted one. */
function lib(
  end: "connected" | "accepted",
  where: () => { host: string } | { path: string },
  limit?: { timeout: number },
): Kind {
  return {
    hasReset: !("path" in where()),
    async make() {
      const at = where();
      using server = listen("path" in at ? at : { ...at, port: 0 });
      const target = "path" in at ? at : server.address;
      const [near, far] = await Promise.all([connect({ ...target, ...limit }), server.accept()]);
      const [conn, other] = end === "connected" ? [near, far] : [far, near];
      return { conn, peer: libPeer(other) };
    },
  };
}

// CPython executes commands, one a line. Sending runs in a thread, beside the other commands.
const OBEDIENT = `
import base64, json
def obey(conn):
    senders = []
    for line in sys.stdin:
        command, argument = json.loads(line)
        data = b""
        if command == "sendAll":
            senders.append(threading.Thread(target=conn.sendall, args=(base64.b64decode(argument),)))
            senders[-1].start()
        elif command == "recvExactly":
            while len(data) < argument and (chunk := conn.recv(argument - len(data))): data += chunk
        elif command == "recvToEnd":
            data = recv_all(conn)
        else:
            for sender in senders: sender.join()
            if command == "shutdownWrite": conn.shutdown(socket.SHUT_WR)
            elif command == "close": conn.close()
            elif command == "reset": reset(conn)
        print("done", base64.b64encode(data).decode() + ".", flush=True)
`;

function pythonPeer(process: Process): Peer {
  let answered = 0;
  let turn: Promise<unknown> = Promise.resolve();
  const tell = (command: string, argument: unknown = null): Promise<Buffer> => {
    const answer = turn.then(async () => {
      process.type(`${JSON.stringify([command, argument])}\n`);
      const [, data] = await process.until(
        new RegExp(`(?:done \\S*\\.\\s+){${answered++}}done (\\S*)\\.`),
      );
      return Buffer.from(data!, "base64");
    });
    turn = answer.catch(() => {});
    return answer;
  };
  return {
    sendAll: async (data) => void (await tell("sendAll", Buffer.from(data).toString("base64"))),
    recvExactly: (bytes) => tell("recvExactly", bytes),
    recvToEnd: () => tell("recvToEnd"),
    shutdownWrite: async () => void (await tell("shutdownWrite")),
    close: async () => void (await tell("close")),
    reset: async () => void (await tell("reset")),
    [Symbol.asyncDispose]: () => process[Symbol.asyncDispose](),
  };
}

const pythonServes: Kind = {
  hasReset: true,
  async make() {
    const process = python(`${OBEDIENT}\nobey(listen().accept()[0])`);
    const port = await process.port();
    process.stdout = "";
    return { conn: await connect({ port }), peer: pythonPeer(process) };
  },
};

const pythonConnects: Kind = {
  hasReset: true,
  async make() {
    using server = listen({ port: 0 });
    const process = python(`${OBEDIENT}\nobey(connect(sys.argv[1]))`, server.address.port);
    return { conn: await server.accept(), peer: pythonPeer(process) };
  },
};

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
] as [string, Kind][])("%s", (_kind, kind) => {
  test.each(names)("%s", (name) => runCheck(name, kind));
});

for (const [end, kind] of [
  ["server", pythonServes],
  ["client", pythonConnects],
] as const) {
  describe(`CPython is the ${end}`, () => {
    for (const name of names) testPython(name, () => runCheck(name, kind));
  });
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
