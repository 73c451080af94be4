// The README and docs/ do what they say: every command and program is taken out of the text and run, and every
// recording is made again and compared. (What can be checked without running anything is in docs.test.ts.)

import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect, listen } from "../lib/socket.ts";
import {
  alone,
  freePort,
  PATIENCE_MS,
  Postgres,
  Process,
  report,
  root,
  scripts,
  testPostgres,
  testWith,
  turn,
} from "./helpers.ts";

setDefaultTimeout(3 * PATIENCE_MS);

let ports: Disposable;
beforeAll(async () => void (ports = await alone("default ports")), 200_000);
afterAll(() => ports[Symbol.dispose]());

const english = readFileSync(join(root, "README.md"), "utf8");

function blocks(text: string, language: string): string[] {
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, "gms"))].map(
    ([, body]) => body!,
  );
}

/** The rows of all tables, each a list of cells. */
function rows(text: string): string[][] {
  return text
    .split("\n")
    .filter((line) => line.startsWith("|") && !/^\|[ :|-]+$/.test(line))
    .map((line) => line.slice(1, -1).replaceAll("\\|", "/").split("|"))
    .map((cells) => cells.map((cell) => cell.trim()));
}

function codes(text: string): string[] {
  return [...text.matchAll(/`([^`]+)`/g)].map(([, code]) => code!);
}

/** A PATH with which `bun` is the Bun that runs the tests. */
const searchPath = `${dirname(process.execPath)}:${process.env.PATH}`;

// A command as a reader types it, in a folder.
function shell(command: string, cwd = root): Process {
  const here = command.replace(NPX, "bun");
  const store = cwd === root ? "sqlite://:memory:" : ""; // no weather.db is left here
  return new Process(["bash", "--norc", "-c", `cd '${cwd}' && ${here}`], {
    PATH: searchPath,
    STORE: store,
  });
}

const NPX = /npx -y bun@([\d.]+)/;

describe("the tables of scripts", () => {
  const table = rows(english).filter(([first = ""]) => /^`[\w-]+\.ts`$/.test(first));

  test("have every script", () => {
    const named = table.map(([name]) => codes(name!)[0]!.replace(".ts", ""));
    expect(named.sort()).toEqual(scripts.filter((name) => name !== "copy").sort());
  });

  const pairs = new Map(table.map((row) => [`${row[1]} | ${row[2]}`, row]));
  test.each([...pairs])("%s", async (_, [, first, second, seen]) => {
    const [server] = codes(first!);
    const [client] = codes(second!);
    await using one = shell(`exec ${server}`);
    if (second!.includes("browser")) {
      await one.until(/^page at .*\n/m);
      one.kill("SIGTERM");
    }
    if (client === undefined) return expect(await one.exit()).toBe(0);
    await one.until(/^listening on .*\n/m);
    await using between = client.includes("proxy") ? shell(`exec ${client}`) : null;
    await between?.until(/^listening on .*\n/m);
    const [last] = between === null ? [client] : codes(seen!);
    await using two = shell(`exec ${last}`);
    two.type("hello\n");
    if (client.includes("client")) two.type("\n");
    if (client.includes("netcat")) {
      await two.until(/hello\n/);
      await two.endInput();
    }
    expect(await two.exit(), two.stderr).toBe(0);
    if (client.includes("--sensor")) expect(two.stdout).toEndWith("\nstored 6\n");
    if (!server!.includes("weather")) expect(two.stdout).toMatch(/hello|200 OK|messages\/s/);
  });
});

describe("the commands", () => {
  const folder = mkdtempSync(join(tmpdir(), "readme-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const project = join(folder, "project");
  for (const part of ["lib", "scripts", "package.json", "tsconfig.json"]) {
    cpSync(join(root, part), join(project, part), { recursive: true });
  }
  const pages = readdirSync(join(root, "docs/en")).map((page) => join(root, "docs/en", page));
  const lines = [join(root, "README.md"), ...pages]
    .flatMap((page) => blocks(readFileSync(page, "utf8"), "sh"))
    .flatMap((block) => block.trim().split("\n"));

  test("run the main job: one message goes there and back", async () => {
    const [server, client] = lines.filter((line) => line.startsWith("npx"));
    await using one = shell(`exec ${server}`);
    await one.until(/^listening on .*\n/m);
    await using two = shell(`exec ${client}`);
    expect(await two.exit(), two.stderr).toBe(0);
    expect(two.stdout).toBe(">hello\n");
    expect(await one.exit(), one.stderr).toBe(0);
  });

  test("are for the Bun that CI runs", () => {
    const ci = readFileSync(join(root, ".ci/run"), "utf8");
    for (const [, version] of english.matchAll(new RegExp(NPX, "g"))) {
      expect(ci).toContain(`npm install -g --no-audit --no-fund bun@${version}\n`);
    }
  });

  test("for the tests are what CI runs, and what all documents name", () => {
    const [, command] = english.match(/`bun install && (bun test .*)`/)!;
    const others = [
      ".ci/run",
      ".github/workflows/ci.yml",
      "README.ko.md",
      "CONTRIBUTING.md",
      "tests/README.md",
    ];
    for (const path of others) {
      expect(readFileSync(join(root, path), "utf8"), path).toContain(command!);
    }
  });

  const program = (at: number) => {
    const file = `program-${at}.ts`;
    writeFileSync(join(project, file), blocks(english, "ts")[at]!);
    return shell(`exec bun run ${file}`, project);
  };

  test("the first program is a server that answers", async () => {
    await using server = program(0);
    const [, port] = await server.until(/^listening on port (\d+)\n/m);
    using conn = await connect({ port: Number(port) });
    await conn.sendAll("hello");
    expect(String(await conn.recvExactly(5))).toBe("hello");
  });

  test("the second loses what socket.write does not take, and nothing with sendAll", async () => {
    await using both = program(1);
    expect(await both.exit(), both.stderr).toBe(0);
    const [lost, kept] = both.stdout.split("\n");
    const [, received] = lost!.match(/^(\d+) of 10000000 bytes$/) ?? [];
    expect(Number(received)).toBeLessThan(10_000_000); // how much is up to the kernel
    expect(kept).toBe("10000000 of 10000000 bytes");
  });

  test("copy, then run the copy", async () => {
    const [copy, run] = lines.filter((line) => line.includes("my-echo"));
    await using copying = shell(copy!, project);
    expect(await copying.exit(), copying.stderr).toBe(0);
    await using server = shell(`exec ${run}`, project);
    using conn = await connect({ port: await server.port() });
    await conn.sendAll("hello");
    expect(String(await conn.recv(100))).toBe("hello");
  });

  testWith(
    "openssl",
    `an echo over TLS in five minutes, and TLS in front of a server that has none${Bun.which("curl") ? "" : " (curl's lines skipped: no curl)"}`,
    async () => {
      const line = (...words: string[]) =>
        lines.find((line) => words.every((word) => line.includes(word)))!;
      await using making = shell(line("openssl req"), project);
      expect(await making.exit(), making.stderr).toBe(0);
      await using server = shell(`exec ${line("echo-threaded-server", "--tls-cert")}`, project);
      await server.port();
      for (const client of [line("netcat", "--tls-ca"), line("s_client")]) {
        await using typing = shell(`exec ${client}`, project);
        typing.type("hello\n");
        await typing.until(/^hello\n/m);
      }
      await using pages = shell(`exec ${line("http-server", "--tls-cert")}`, project);
      await pages.port();
      using theirs = Bun.serve({
        hostname: "127.0.0.1",
        port: 0,
        fetch: () => new Response("mine"),
      });
      const before = line("proxy", "--tls-cert").replace(":3000", `:${theirs.port}`);
      await using proxy = shell(`exec ${before}`, project);
      await proxy.port();
      if (Bun.which("curl") === null) return;
      for (const [fetched, page] of [
        [line("curl", "8000"), "GET /hello HTTP/1.1"],
        [line("curl", "4443"), "mine"],
      ] as const) {
        await using curl = shell(`exec ${fetched}`, project);
        expect(await curl.exit(), curl.stderr).toBe(0);
        expect(curl.stdout).toContain(page);
      }
    },
  );

  const stations = lines.filter((line) => line.startsWith("bun run scripts/weather-station.ts"));

  test("one weather station, which stores in weather.db", async () => {
    await using one = shell(`exec ${stations[0]} --host 127.0.0.1`, project);
    await one.until(/^page at http:\/\/127\.0\.0\.1:8090\/\n/m);
    expect(await report(await one.port(), "temperature: 1")).toBe("stored 1\n");
    expect(existsSync(join(project, "weather.db"))).toBe(true);
  });

  testPostgres("two weather stations with one Postgres", async () => {
    // On the default port of Postgres, or on another one if that is taken.
    const usual = await connect({ port: 5432 }).catch(() => null);
    usual?.close();
    await using postgres = new Postgres(usual === null ? 5432 : freePort());
    await postgres.start();
    await using sql = new Bun.SQL(postgres.url, { max: 1 });
    await sql`CREATE DATABASE weather`;
    const [first, second] = stations.slice(1).map((line) => {
      const command = line.replace("@127.0.0.1/", `@127.0.0.1:${postgres.port}/`);
      return shell(`exec ${usual === null ? line : command} --host 127.0.0.1`, project);
    });
    await using one = first!;
    await using two = second!;
    const [, page] = await two.until(/^page at (http:\/\/127\.0\.0\.1:8091\/)\n/m);
    expect(await report(await one.port(), "temperature: 4")).toBe("stored 1\n");
    expect(await (await fetch(`${page}readings`)).json()).toMatchObject([{ celsius: 4 }]);
  });

  test("build a single file", async () => {
    const build = lines.find((line) => line.startsWith("bun build"))!;
    await using building = shell(build, project);
    expect(await building.exit(), building.stderr).toBe(0);
    await using server = shell("exec ./echo --port 0", project);
    await server.port();
  });

  const engine = process.env.CONTAINER_ENGINE ?? "docker";
  const works = Bun.which(engine) !== null && Bun.spawnSync([engine, "info"]).exitCode === 0;
  test.skipIf(!works)(
    `the image's (skipped where ${engine} does not work)`,
    async () => {
      const [build, ...runs] = lines
        .filter((line) => line.startsWith("docker"))
        .map((line) => line.replace("docker", engine));
      using _ = await alone("containers");
      using end = new DisposableStack();
      // Also removes a container that did not end.
      end.defer(() => void Bun.spawnSync([engine, "rmi", "-f", "sockets"]));
      await using building = shell(build!);
      expect(await building.exit(), building.stderr).toBe(0);
      for (const run of runs) {
        await using container = shell(`exec ${run}`);
        await container.until(/^listening on 0\.0\.0\.0:\d+\n/m);
        const [, port] = run.match(/-p (\d+):/)!;
        (await connect({ port: Number(port) })).close();
        // Signals are lost until the engine passes them on, so this one is sent again.
        const ended = container.exit();
        for (let code: number | undefined; code === undefined;) {
          container.kill("SIGTERM");
          code = await Promise.race([ended, Bun.sleep(8_000).then(() => undefined)]);
        }
        expect(await ended).toBe(0);
        await untilFree(Number(port)); // the engine gives it back a moment later
      }
    },
    200_000,
  );
});

async function untilFree(port: number): Promise<void> {
  for (;;) {
    try {
      return listen({ host: "0.0.0.0", port }).close();
    } catch {
      await turn();
    }
  }
}

describe("the recordings", () => {
  // Times, process numbers and a client's port differ from run to run.
  const same = (text: string) =>
    text.replace(/^\d\d:\d\d:\d\d\.\d{3}/gm, "TIME").replace(/:[1-6]\d{4}\b/g, ":PORT");

  /** A terminal: the command of a recording runs in it, and a person types what is typed there. */
  class Terminal implements AsyncDisposable {
    #written = "";
    #decoder = new TextDecoder();
    #output = Promise.withResolvers<void>();
    #child: Bun.Subprocess;
    /** The output that the recording has. */
    readonly #recorded: string;
    /** How much of it has been played, in characters. */
    #played = 0;

    constructor(recording: string) {
      const [command = "", ...output] = recording.split("\n");
      this.#recorded = output.join("\n");
      this.#child = Bun.spawn(
        ["bash", "--norc", "-c", command.replace("$ ", "").replace(NPX, "bun")],
        {
          cwd: root,
          env: { ...process.env, PATH: searchPath, HOST: "", PORT: "", NO_COLOR: "1" },
          terminal: {
            cols: 100,
            data: (_, bytes) => {
              this.#written += this.#decoder.decode(bytes, { stream: true });
              this.#output.resolve();
              this.#output = Promise.withResolvers<void>();
            },
          },
        },
      );
    }

    /** What the terminal shows. CRs before an LF are dropped; CR and CSI K (ECMA-48) erase the line so far. */
    get shown(): string {
      return this.#written.replace(/\r+\n/g, "\n").replace(/^.*\r\x1b\[K/gm, "");
    }

    async until(isThere: () => boolean): Promise<void> {
      const over = Promise.race([this.#child.exited, Bun.sleep(PATIENCE_MS)]).then(() => {
        if (!isThere()) throw new Error(`it shows:\n${this.shown}\nnot:\n${this.#recorded}`);
      });
      over.catch(() => {});
      while (!isThere()) await Promise.race([this.#output.promise, over]);
    }

    /** Waits until the terminal shows what the recording has before this line; gives the line's position. */
    async ready(line: string, from = this.#played): Promise<number> {
      const at = this.#recorded.indexOf(`${line}\n`, from);
      if (at > 0 && !"\n:".includes(this.#recorded[at - 1]!)) return this.ready(line, at + 1);
      expect(at, `${line} in:\n${this.#recorded}`).toBeGreaterThanOrEqual(0);
      await this.until(() => same(this.shown) === same(this.#recorded.slice(0, at)));
      return at;
    }

    async type(line: string): Promise<void> {
      this.#played = (await this.ready(line)) + line.length + 1;
      this.#child.terminal!.write(`${line}\n`);
    }

    /** Waits for the end of the program; where the recording ends with Ctrl-C, presses it. */
    async end(): Promise<void> {
      const rest = this.#recorded.match(/^([^]*)\^C\n$/)?.[1];
      if (rest !== undefined) {
        await this.until(() => same(this.shown) === same(rest));
        this.#child.terminal!.write("\x03");
      }
      expect(await this.#child.exited, this.shown).toBe(0);
      expect(same(this.shown).trimEnd()).toBe(same(this.#recorded).trimEnd());
    }

    async [Symbol.asyncDispose](): Promise<void> {
      this.#child.kill("SIGKILL");
      await this.#child.exited;
      this.#child.terminal!.close();
    }
  }

  /**
   * Starts the recordings one after another: the next one when a server listens or a client waits for input.
   * Then types the lines, each in the terminal with its number.
   */
  async function play(recordings: string[], typed: [number, string][] = []): Promise<void> {
    await using stack = new AsyncDisposableStack();
    const terminals: Terminal[] = [];
    for (const [i, recording] of recordings.entries()) {
      const terminal = stack.use(new Terminal(recording));
      const isServer = recording.includes("listening on");
      if (isServer) await terminal.until(() => terminal.shown.includes("listening on"));
      const [, line] = typed.find(([number]) => number === i + 1) ?? [];
      if (line !== undefined) await terminal.ready(line);
      terminals.push(terminal);
    }
    for (const [number, line] of typed) await terminals[number - 1]!.type(line);
    for (const terminal of terminals.reverse()) await terminal.end(); // clients first
  }

  test("of the README are what a person sees", async () => {
    const [server, client, traced] = blocks(english, "console") as [string, string, string];
    await play([server, client]);
    await play([server, traced]);
  });

  /** What is typed in the terminals of a lesson, in this order. */
  const TYPED: Record<string, [number, string][]> = {
    "01-basic-echo.md": [[2, "안녕"]],
    "02-echo-loop.md": [
      [2, "안녕"],
      [2, "소켓"],
      [2, ""],
    ],
    "03-backlog.md": [[2, "하나"]],
    "04-threads.md": [
      [3, "둘"],
      [2, "하나"],
      [2, ""],
      [3, ""],
    ],
    "08-select.md": [
      [2, "안녕"],
      [2, ""],
    ],
    "10-datagrams-and-families.md": [
      [2, "안녕"],
      [2, ""],
    ],
    "websocket.md": [
      [2, "안녕"],
      [2, ""],
    ],
  };
  const recordings = readdirSync(join(root, "docs/en"))
    .map((page) => [page, blocks(readFileSync(join(root, "docs/en", page), "utf8"), "console")])
    .filter(([, of]) => of!.length > 0) as [string, string[]][];
  test.each(recordings)("of %s are what a person sees", async (page, terminals) => {
    await play(terminals, TYPED[page]);
  });
});
