// Our sockets against CPython's, call by call: the same random steps run on both, each time with a CPython
// process as the peer. Each call, at either end, has to give the same result.
//
// The steps leave out what our contract defines differently. After a reset or EPIPE was reported, CPython
// reports EOF (ours reports the same error every time). Our shutdown("read") drops bytes that have arrived
// (in C it does not). And a close is a reset if the kernel still holds bytes that were not received (our
// socket has read them by then), so everything is received before a close.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout } from "bun:test";
import fc from "fast-check";

import { SocketError } from "../lib/errors.ts";
import { connect, type Socket } from "../lib/socket.ts";
import { PATIENCE_MS, type Process, python, testPython } from "./helpers.ts";

setDefaultTimeout(Number(process.env.FUZZ_RUNS ?? 0) * 1000 + PATIENCE_MS);

/** A step: at which end, what, and of how many bytes. */
type Step = ["ours" | "peer", string, number];

// One end in Python: executes commands, one per line, and prints the result of each.
const END = `
import errno, json, sys
def told(call):
    try: return call()
    except BlockingIOError: return "would block"
    except TimeoutError: return "ETIMEDOUT"
    except OSError as error: return errno.errorcode[error.errno]
server = listen()
conn, sent = None, 0
def send(n):
    global sent
    data = bytes((sent + i) % 251 for i in range(n)); sent += n
    conn.settimeout(5)
    conn.sendall(data)
    return "sent"
def recv(n, timeout):
    conn.settimeout(timeout)
    data = conn.recv(n)
    return data.hex() or "EOF"
for line in sys.stdin:
    command, n = json.loads(line)
    if command in ("connect", "accept"):
        conn = server.accept()[0] if command == "accept" else connect(n)
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) # as Bun does: no send waits for an ACK
        sent = 0; out = "ok"
    elif command == "send": out = told(lambda: send(n))
    elif command == "tryRecv": out = told(lambda: recv(n, 0))
    elif command == "recv": out = told(lambda: recv(n, 0.02))
    elif command == "shutdown": out = told(lambda: conn.shutdown(socket.SHUT_WR) or "ok")
    elif command == "close": out = told(lambda: conn.close() or "ok")
    elif command == "reset": out = told(lambda: reset(conn) or "ok")
    print("told", out, flush=True)
`;

/** Something that executes steps: a Python process, or a socket of ours. */
type End = (command: string, n: number) => Promise<string>;

function pythonEnd(process: Process): End {
  return async (command, n) => {
    process.stdout = "";
    process.type(`${JSON.stringify([command, n])}\n`);
    const [, answer] = await process.until(/^told (.*)\n/);
    return answer!;
  };
}

function ourEnd(): End {
  let conn: Socket;
  let sent = 0;
  const does: Record<string, (n: number) => Promise<string> | string> = {
    connect: async (port) => ((conn = await connect({ port })), "ok"),
    async send(n) {
      const data = Uint8Array.from({ length: n }, (_, i) => (sent + i) % 251);
      sent += n;
      await conn.sendAll(data);
      return "sent";
    },
    tryRecv(n) {
      const data = conn.tryRecv(n);
      return data === null ? "would block" : data.toString("hex") || "EOF";
    },
    async recv(n) {
      conn.setTimeout(20);
      return (await conn.recv(n)).toString("hex") || "EOF";
    },
    shutdown: () => (conn.shutdown("write"), "ok"),
    close: () => (conn.close(), "ok"),
    reset: () => (conn.reset(), "ok"),
  };
  return async (command, n) => {
    try {
      return await does[command]!(n);
    } catch (error) {
      if (error instanceof SocketError) return error.code;
      throw error;
    }
  };
}

const size = fc.integer({ min: 1, max: 3000 });
const step: fc.Arbitrary<Step> = fc.tuple(
  fc.constantFrom("ours", "peer"),
  fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom("send", "tryRecv", "recv") },
    { weight: 1, arbitrary: fc.constantFrom("shutdown", "close", "reset") },
  ),
  size,
);

/** Runs the steps; gives the result of each. An end that is closed or has reported an error does no more. */
async function run(end: End, peer: End, port: number, steps: Step[]): Promise<string[]> {
  await end("connect", port);
  await peer("accept", 0);
  const over = new Set<string>();
  const told: string[] = [];
  for (const [who, command, n] of steps) {
    if (over.has(who)) continue;
    const one = who === "ours" ? end : peer;
    if (command === "close") while (/^[\da-f]+$/.test(await one("tryRecv", 65_536)));
    const answer = inContract(command, await one(command, n));
    told.push(`${who} ${command}(${n}): ${answer}`);
    if (/close|reset/.test(command) || /gone|^E(?!OF|TIMEDOUT)/.test(answer)) over.add(who);
    await settled();
  }
  for (const [who, one] of [
    ["ours", end],
    ["peer", peer],
  ] as const) {
    if (!over.has(who)) await one("close", 0);
  }
  return told;
}

// After the peer is gone, a send may fail with EPIPE or ECONNRESET, and a shutdown counts as "ok".
function inContract(command: string, answer: string): string {
  if (command === "send") return answer.replace(/EPIPE|ECONNRESET/, "the peer is gone");
  return command === "shutdown" ? answer.replace("ENOTCONN", "ok") : answer;
}

// On loopback, bytes have arrived when the send returns; our event loop needs a few turns to notice them.
async function settled(): Promise<void> {
  for (let i = 0; i < 4; i++) await new Promise((resolve) => setImmediate(resolve));
}

describe("call by call, as CPython", () => {
  let [ends, port] = [[] as Process[], 0];
  beforeAll(async () => {
    if (Bun.which("python3") === null) return;
    ends = [python(END), python(END)];
    port = await ends[1]!.port();
    await ends[0]!.port();
    for (const end of ends) end.stdout = "";
  });
  afterAll(async () => {
    for (const end of ends) await end[Symbol.asyncDispose]();
  });

  testPython("random steps at both ends", async () => {
    const [theirs, peer] = ends.map(pythonEnd) as [End, End];
    const steps = fc.array(step, { minLength: 1, maxLength: 16 });
    const property = fc.asyncProperty(steps, async (some) => {
      const expected = await run(theirs, peer, port, some);
      const got = await run(ourEnd(), peer, port, some);
      expect(got).toEqual(expected);
    });
    const { FUZZ_SEED, FUZZ_RUNS = "100" } = process.env;
    const seed = FUZZ_SEED === undefined ? undefined : Number(FUZZ_SEED);
    await fc.assert(property, { numRuns: Number(FUZZ_RUNS), seed });
  });
});
