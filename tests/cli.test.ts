// What all scripts have in common: flags and --help, the environment, signals, one-line errors, exit codes,
// a closed stdout.

import { join } from "node:path";
import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect } from "../lib/socket.ts";
import {
  clients,
  Process,
  python,
  root,
  script,
  scripts,
  servers,
  testPython,
  PATIENCE_MS,
  untilRefused,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

describe("every script", () => {
  test.each(scripts)("%s --help tells what it is, its terminals and its flags", async (name) => {
    await using process = script(name, ["--help"]);
    expect(await process.exit()).toBe(0);
    expect(process.stdout).toContain(`bun run scripts/${name}.ts`);
    if (!["copy", "echo-bench", "watch"].includes(name))
      expect(process.stdout).toMatch(/tutorial 00\d|where the tutorials stop/);
    expect(process.stdout).toMatch(/^ {2}--help +this text$/m);
    expect(process.stderr).toBe("");
  });

  test.each(scripts)(
    "%s refuses wrong flags and arguments with one line and exit 2",
    async (name) => {
      for (const [args, named] of [
        [["--no-such-flag"], "--no-such-flag"],
        [["stray"], name === "copy" ? "folder" : "stray"], // any number of scripts, then the folder
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

  test.each([...servers, ...clients])(
    "%s refuses a port that is not valid, and names the flag",
    async (name) => {
      for (const port of ["80.5", "abc", "65536", "", "-1"]) {
        await using process = script(name, [`--port=${port}`]);
        expect(await process.exit()).toBe(2);
        expect(process.stderr).toMatch(/^error: --port [^\n]*\n$/);
      }
    },
  );
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
out = b""
while not out.endswith(b"\\n"): out += os.read(near, 1000)
print(repr(out))`,
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
    [
      "echo-client",
      ["--port", "80\n90"],
      '--port must be a whole number from 1 to 65535, not "80 90"',
    ],
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

  test.each(servers)("%s exits at once at the signal when no client is connected", async (name) => {
    await using server = script(name, ["--port=0", "--grace=600"], { HOST: "127.0.0.1" });
    await server.port();
    server.kill("SIGTERM");
    expect(await server.exit()).toBe(0);
  });

  // The servers whose client can see that its connection was accepted, and which keep the connection open.
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
    await using server = new Process(["bash", "--norc", "-c", shell]);
    const port = await server.port();
    // Each client makes the server print, until the server notices that its stdout is closed.
    // (select-server prints without any client: "no activity".)
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

/** A program that calls `cli` and then runs `body`. It prints "ready" as soon as it handles signals. */
function program(body: string, flags = "{}", args: string[] = []): Process {
  const from = (file: string) => JSON.stringify(join(root, "lib", file));
  const code = `
    import { cli, fail, print, refuse, serverFlags, warn, write } from ${from("cli.ts")};
    import { SocketError } from ${from("errors.ts")};
    import { listen } from ${from("socket.ts")};
    import { setTimeout as sleep } from "node:timers/promises";
    const flags = cli("A program.", ${flags});
    const { signal } = flags;
    const stopped = new Promise((resolve) => signal.addEventListener("abort", resolve));
    const stay = setInterval(() => {}, 1_000);
    stopped.then(() => clearInterval(stay));
    console.log("ready");
    ${body}`;
  return new Process([process.execPath, "-e", code, "program", ...args]);
}

describe("an error after the signal", () => {
  test.each([
    [
      "stopped.then(() => { throw new TypeError('the clean-up is wrong'); });",
      "TypeError: the clean-up",
    ],
    [
      "signal.addEventListener('abort', () => { throw new TypeError('in the listener'); });",
      "in the list",
    ],
    ["stopped.then(() => Promise.reject(null));", "error: null was thrown"],
    [
      "stopped.then(() => { throw new SocketError('ECONNRESET', 'recv', { host: 'x', port: 1 }); });",
      "error: connection with x:1: connection reset by peer\n",
    ],
  ])("is told like any other, with exit 1: %s", async (body, told) => {
    await using wrong = program(body);
    await wrong.until(/ready/);
    wrong.kill("SIGTERM");
    expect(await wrong.exit()).toBe(1);
    expect(wrong.stderr).toContain(told);
  });

  test.each([
    "await sleep(100_000, undefined, { signal });",
    "await listen({ port: 0, signal }).accept();",
    "await listen({ port: 0 }).accept({ signal });",
    "signal.addEventListener('abort', () => Promise.reject(AbortSignal.any([signal]).reason));",
  ])("a consequence of the signal is not reported as an error: %s", async (body) => {
    await using ended = program(body);
    await ended.until(/ready/);
    ended.kill("SIGTERM");
    expect(await ended.exit()).toBe(0);
    expect(ended.stderr).toBe("");
  });
});

test("--grace: how long the last connections have, and not much longer", async () => {
  for (const [flags, args, least, most] of [
    ["serverFlags(1)", [], 1, 2.5],
    ["serverFlags(1)", ["--grace", "0.2"], 0.2, 1.2],
    ["{}", [], 1, 2.5], // a script without the flag
  ] as const) {
    await using stays = program("setInterval(() => {}, 1_000)", flags, [...args]);
    await stays.until(/ready/);
    const killed = performance.now();
    stays.kill("SIGTERM");
    expect(await stays.exit()).toBe(0);
    const seconds = (performance.now() - killed) / 1000;
    expect(seconds).toBeGreaterThanOrEqual(least);
    expect(seconds).toBeLessThan(most);
  }
});

describe("warnings", () => {
  test("are one a second, with how many more there were; text is told at once", async () => {
    await using noisy = program(`
      for (let i = 0; i < 2000; i++) warn(new SocketError("ECONNRESET", "recv", { host: "x", port: i }));
      warn("a sentence");
      clearInterval(stay);
      await sleep(1_100);
      for (let i = 0; i < 3; i++) warn(new SocketError("EPIPE", "send", { host: "y", port: i }));
    `);
    expect(await noisy.exit()).toBe(0);
    expect(noisy.stderr).toBe(
      [
        "warning: connection with x:0: connection reset by peer",
        "warning: a sentence",
        "warning: connection with x:1999: connection reset by peer (and 1998 more)",
        "warning: connection with y:2: broken pipe (and 2 more)",
        "",
      ].join("\n"),
    );
  });

  test.each([
    ["null", "null was thrown"],
    ["undefined", "undefined was thrown"],
    [
      "{ a: { b: [1, 2, 3] }, c: 'x'.repeat(100) }",
      '{ a: { b: [ 1, 2, 3 ], }, c: "x+", } was thrown',
    ],
    ["new RangeError('two\\nlines')", "RangeError: two lines at .*"],
    ["Object.assign(new Error('disk full'), { syscall: 'write' })", "disk full"],
    ["'text'", "text"],
    ["Object.assign(new Error('disk\\nfull'), { syscall: 'write' })", "disk full"],
  ])("are one line, whatever was thrown: %s", async (thrown, told) => {
    await using odd = program(`clearInterval(stay); warn(${thrown});`);
    expect(await odd.exit()).toBe(0);
    expect(odd.stderr).toMatch(new RegExp(`^warning: ${told.replace(/[[{]/g, "\\$&")}\n$`));
  });
});

test("fail() ends the program even when nobody takes what it printed", async () => {
  const body = "write(Buffer.alloc(1 << 20)); fail('enough');";
  await using stuck = program(body);
  const command = stuck.command.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
  await stuck[Symbol.asyncDispose]();
  // Its stdout is a pipe that nobody reads: `read` at the other end reads file descriptor 3.
  const shell = `exec 3<&0; { ${command}; echo "exit $?" >&2; } | read -u 3`;
  await using outer = new Process(["bash", "--norc", "-c", shell]);
  await outer.until(/error: enough\nexit 1\n/, "stderr");
});

test("the highest port is a port: 65535 reaches connect, 65536 is refused", async () => {
  await using highest = script("echo-client", ["--port", "65535", "--message", "x"]);
  expect(await highest.exit()).toBe(1);
  expect(highest.stderr).toMatch(/^error: cannot connect to 127\.0\.0\.1:65535: .*\n$/);
  await using above = script("echo-client", ["--port", "65536", "--message", "x"]);
  expect(await above.exit()).toBe(2);
  expect(above.stderr).toBe('error: --port must be a whole number from 1 to 65535, not "65536"\n');
});

test("a HOST of the environment that cannot be listened on is named as the reason", async () => {
  await using server = script("echo-server", ["--port", "0"], { HOST: "192.0.2.1" });
  expect(await server.exit()).toBe(1);
  expect(server.stderr).toMatch(
    /^error: cannot listen on 192\.0\.2\.1:0: .* \(HOST in the environment\)\n$/,
  );
  await using byFlag = script("echo-server", ["--port", "0", "--host", "192.0.2.1"]);
  expect(await byFlag.exit()).toBe(1);
  expect(byFlag.stderr).not.toContain("HOST");
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
    await using client = script(name, ["--port", "1"], { HOST: "no-such-host.invalid" });
    await client.endInput();
    expect(await client.exit()).toBe(1);
    expect(client.stderr).toContain(":1: connection refused");
    await using other = script(name, ["--host", "no-such-host.invalid"], { PORT: "abc" });
    expect(await other.exit()).toBe(1);
    expect(other.stderr).toContain("no-such-host.invalid: host not found");
  });
});
