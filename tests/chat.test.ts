// chat-server: what people may send each other, people who hold others up, and several servers as one room.

import { RedisClient } from "bun";
import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect, listen, type Socket } from "../lib/socket.ts";
import {
  failure,
  fill,
  freePort,
  PATIENCE_MS,
  Process,
  python,
  recvAll,
  script,
  testPython,
  testWith,
  turn,
} from "./helpers.ts";

setDefaultTimeout(3 * PATIENCE_MS);

const chat = (...args: string[]) => script("chat-server", ["--port", "0", ...args]);

/** A person at a keyboard, who sees lines. */
class Person implements Disposable {
  seen = "";
  readonly #decoder = new TextDecoder();

  constructor(readonly conn: Socket) {}

  static async at(port: number, name?: string): Promise<Person> {
    const person = new Person(await connect({ port }));
    await person.sees("What is your name?");
    if (name === undefined) return person;
    await person.says(name);
    await person.sees(`Welcome, ${name}`);
    return person;
  }

  says(line: string): Promise<void> {
    return this.conn.sendAll(`${line}\n`);
  }

  /** Checks that these are the next lines; waits for them. */
  async sees(...lines: string[]): Promise<void> {
    for (const line of lines) expect(await this.next()).toBe(line);
  }

  /** The next line; null at the end. */
  async next(): Promise<string | null> {
    for (;;) {
      const end = this.seen.indexOf("\n");
      if (end >= 0) {
        const line = this.seen.slice(0, end);
        this.seen = this.seen.slice(end + 1);
        return line;
      }
      const chunk = await this.conn.recv(65_536);
      if (chunk.length === 0) return null;
      this.seen += this.#decoder.decode(chunk, { stream: true });
    }
  }

  [Symbol.dispose](): void {
    this.conn.close();
  }
}

describe("chat-server", () => {
  test("asks for a name, tells who comes and goes, and passes lines on to all others", async () => {
    await using server = chat();
    const port = await server.port();
    using ann = await Person.at(port, "ann");
    using bob = await Person.at(port, "bob");
    await ann.sees("* bob joined");
    await ann.says("hello");
    await bob.sees("ann: hello");
    await bob.says("/who");
    await bob.sees("* here: ann, bob");
    await bob.says("/quit");
    expect(await bob.next()).toBeNull();
    await ann.sees("* bob left"); // and none of her own lines
    using again = await Person.at(port, "bob");
    await ann.sees("* bob joined");
    again.conn.shutdown("write");
    await ann.sees("* bob left");
    expect(await again.next()).toBeNull();
    expect(server.stderr).toBe("");
  });

  test("Korean cut anywhere, CRLF, an empty line, a last line without its end", async () => {
    await using server = chat();
    const port = await server.port();
    using ann = await Person.at(port, "앤");
    using bob = await Person.at(port);
    for (const byte of Buffer.from("밥\r\n안녕하세요 🙂\r\n\nbye")) {
      await bob.conn.sendAll(Uint8Array.of(byte));
      await turn();
    }
    bob.conn.shutdown("write");
    await ann.sees("* 밥 joined", "밥: 안녕하세요 🙂", "밥: ", "밥: bye", "* 밥 left");
  });

  test("what would command a terminal does not get through", async () => {
    await using server = chat();
    const port = await server.port();
    using ann = await Person.at(port, "ann");
    using bob = await Person.at(port, "bob");
    await ann.sees("* bob joined");
    const every = Array.from({ length: 32 }, (_, code) => String.fromCodePoint(code)).join("");
    await bob.says(`a${every.replace("\n", "")}b\x7f\x9b\x85c\u202ed\u2066e\u2028f`);
    await ann.sees("bob: abcdef");
    await bob.says("\x1b[2J\x1b]0;title\x07 hi");
    await ann.sees("bob: [2J]0;title hi");
    await bob.conn.sendAll(Buffer.from([0xff, 0xc0, 0x80, 0x0a])); // no UTF-8
    expect(await ann.next()).toMatch(/^bob: \ufffd+$/);
  });

  test("a name is 1 to 32 printable characters, no blanks, and nobody else's", async () => {
    await using server = chat();
    const port = await server.port();
    using ann = await Person.at(port, "ann");
    using bob = await Person.at(port);
    const wrong = [
      "",
      " ",
      "two words",
      " bob",
      "bob ",
      "x".repeat(33),
      "a\x1bb",
      "a\u200bb",
      "a\u202eb",
    ];
    for (const name of [...wrong, "ann"]) {
      await bob.says(name);
      await bob.sees("What is your name?");
    }
    const longest = "🙂".repeat(32);
    await bob.says(longest);
    await bob.sees(`Welcome, ${longest}`);
    await ann.sees(`* ${longest} joined`);
    // The same name in another Unicode form (NFD), as some keyboards type it.
    using gan = await Person.at(port, "가나");
    using gan2 = await Person.at(port);
    await gan2.says("가나".normalize("NFD"));
    await gan2.sees("What is your name?");
    // Two people ask for the same name at once: only one gets it.
    using one = await Person.at(port);
    using two = await Person.at(port);
    await Promise.all([one.says("both"), two.says("both")]);
    const answers = await Promise.all([one.next(), two.next()]);
    expect(answers.sort()).toEqual(["Welcome, both", "What is your name?"]);
  });

  test("a name or a line without end ends its own connection", async () => {
    await using server = chat();
    const port = await server.port();
    using ann = await Person.at(port, "ann");
    using endless = await Person.at(port);
    const sending = endless.conn.sendAll(Buffer.alloc(1 << 20, "x")).catch(() => {});
    await failure(async () => {
      while ((await endless.next()) !== null);
      throw new Error("an end");
    });
    await sending;
    using bob = await Person.at(port, "bob");
    await ann.sees("* bob joined");
    await bob.says("x".repeat(1024));
    await ann.sees(`bob: ${"x".repeat(1024)}`);
    await bob.says("x".repeat(1025));
    await ann.sees("* bob left (line too long)");
    expect(await bob.next()).toBe("* you have to go (line too long)");
  });

  test("resets: who left is told, and others go on", async () => {
    await using server = chat();
    const port = await server.port();
    using ann = await Person.at(port, "ann");
    using unnamed = await Person.at(port);
    unnamed.conn.reset();
    for (let i = 0; i < 5; i++) {
      using bob = await Person.at(port, "bob");
      await ann.sees("* bob joined");
      bob.conn.reset();
      await ann.sees("* bob left");
    }
    expect(server.stderr).toMatch(/^(warning: connection with .*: connection reset by peer.*\n)+$/);
  });

  test("500 people: each line reaches all others once, in the order of its speaker", async () => {
    await using server = chat();
    const port = await server.port();
    const people = await Promise.all(
      Array.from({ length: 500 }, (_, i) => Person.at(port, `p${i}`)),
    );
    const talks = async (person: Person, i: number) => {
      if (i >= 10) return;
      for (let n = 0; n < 5; n++) await person.says(`${n}`);
    };
    await Promise.all(people.map(talks));
    const hears = async (person: Person, i: number) => {
      const next = new Map<string, number>();
      for (let heard = 0; heard < (i < 10 ? 45 : 50);) {
        const line = (await person.next())!;
        const [, who, n] = line.match(/^(p\d+): (\d)$/) ?? [];
        if (who === undefined) continue; // somebody has joined
        expect(who).not.toBe(`p${i}`);
        expect(Number(n)).toBe(next.get(who) ?? 0);
        next.set(who, Number(n) + 1);
        heard++;
      }
    };
    await Promise.all(people.map(hears));
    for (const person of people) person[Symbol.dispose]();
  });
});

const LINES = 200_000;
const line = (i: number) => `${i} ${"x".repeat(30)}`; // all lines together are more than the kernel buffers

/** Says `LINES` numbered lines as fast as the server takes them; calls `said` with the number so far. */
async function flood(person: Person, said = (_: number) => {}): Promise<void> {
  for (let i = 0; i < LINES; i += 1000) {
    said(i);
    await person.conn.sendAll(Array.from({ length: 1000 }, (_, n) => `${line(i + n)}\n`).join(""));
  }
}

function peakMemory(pid: number): number {
  const { stdout } = Bun.spawnSync(["cat", `/proc/${pid}/status`]);
  return Number(String(stdout).match(/^VmHWM:\s+(\d+) kB/m)![1]) * 1024;
}

describe("chat-server, when somebody is slow:", () => {
  testPython("200,000 short lines to one who reads slowly but honestly: he gets all", async () => {
    await using server = chat();
    const port = await server.port();
    using ann = await Person.at(port, "ann");
    // 320 KB a second: so slow that the kernel reports new room only rarely. After 3 s, at full speed.
    await using slow = python(
      `
c = connect(sys.argv[1]); c.sendall(b"slow\\n"); began = time.time(); got = b""
while got.count(b"\\n") < 2: got += c.recv(100)
print("joined"); got = b""
while not b"ann: 199999 " in got[-1000:]:
    chunk = c.recv(16384); got += chunk
    if not chunk: break
    if time.time() - began < 3: time.sleep(0.05)
lines = got.decode().split("\\n")[:-1]
print("all" if lines == [f"ann: {i} {'x' * 30}" for i in range(200000)] else f"{len(lines)} lines")`,
      port,
    );
    await slow.until(/joined\n/);
    await ann.sees("* slow joined");
    await flood(ann);
    await slow.until(/all\n/);
    expect(server.stderr).toBe("");
    expect(peakMemory(server.pid)).toBeLessThan(128 << 20);
  });

  test("a client that does not read is reset after a second, with the reason; nobody waits longer", async () => {
    await using server = chat();
    const port = await server.port();
    using ann = await Person.at(port, "ann");
    const before = peakMemory(server.pid);
    using deaf = await Person.at(port, "deaf");
    await ann.sees("* deaf joined");
    using bob = await Person.at(port, "bob");
    await ann.sees("* bob joined");
    const flooding = flood(ann);
    // What bob hears, and the longest time that he hears nothing.
    let [i, longest, last, told] = [0, 0, performance.now(), 0];
    while (i < LINES || told === 0) {
      const heard = await bob.next();
      const now = performance.now();
      longest = Math.max(longest, now - last);
      last = now;
      if (heard === "* deaf left (too slow)") told++;
      else if (heard !== `ann: ${line(i++)}`) throw new Error(`${heard} at ${i - 1}`);
    }
    await flooding;
    await ann.sees("* deaf left (too slow)");
    expect(told).toBe(1);
    expect(longest).toBeGreaterThan(900);
    expect(longest).toBeLessThan(5_000); // on a machine that has nothing else to do: 1.1 s
    expect((await failure(recvAll(deaf.conn))).code).toBe("ECONNRESET");
    expect(peakMemory(server.pid) - before).toBeLessThan(64 << 20);
    expect(server.stderr).toBe("");
  });

  test("the shortest lines cost no more memory", async () => {
    await using server = chat();
    const port = await server.port();
    using ann = await Person.at(port, "a");
    const before = peakMemory(server.pid);
    using _deaf = await Person.at(port, "deaf");
    let isThere = true; // `deaf` is there until more has been said than the kernel buffers
    const flooding = (async () => {
      while (isThere) await ann.conn.sendAll("\n".repeat(10_000));
    })();
    await ann.sees("* deaf joined", "* deaf left (too slow)");
    isThere = false;
    await flooding;
    expect(peakMemory(server.pid) - before).toBeLessThan(64 << 20);
  });

  test("twelve clients that do not read share one second of patience", async () => {
    await using server = chat();
    const port = await server.port();
    using ann = await Person.at(port, "ann");
    const deaf: Person[] = [];
    while (deaf.length < 12) deaf.push(await Person.at(port, `deaf${deaf.length}`));
    using bob = await Person.at(port, "bob");
    const flooding = flood(ann);
    let [pauses, i, left, last] = [0, 0, 0, performance.now()];
    while (i < LINES || left < deaf.length) {
      const heard = (await bob.next())!;
      const now = performance.now();
      if (now - last > 700) pauses++;
      last = now;
      if (heard.endsWith(" left (too slow)")) left++;
      else if (heard !== `ann: ${line(i++)}`) throw new Error(`${heard} at ${i - 1}`);
    }
    await flooding;
    expect(pauses).toBeLessThan(deaf.length / 2);
    for (const person of deaf) person[Symbol.dispose]();
  });

  test("who is late and breaks off does so alone; who is late and says /quit gets what was said before", async () => {
    for (const how of ["reset", "/quit"] as const) {
      await using server = chat();
      const port = await server.port();
      using ann = await Person.at(port, "ann");
      using late = await Person.at(port, "late");
      await ann.sees("* late joined");
      using bob = await Person.at(port, "bob");
      await Promise.all([ann.sees("* bob joined"), late.sees("* bob joined")]);
      let [said, heard, hasLeft] = [0, 0, false];
      const flooding = flood(ann, (count) => void (said = count));
      const hearing = (async () => {
        while (heard < LINES) {
          const next = await bob.next();
          if (next === "* late left") hasLeft = true;
          else if (next !== `ann: ${line(heard++)}`) throw new Error(`${next} at ${heard - 1}`);
        }
      })();
      // Waits until the room has stopped: the server takes nothing from ann, and bob hears nothing.
      for (let [before, same] = [-1, 0]; heard === 0 || same < 15; before = said + heard) {
        same = said + heard === before ? same + 1 : 0;
        await Bun.sleep(20);
      }
      expect(heard).toBeLessThan(LINES);
      if (how === "reset") late.conn.reset();
      else {
        const before = heard;
        await late.says("/quit");
        while (!hasLeft) await Bun.sleep(1); // bob sees that late has left, before late has read anything
        let count = 0;
        for (let next: string | null; (next = await late.next()) !== null; count++) {
          if (next !== `ann: ${line(count)}`) throw new Error(`${next} at ${count}`);
        }
        expect(count).toBeGreaterThanOrEqual(before); // at least all that bob had heard by then
      }
      await Promise.all([hearing, flooding]);
      using carol = await Person.at(port, "carol"); // and the room goes on
      await carol.says("hello");
    }
  });

  testPython("who is behind and says /quit gets what was said before he left", async () => {
    await using server = chat();
    const port = await server.port();
    using ann = await Person.at(port, "ann");
    await using slow = deaf(port, "slow\\n");
    await ann.sees("* slow joined");
    using bob = await Person.at(port, "bob");
    await ann.sees("* bob joined");
    const lines = Math.ceil((await kernelTakes()) / 1010) + 600; // so half a megabyte waits in the server
    for (let i = 0; i < lines; i++) {
      await ann.says(`${i} ${"x".repeat(1000)}`);
      await bob.sees(`ann: ${i} ${"x".repeat(1000)}`);
    }
    slow.type("say /quit\n");
    await bob.sees("* slow left");
    slow.type("read\n");
    const got = await slow.until(/^(\d+) lines\n/m);
    expect(Number(got[1])).toBe(lines + 3); // 3 more: the question, the welcome, and that bob has joined
  });

  /** A person who says this, and then reads nothing before the command `read`. */
  const deaf = (port: number, says = "") =>
    python(
      `
c = socket.socket(); c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
c.connect(("127.0.0.1", int(sys.argv[1]))); c.sendall(b"${says}")
for line in sys.stdin:
    if line == "read\\n": print(recv_all(c).count(b"\\n"), "lines")
    else: c.sendall(line[4:].encode())`,
      port,
    );

  /** How many bytes the kernel buffers for a client that does not read. */
  async function kernelTakes(): Promise<number> {
    using server = listen({ port: 0 });
    await using reader = deaf(server.address.port);
    using conn = await server.accept();
    let bytes = 0;
    for (let quiet = 0; quiet < 20; await Bun.sleep(5)) {
      const some = fill(conn);
      quiet = some > 0 ? 0 : quiet + 1;
      bytes += some;
    }
    expect(reader.stderr).toBe("");
    return bytes;
  }

  test("SIGTERM: everybody reads a farewell, then an end; exit 0", async () => {
    await using server = chat();
    const port = await server.port();
    const people = await Promise.all(
      ["ann", "bob", undefined].map((name) => Person.at(port, name)),
    );
    await people[0]!.says("/who");
    while (!(await people[0]!.next())!.startsWith("* here"));
    server.kill("SIGTERM");
    for (const person of people) {
      const lines: string[] = [];
      for (let line; (line = await person.next()) !== null;) lines.push(line);
      expect(lines.at(-1)).toMatch(/^\* goodbye/);
      expect(lines.filter((line) => line.includes(" left"))).toEqual([]); // all leave: none is told of another
      person[Symbol.dispose]();
    }
    expect(await server.exit()).toBe(0);
    expect(server.stderr).toBe("");
  });
});

// ---- with Redis

const testRedis = (name: string, body: () => Promise<void>) => testWith("redis-server", name, body);

async function redis(port: number): Promise<Process> {
  const server = new Process([
    "redis-server",
    "--port",
    `${port}`,
    "--save",
    "",
    "--appendonly",
    "no",
  ]);
  await server.until(/Ready to accept connections/);
  return server;
}

/** Waits until this person's server knows `name`, who is at the other server. */
async function together(person: Person, name: string): Promise<void> {
  for (;;) {
    await person.says("/who");
    const line = (await person.next())!;
    expect(line).toStartWith("* here: "); // no other line may come in between
    if (line.slice(8).split(", ").includes(name)) return;
    await turn();
  }
}

const AWAY = /^warning: Redis is away/gm;
const BACK = /^warning: Redis is back/gm;

/** Ann at one server, Bob at the other, in one room. */
async function twoServers(port: number) {
  const servers = [
    chat("--redis", `redis://127.0.0.1:${port}`),
    chat("--redis", `redis://127.0.0.1:${port}`),
  ];
  const [one, two] = servers as [Process, Process];
  const ann = await Person.at(await one.port(), "ann");
  const bob = await Person.at(await two.port(), "bob");
  const [first = ""] = [await ann.next()];
  expect(first).toBe("* bob joined");
  await ann.says("hello");
  while ((await bob.next()) !== "ann: hello"); // "* ann joined" may come only after bob has joined
  const close = async () => {
    for (const person of [ann, bob]) person[Symbol.dispose]();
    for (const server of servers) await server[Symbol.asyncDispose]();
  };
  return { one, two, ann, bob, [Symbol.asyncDispose]: close };
}

/** Each says some lines at the same time; each sees those of the other, in order, once. */
async function talk(ann: Person, bob: Person): Promise<void> {
  const numbers = Array.from({ length: 100 }, (_, i) => i);
  for (const i of numbers) await Promise.all([ann.says(`a${i}`), bob.says(`b${i}`)]);
  await Promise.all([
    ann.sees(...numbers.map((i) => `bob: b${i}`)),
    bob.sees(...numbers.map((i) => `ann: a${i}`)),
  ]);
}

describe("chat-server --redis", () => {
  testRedis("two servers are one room, in the order of each speaker, names and all", async () => {
    const port = freePort();
    await using _redis = await redis(port);
    await using both = await twoServers(port);
    const { one, two, ann, bob } = both;
    await talk(ann, bob);
    await together(ann, "bob");
    await together(bob, "ann");
    using carol = await Person.at(await two.port());
    await carol.says("ann"); // the name is taken at the other server
    await carol.sees("What is your name?");
    await carol.says("carol");
    await carol.sees("Welcome, carol");
    await Promise.all([ann.sees("* carol joined"), bob.sees("* carol joined")]);
    await carol.says("/quit");
    await Promise.all([ann.sees("* carol left"), bob.sees("* carol left")]);
    using again = await Person.at(await one.port(), "carol"); // the name is free at once
    await Promise.all([ann.sees("* carol joined"), bob.sees("* carol joined")]);
    await ann.says("/quit");
    await bob.sees("* ann left");
    await Bun.sleep(1_500); // longer than a heartbeat, which keeps a server's names in Redis
    using newAnn = await Person.at(await two.port(), "ann"); // ann's name has stayed free, too
    await Promise.all([bob.sees("* ann joined"), again.sees("* ann left", "* ann joined")]);
    two.kill("SIGTERM");
    await again.sees("* bob left");
    expect(await newAnn.next()).toMatch(/^\* goodbye/);
    expect(await two.exit()).toBe(0);
    expect(one.stderr + two.stderr).toBe("");
  });

  testRedis("Redis stopped: each alone, said once; back: one room, nothing twice", async () => {
    const port = freePort();
    await using running = new AsyncDisposableStack();
    let server = running.use(await redis(port));
    await using both = await twoServers(port);
    const { one, two, ann, bob } = both;
    const said = async (what: RegExp, times: number) => {
      for (const each of [one, two]) {
        while (each.stderr.match(what)?.length !== times) await Bun.sleep(10);
      }
    };
    for (const [times, end] of [
      [1, "SIGKILL"],
      [2, "SIGTERM"],
    ] as const) {
      server.kill(end);
      await server.exit();
      await said(AWAY, times);
      await ann.says("alone");
      await ann.says("/who");
      await ann.sees("* here: ann"); // so "alone" has already been passed on to everybody here
      using carol = await Person.at(await one.port(), "carol");
      await ann.sees("* carol joined");
      await ann.says("with carol");
      await carol.sees("ann: with carol");
      await carol.says("/quit");
      await ann.sees("* carol left");
      expect(await carol.next()).toBeNull();
      server = running.use(await redis(port));
      await said(BACK, times);
      await together(ann, "bob"); // the names are known again; what was said alone does not come
      await together(bob, "ann");
      await talk(ann, bob);
    }
    for (const { stderr } of [one, two]) expect(stderr.split("\n")).toHaveLength(5);
  });

  testRedis(
    "what others publish there, and what would command a terminal, harms nobody",
    async () => {
      const port = freePort();
      await using _redis = await redis(port);
      await using both = await twoServers(port);
      const { one, two, ann, bob } = both;
      const publisher = new RedisClient(`redis://127.0.0.1:${port}`);
      for (const foreign of ["hello", "null", "[1,2]", '"x"', "{}", '["x"]']) {
        expect(await publisher.publish("chat", foreign)).toBe(2); // both servers receive it
      }
      await publisher.publish("chat", JSON.stringify(["x", "mallory: \x1b[2J\r\nann: hi"]));
      publisher.close();
      await Promise.all([ann.sees("mallory: [2Jann: hi"), bob.sees("mallory: [2Jann: hi")]);
      await talk(ann, bob);
      expect(one.stderr + two.stderr).toBe("");
    },
  );

  testRedis("Redis hangs: nobody waits for it long", async () => {
    const port = freePort();
    await using running = await redis(port);
    await using both = await twoServers(port);
    const { one, two, ann, bob } = both;
    running.kill("SIGSTOP");
    // Both ask for the same name while nobody answers whether it is free: one of them gets it.
    const twins = [await Person.at(await one.port()), await Person.at(await one.port())];
    for (const twin of twins) await twin.says("twin");
    const answers = await Promise.all(twins.map((twin) => twin.next()));
    expect(answers.toSorted()).toEqual(["Welcome, twin", "What is your name?"]);
    for (const twin of twins) twin.conn.reset();
    await ann.sees("* twin joined", "* twin left");
    await ann.says("who hears me?");
    await one.until(AWAY, "stderr");
    await two.until(AWAY, "stderr");
    await ann.says("/who");
    await ann.sees("* here: ann");
    running.kill("SIGCONT");
    await one.until(BACK, "stderr");
    await two.until(BACK, "stderr");
    await ann.says("and now?");
    let heard = await bob.next();
    while (/twin|who hears me/.test(heard!)) heard = await bob.next(); // lines that Redis still had
    expect(heard).toBe("ann: and now?");
    await talk(ann, bob);
  });

  testRedis("Redis hangs at SIGTERM: the farewell comes all the same", async () => {
    const port = freePort();
    await using running = await redis(port);
    await using both = await twoServers(port);
    const { one, ann } = both;
    running.kill("SIGSTOP");
    one.kill("SIGTERM");
    await ann.sees("* goodbye: this server stops");
    expect(await ann.next()).toBeNull();
    ann.conn.close();
    expect(await one.exit()).toBe(0);
    expect(one.stderr).toBe("");
    running.kill("SIGCONT");
  });

  testRedis("without Redis at the start: alone, then in one room", async () => {
    const port = freePort();
    const url = `redis://127.0.0.1:${port}`;
    await using one = chat("--redis", url);
    await using two = chat("--redis", url);
    using ann = await Person.at(await one.port(), "ann");
    using bob = await Person.at(await two.port(), "bob");
    await one.until(AWAY, "stderr");
    await two.until(AWAY, "stderr");
    await using _running = await redis(port);
    await one.until(BACK, "stderr");
    await two.until(BACK, "stderr");
    await together(ann, "bob");
    await together(bob, "ann");
    await talk(ann, bob);
    for (const server of [one, two]) {
      server.kill("SIGTERM");
      expect(await server.exit()).toBe(0);
    }
  });

  test("a URL that is none: one line, exit 2", async () => {
    await using server = chat("--redis", "http://127.0.0.1");
    expect(await server.exit()).toBe(2);
    expect(server.stderr).toMatch(/^error: --redis: [^\n]*\n$/);
  });
});
