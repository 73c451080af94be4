// serve: many connections at once within limits, what happens when a handler fails, and an end that
// loses nothing.

import { getEventListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";

import { delimited, lengthPrefixed, messages, sendMessage } from "../lib/framing.ts";
import { encodeProxyHeader, type ProxyHeader } from "../lib/relay.ts";
import { SocketError } from "../lib/errors.ts";
import { type Handler, serve, type ServeOptions } from "../lib/serve.ts";
import { connect, listen, type ServerSocket, type Socket, socketpair } from "../lib/socket.ts";
import { waiting } from "../lib/socket/queues.ts";
import {
  fails,
  PATIENCE_MS,
  Process,
  python,
  recvAll,
  script,
  servers,
  testPython,
  turn,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const echo: Handler = async (conn) => {
  for await (const chunk of conn) await conn.sendAll(chunk);
};

/** A server that runs until it is stopped; `told` is what `onError` was called with. */
class Service implements AsyncDisposable {
  readonly server: ServerSocket = listen({ port: 0 });
  readonly told: unknown[] = [];
  readonly over: Promise<void>;
  readonly #stop = new AbortController();

  constructor(handle: Handler, options: Partial<ServeOptions> = {}) {
    const onError = (error: unknown) => void this.told.push(error);
    const limits = { maxConnections: 1000, idleTimeout: 0, onError };
    this.over = serve(this.server, handle, { ...limits, signal: this.signal, ...options });
  }

  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  connect(): Promise<Socket> {
    return connect(this.server.address);
  }

  stop(): void {
    this.#stop.abort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    await this.over;
  }
}

/** Sends something and waits for the echo: after that, the handler is running. */
async function greet(conn: Socket, text = "hello"): Promise<Socket> {
  await conn.sendAll(text);
  expect(String(await conn.recvExactly(text.length))).toBe(text);
  return conn;
}

describe("a handler", () => {
  test.each([
    ["an error", new Error("wrong")],
    ["null", null],
    ["undefined", undefined],
    ["text", "wrong"],
  ])("that throws %s resets its own connection, and that is told once", async (_, thrown) => {
    await using service = new Service(async (conn) => {
      for await (const chunk of conn) {
        if (String(chunk) === "throw") throw thrown;
        await conn.sendAll(chunk);
      }
    });
    using stays = await greet(await service.connect());
    using conn = await service.connect();
    await conn.sendAll("throw");
    await fails(recvAll(conn), "ECONNRESET"); // a FIN would make a partial reply look complete
    expect(service.told).toEqual([thrown]);
    await greet(stays, "still here");
  });

  test("that throws before its first await is no other", async () => {
    await using service = new Service(() => {
      throw new Error("at once");
    });
    using conn = await service.connect();
    await fails(recvAll(conn), "ECONNRESET");
    expect(String(service.told)).toBe("Error: at once");
  });

  test("that resets or closes its connection itself needs no warning", async () => {
    await using service = new Service(async (conn) => {
      for await (const order of conn) {
        if (String(order) === "close") conn.close();
        else conn.reset();
      }
    });
    using closed = await service.connect();
    await closed.sendAll("close");
    expect(await recvAll(closed)).toHaveLength(0);
    using reset = await service.connect();
    await reset.sendAll("reset");
    await fails(recvAll(reset), "ECONNRESET");
    expect(service.told).toEqual([]);
  });

  test("that uses another connection which is closed has made a mistake, and that is told", async () => {
    const { near, far } = await socketpair();
    for (const end of [near, far]) end.close();
    await using service = new Service(() => near.sendAll("x"));
    using conn = await service.connect();
    await fails(recvAll(conn), "ECONNRESET");
    expect(service.told).toMatchObject([{ code: "EBADF" }]);
  });

  test("closes by ending; what it sent arrives, in full", async () => {
    const data = Buffer.alloc(5_000_000, "all of it ");
    await using service = new Service((conn) => conn.sendAll(data));
    using conn = await service.connect();
    expect((await recvAll(conn)).equals(data)).toBe(true);
    expect(service.told).toEqual([]);
  });
});

describe("when the signal comes", () => {
  test("what has come to the kernel by then is answered, too", async () => {
    const service = new Service(echo);
    using conn = await greet(await service.connect());
    await conn.sendAll("in time"); // on loopback it has arrived by then, but the server has not read it
    service.stop();
    expect(String(await recvAll(conn))).toBe("in time");
    conn.close();
    await service.over;
    expect(service.told).toEqual([]);
  });

  test("idle clients see an end, nobody new is accepted, and serve is over", async () => {
    const service = new Service(echo);
    const clients = await Promise.all(Array.from({ length: 50 }, service.connect.bind(service)));
    await Promise.all(clients.map((conn) => greet(conn)));
    service.stop();
    await fails(service.connect(), "ECONNREFUSED");
    for (const conn of clients) expect(await conn.recv(1)).toHaveLength(0);
    for (const conn of clients) conn.close();
    await service.over;
    expect(service.told).toEqual([]);
  });

  test("what had come is answered, and clients in the middle of sending see no reset", async () => {
    const framing = delimited();
    const service = new Service(async (conn) => {
      for await (const message of messages(conn, framing))
        await sendMessage(conn, framing, message);
    });
    let answered = 0;
    const talk = async () => {
      using conn = await service.connect();
      let sent = 0;
      const sending = (async () => {
        for (;;) {
          await conn.sendAll(`message ${sent}\n`);
          sent++;
          if (sent % 10 === 0) await Bun.sleep(0);
        }
      })().catch(() => {});
      let got = "";
      for await (const chunk of conn) {
        got += chunk;
        answered++;
      }
      conn.close();
      await sending;
      // What came back is the beginning of what was sent. The last message of it may be incomplete.
      const lines = got.split("\n");
      lines.slice(0, -1).forEach((line, i) => expect(line).toBe(`message ${i}`));
      return lines.length;
    };
    const clients = Array.from({ length: 20 }, talk);
    while (answered < 1_000) await Bun.sleep(1);
    service.stop();
    for (const lines of await Promise.all(clients)) expect(lines).toBeGreaterThan(1);
    await service.over;
    expect(service.told).toEqual([]);
  });

  test("a handler is given the signal, and has until the grace is over; then a reset, and a word", async () => {
    let finished = false;
    const service = new Service(
      async (conn, signal) => {
        await conn.sendAll("hello");
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
        if (String(await conn.recv(100)) === "stay") await conn.recv(1).then(() => Bun.sleep(300));
        finished = true;
        await conn.sendAll("bye");
      },
      { grace: 0.1 },
    );
    using stays = await service.connect();
    await stays.recvExactly(5);
    await stays.sendAll("stay");
    using goes = await service.connect();
    await goes.recvExactly(5);
    await Bun.sleep(10); // so that "stay" has arrived
    service.stop();
    expect(String(await recvAll(goes))).toBe("bye");
    finished = false;
    await fails(recvAll(stays), "ECONNRESET");
    expect(finished).toBe(false);
    await service.over;
    expect(finished).toBe(true); // serve resolves after its last handler
    expect(service.told).toEqual(["open after the grace, and reset: 1"]);
  });

  test("a client that takes nothing is reset when the grace is over, not cut off with an end", async () => {
    const block = Buffer.alloc(64 << 20);
    const service = new Service((conn) => conn.sendAll(block), { grace: 0.1 });
    using conn = await service.connect();
    await conn.waitReadable();
    service.stop();
    await service.over;
    await fails(recvAll(conn), "ECONNRESET");
    expect(service.told).toEqual(["open after the grace, and reset: 1"]);
  });

  test("a client that does not close has its end at once, and serve waits no longer than the grace", async () => {
    const service = new Service(echo, { grace: 0.1 });
    using conn = await greet(await service.connect());
    service.stop();
    expect(await conn.recv(1)).toHaveLength(0);
    await conn.sendAll("into the void"); // nobody is warned: this is not an error of the server
    await service.over;
    expect(service.told).toEqual([]);
  });

  test("a wait that the signal called off is no error", async () => {
    const service = new Service(async (conn, signal) => {
      await conn.sendAll("hello");
      if (String(await conn.recv(1)) === "s") await sleep(60_000, undefined, { signal });
      await conn.recv(100, { signal });
    });
    const clients = [await service.connect(), await service.connect()];
    for (const conn of clients) await conn.recvExactly(5);
    await clients[0]!.sendAll("s");
    await clients[1]!.sendAll("r");
    await Bun.sleep(20);
    service.stop();
    for (const conn of clients) expect(await recvAll(conn)).toHaveLength(0);
    for (const conn of clients) conn.close();
    await service.over;
    expect(service.told).toEqual([]);
  });

  test("a handler's own protocol error after it resets, and is told", async () => {
    const wrong = new SocketError("EPROTO", "recv", { host: "192.0.2.1", port: 1 });
    const service = new Service(async (conn, signal) => {
      await conn.sendAll("half");
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      throw wrong;
    });
    using conn = await service.connect();
    expect(String(await conn.recvExactly(4))).toBe("half");
    service.stop();
    await fails(conn.recv(1), "ECONNRESET");
    await service.over;
    expect(service.told).toEqual([wrong]);
  });

  const byLines: Handler = async (conn) => {
    for await (const message of messages(conn, delimited())) await conn.sendAll(message);
  };
  test.each([
    ["in the middle of a message", byLines, {}, "hal"],
    ["that has not sent its PROXY header", echo, { acceptProxy: true }, "PROXY TCP4 "],
  ])("a client %s sees an end, and nobody is warned", async (_, handle, options, begins) => {
    const service = new Service(handle, options);
    using conn = await service.connect();
    await conn.sendAll(begins);
    for (let i = 0; i < 5; i++) await turn(); // it is accepted
    service.stop();
    expect(await recvAll(conn)).toHaveLength(0);
    conn.close();
    await service.over;
    expect(service.told).toEqual([]);
  });

  test("what a client sends after its handler has ended is dropped, and does not reset it", async () => {
    const service = new Service(async (conn, signal) => {
      await conn.sendAll("hello");
      await conn.recv(1, { signal });
    });
    using conn = await service.connect();
    await conn.recvExactly(5);
    service.stop();
    expect(await recvAll(conn)).toHaveLength(0);
    await conn.sendAll(Buffer.alloc(16 << 20));
    conn.close(); // sends a FIN: the server has taken all of it
    await service.over;
    expect(service.told).toEqual([]);
  });

  test("that has come already: nobody is served", async () => {
    const server = listen({ port: 0 });
    await serve(server, echo, { maxConnections: 1, idleTimeout: 0, signal: AbortSignal.abort() });
    await fails(connect(server.address), "ECONNREFUSED");
  });

  test("after the end of a server, nothing listens to it", async () => {
    const { signal } = new AbortController();
    const server = listen({ port: 0 });
    const served = serve(server, echo, { maxConnections: 1, idleTimeout: 0, signal });
    using conn = await connect(server.address);
    await greet(conn);
    expect(getEventListeners(signal, "abort")).not.toHaveLength(0);
    server.close();
    conn.close();
    await served;
    expect(getEventListeners(signal, "abort")).toHaveLength(0);
  });
});

test("without a signal it is over after close(), and after its last handler", async () => {
  using server = listen({ port: 0 });
  let isOver = false;
  const served = serve(server, echo, { maxConnections: 10, idleTimeout: 0 });
  served.then(() => (isOver = true));
  using conn = await connect(server.address);
  await greet(conn);
  server.close();
  await greet(conn, "goes on"); // its handler is not told to stop, and has no time limit
  expect(isOver).toBe(false);
  conn.close();
  await served;
});

describe("limits", () => {
  test("what may wait in all connections together is shared out among the threads", async () => {
    const stop = new AbortController();
    using server = listen({ port: 0 });
    const limits = { maxConnections: 9, idleTimeout: 0, maxBuffered: 64, signal: stop.signal };
    const over = serve(server, echo, limits, new Int32Array(2 + 4));
    while (waiting.limit === Infinity) await turn();
    expect(waiting.limit).toBe((64 << 20) / 4);
    stop.abort();
    await over;
    waiting.limit = Infinity;
  });

  test("connections over the maximum are reset, and that is told once, until one is accepted", async () => {
    await using service = new Service(echo, { maxConnections: 2 });
    const over = async () => {
      using conn = await service.connect();
      await fails(recvAll(conn), "ECONNRESET");
    };
    const warning = "2 connections are open: more are refused until one ends";
    using stays = await greet(await service.connect());
    const goes = await greet(await service.connect());
    for (let i = 0; i < 3; i++) await over();
    expect(service.told).toEqual([warning]);
    goes.close();
    const served = async () => greet(await service.connect()).catch(() => null);
    let another = await served();
    while (another === null) another = await served();
    for (let i = 0; i < 3; i++) await over();
    expect(service.told).toEqual([warning, warning]); // one for each time that it was full
    another.close();
    await greet(stays);
  });

  test("idle is when no byte moves either way: neither a slow sender nor one who listens is", async () => {
    await using service = new Service(
      async (conn) => {
        const [order] = await conn.recv(1);
        if (order === 0x64)
          for (let i = 0; i < 10; i++) await conn.sendAll("x").then(() => Bun.sleep(100));
        else for await (const _ of conn);
        await conn.sendAll("done");
      },
      { idleTimeout: 0.4 },
    );
    using download = await service.connect();
    await download.sendAll("d");
    using upload = await service.connect();
    const uploading = (async () => {
      await upload.sendAll("u");
      for (let i = 0; i < 10; i++) await upload.sendAll("x").then(() => Bun.sleep(100));
      upload.shutdown("write");
    })();
    using silent = await service.connect();
    const end = await silent.recv(1).catch((error) => error);
    expect(end.length === 0 || end.code === "ECONNRESET").toBe(true);
    expect(service.told).toHaveLength(1);
    expect((service.told[0] as { code: string }).code).toBe("ETIMEDOUT");
    expect(String(await recvAll(download))).toBe("xxxxxxxxxxdone");
    await uploading;
    expect(String(await recvAll(upload))).toBe("done");
    expect(service.told).toHaveLength(1);
  });

  test("idle with a send under way: the part that went does not end like the whole", async () => {
    await using service = new Service((conn) => conn.sendAll(Buffer.alloc(64 << 20)), {
      idleTimeout: 0.2,
    });
    using conn = await service.connect();
    await conn.waitReadable();
    while (service.told.length === 0) await Bun.sleep(10);
    await fails(recvAll(conn), "ECONNRESET");
  });

  test("what waits in all connections together: nothing more is received above the limit", async () => {
    const MIB = 1 << 20;
    const framing = lengthPrefixed();
    const service = new Service(
      async (conn) => {
        for await (const message of messages(conn, framing))
          await sendMessage(conn, framing, message);
      },
      { maxBuffered: 4, grace: 0 },
    );
    // Twenty clients send messages of a mebibyte, and read nothing.
    const clients = await Promise.all(Array.from({ length: 20 }, () => service.connect()));
    const frame = Buffer.concat([Buffer.from([0, 0x10, 0, 0]), Buffer.alloc(MIB)]);
    const sent = clients.map(() => 0);
    let most = 0;
    for (let quiet = 0; quiet < 100; quiet++) {
      clients.forEach((conn, i) => {
        const taken = conn.trySend(frame.subarray(sent[i]! % frame.length));
        sent[i]! += taken;
        if (taken > 0) quiet = 0;
      });
      most = Math.max(most, waiting.bytes);
      await turn();
    }
    expect(most).toBeGreaterThan(4 * MIB);
    const limit = 4 * MIB + 4 * MIB + 2 * MIB; // more than 4 MiB: some connections may finish a message
    expect(most).toBeLessThan(limit);
    // Nothing is received from new connections either.
    const late = await Promise.all(Array.from({ length: 20 }, () => service.connect()));
    for (const conn of late) conn.trySend(frame);
    for (let i = 0; i < 50; i++) await turn();
    expect(waiting.bytes).toBeLessThan(limit);
    service.stop();
    for (const conn of [...clients, ...late]) conn.reset();
    await service.over;
    expect(waiting.bytes).toBe(0);
  });

  testPython("as many connections as there are descriptors for, at two for each", async () => {
    const lib = JSON.stringify(new URL("../lib", import.meta.url).pathname);
    const code = `
      const { serve } = await import(${lib} + "/serve.ts");
      const { listen, connect } = await import(${lib} + "/socket.ts");
      const back = listen({ port: 0 }), server = listen({ port: 0 });
      console.log(server.address.port);
      serve(back, async (conn) => { for await (const chunk of conn) await conn.sendAll(chunk); },
        { maxConnections: 1000, idleTimeout: 0, descriptors: 1 });
      await serve(server, async (conn) => {
        using there = await connect(back.address);
        for await (const chunk of conn) { await there.sendAll(chunk); await conn.sendAll(await there.recv(100)); }
      }, { maxConnections: 1000, idleTimeout: 0, descriptors: 3 });`;
    // In this test, one process has both servers: three descriptors for each connection.
    const bash = `ulimit -n 160; exec '${process.execPath}' -e '${code}'`;
    await using proxy = new Process(["bash", "--norc", "-c", bash]);
    await using crowd = python(
      `
crowd = [connect(sys.argv[1]) for _ in range(200)]
def served(c):
    try: c.settimeout(10); c.sendall(b"x"); return c.recv(1) == b"x"
    except ConnectionError: return False
print("served", sum(map(served, crowd)))`,
      await proxy.port(),
    );
    const [, served] = await crowd.until(/served (\d+)\n/);
    expect(Number(served)).toBeGreaterThan(30);
    expect(Number(served)).toBeLessThanOrEqual(42); // (160 - 32) / 3
    expect(proxy.stderr).toMatch(/^42 connections are open: more are refused until one ends\n/);
  });
});

describe.each([
  ["echo-threaded-server", []],
  ["echo-threaded-server", ["--relay"]],
  ["reply-threaded-server", []],
  ["message-server", ["--framing", "delimited"]],
  ["select-server", []],
])("SIGTERM to %s %p", (name, args) => {
  testPython("100 of 100 clients see an end and no reset, whatever they are doing", async () => {
    await using server = script(name, ["--port", "0", ...args]);
    // A third of them is idle, a third sends and receives all the time, a third only sends.
    await using clients = python(
      `
import resource
ends = []
def talk(i):
    c = connect(sys.argv[1]); c.sendall(b"hello\\n"); c.recv(100)
    ready.release()
    try:
        sender = threading.Thread(target=send, args=(c, i)); sender.start()
        while c.recv(65536): pass
        ends.append("EOF")
    except OSError as e: ends.append(repr(e))
    closing.add(c); sender.join(); c.close()
closing = set()
def send(c, i):
    try:
        while i % 3 and c not in closing: c.sendall(b"message\\n"); time.sleep(0.001)
    except OSError as e: ends.append("send " + repr(e))
ready = threading.Semaphore(0)
threads = [threading.Thread(target=talk, args=(i,)) for i in range(100)]
for t in threads: t.start()
for t in threads: ready.acquire()
print("ready", flush=True)
for t in threads: t.join()
print("ends", sorted(ends).count("EOF"), set(ends))`,
      await server.port(),
    );
    await clients.until(/ready/);
    server.kill("SIGTERM");
    await clients.until(/ends .*\n/);
    expect(clients.stdout).toEndWith("ends 100 {'EOF'}\n");
    expect(await server.exit()).toBe(0);
    expect(server.stderr).toBe("");
  });
});

test("--log: a line when a connection ends, and one a minute with what is open and what was refused", async () => {
  const written: string[] = [];
  using writing = spyOn(console, "error").mockImplementation((line) => void written.push(line));
  using timers = spyOn(globalThis, "setInterval");
  await using service = new Service(echo, { maxConnections: 2, log: true });
  using one = await service.connect();
  using two = await service.connect();
  for (const conn of [one, two]) {
    await conn.sendAll("hello");
    await conn.recvExactly(5);
  }
  using refused = await service.connect();
  await fails(refused.recv(1), "ECONNRESET");
  const until = async (count: number) => {
    while (written.length < count) await sleep(1);
  };
  const clock = "\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z";
  const says = (what: string) => expect.stringMatching(new RegExp(`^${clock} ${what}$`));
  const name = (conn: Socket) => `127\\.0\\.0\\.1:${conn.localAddress.port}`;
  const minute = timers.mock.calls.findIndex(([, ms]) => ms === 60_000);
  const everyMinute = timers.mock.calls[minute]![0] as () => void;
  everyMinute();
  everyMinute();
  one.shutdown("write");
  await until(3);
  two.reset();
  await until(4);
  expect(written).toEqual([
    says("2 open, 1 refused"),
    says("2 open, 0 refused"), // none since the last line
    says(`${name(one)} ended: \\d+\\.\\d s, 5 bytes in, 5 out`),
    says(`${name(two)} ECONNRESET: \\d+\\.\\d s, 5 bytes in, 5 out`),
  ]);
  expect(writing).toHaveBeenCalledTimes(4);
  service.stop();
  await service.over;
  expect(timers.mock.results[minute]!.value).toHaveProperty("_destroyed", true); // it was cleared
});

test.each([
  ["a proxy's own connection", encodeProxyHeader({ source: null, destination: null })],
  ["a client of no address", Buffer.from("PROXY UNKNOWN\r\n")],
])("a handler that throws for %s resets it, and is told", async (_, header) => {
  const thrown = new Error("half a reply");
  const half: Handler = async (conn) => {
    await conn.sendAll(await conn.recv(4));
    throw thrown;
  };
  await using service = new Service(half, { acceptProxy: true });
  using conn = await service.connect();
  await conn.sendAll(Buffer.concat([header, Buffer.from("half")]));
  expect(String(await conn.recvExactly(4))).toBe("half");
  await fails(conn.recv(1), "ECONNRESET");
  expect(service.told).toEqual([thrown]);
});

test("behind a proxy, its health checks are not told of, and clients by their own address", async () => {
  await using server = script("echo-threaded-server", ["--port=0", "--accept-proxy", "--log"]);
  const port = await server.port();
  const at = (last: number) => ({ host: "192.0.2.7", port: last });
  const destination = { host: "192.0.2.1", port: 4000 };
  const visit = async (header: ProxyHeader) => {
    using conn = await connect({ port });
    await conn.sendAll(encodeProxyHeader(header));
    await greet(conn);
    conn.reset();
  };
  await visit({ source: null, destination: null }); // a health check ends with a reset, as checks do
  await visit({ source: at(1), destination });
  await server.until(/^.*Z 192\.0\.2\.7:1 ECONNRESET: .*\n/m, "stderr");
  await server.until(/^warning: connection with 192\.0\.2\.7:1: .*\n/m, "stderr");
  expect(server.stderr.match(/\n/g)).toHaveLength(2);
});

// Servers for one client at a time have no --log, and servers for datagrams have no connections.
const many = [...servers, "proxy"].filter((name) => !/^echo-(loop-)?server$/.test(name));
test.each(many)("%s --log tells who has ended", async (name) => {
  const to = name === "proxy" ? ["--to", "127.0.0.1:1"] : [];
  const flags = ["--host", "127.0.0.1", "--port", "0", "--log", ...to];
  await using server = script(name, flags);
  using conn = await connect({ port: await server.port() });
  conn.shutdown("write");
  const line = `^[-\\dT:.]+Z 127\\.0\\.0\\.1:${conn.localAddress.port} \\w+: 0\\.\\d s, \\d+ bytes in, \\d+ out\n`;
  await server.until(new RegExp(line, "m"), "stderr");
});

test("--log counts what the client sent, and not the relay's or the proxy's header", async () => {
  const flags = ["--port=0", "--log", "--relay", "--accept-proxy"];
  await using server = script("echo-threaded-server", flags);
  using conn = await connect({ port: await server.port() });
  await conn.sendAll("PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n");
  await greet(conn);
  conn.shutdown("write");
  await server.until(/Z 192\.0\.2\.7:1 ended: 0\.\d s, 5 bytes in, 5 out\n/, "stderr");
});

test("without --log nothing is written, and no timer runs", async () => {
  using writing = spyOn(console, "error");
  using timers = spyOn(globalThis, "setInterval");
  await using service = new Service(echo);
  using conn = await service.connect();
  await conn.sendAll("x");
  await conn.recvExactly(1);
  conn.shutdown("write");
  await recvAll(conn);
  expect(writing).not.toHaveBeenCalled();
  expect(timers.mock.calls.filter(([, ms]) => ms === 60_000)).toEqual([]);
});
