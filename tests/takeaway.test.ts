// Ways to use a script elsewhere: a copy, and a single executable file. (The image is in image.test.ts.)

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect } from "../lib/socket.ts";
import { APART, PATIENCE_MS, Process, root, script, scripts, servers } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const folder = mkdtempSync(join(tmpdir(), "takeaway-"));
afterAll(() => rmSync(folder, { recursive: true }));
const bun = process.execPath;

/** Runs it: a server has to listen and to end at SIGTERM; every script has to print its flags. */
async function runs(command: string[], name: string): Promise<void> {
  if (servers.includes(name)) {
    const flags = ["--host", "127.0.0.1", "--port", "0", ...(APART[name] ?? [])];
    await using server = new Process([...command, ...flags]);
    using _conn = await connect({ port: await server.port() });
    const [, page] = name === "weather-station" ? await server.until(/page at (.*)\n/) : [];
    if (page !== undefined) expect(await (await fetch(page)).text()).toContain("<svg");
    server.kill("SIGTERM");
    expect(await server.exit()).toBe(0);
  }
  await using helped = new Process([...command, "--help"]);
  expect(await helped.exit()).toBe(0);
  expect(helped.stdout).toMatch(/^ {2}--help +this text$/m);
}

describe("copy", () => {
  // What `bun install` would do, without a network.
  const install = (target: string) =>
    symlinkSync(join(root, "node_modules"), join(target, "node_modules"));

  test.each(scripts.filter((name) => name !== "copy"))(
    "%s type-checks, runs, and passes its own test",
    async (name) => {
      const target = join(folder, "copies", name);
      await using copying = script("copy", [name, target]);
      expect(await copying.exit(), copying.stderr).toBe(0);
      const told = new RegExp(
        `^brought: {2}${name}\\.ts, .*\\d+ files? of lib\nnext: {2}bun run .*/${name}\\.ts\n$`,
      );
      expect(copying.stdout).toMatch(told);
      await using testing = new Process([
        "bash",
        "--norc",
        "-c",
        `cd '${target}' && '${bun}' test`,
      ]);
      expect(await testing.exit(), testing.stderr).toBe(0);
      expect(testing.stderr).toContain("\n 1 pass\n 0 fail\n");

      install(target);
      await using checking = new Process([bun, "check", "--cwd", target]);
      expect(await checking.exit(), checking.stdout + checking.stderr).toBe(0);
      await runs([bun, "run", join(target, `${name}.ts`)], name);
      await using helped = new Process([bun, "run", join(target, `${name}.ts`), "--help"]);
      await helped.exit();
      for (const [file] of helped.stdout.matchAll(/[\w-]+\.ts\b/g)) {
        expect(existsSync(join(target, file))).toBe(true);
      }
    },
  );

  test("takes only what the script needs", () => {
    const lib = (name: string) => readdirSync(join(folder, "copies", name, "lib"));
    for (const file of ["threads.ts", "serve.ts", "framing.ts", "select.ts"]) {
      for (const name of ["echo-client", "echo-server"]) expect(lib(name)).not.toContain(file);
    }
    expect(lib("message-server")).toContain("framing.ts");
    const beside = readdirSync(join(folder, "copies/echo-client"));
    expect(beside).toContain("echo-server.ts"); // its partner
    expect(beside).toContain(".gitignore");
  });

  test("adds to a copy, and never overwrites what is different there", async () => {
    const target = join(folder, "grows");
    await using first = script("copy", ["echo-server", target]);
    expect(await first.exit()).toBe(0);
    await using nothing = script("copy", ["echo-server", target]);
    expect(await nothing.exit()).toBe(0);
    expect(nothing.stdout).toStartWith("brought:  nothing, for all of it is there\n");

    const mine = join(target, "echo-server.ts");
    writeFileSync(mine, `${await Bun.file(mine).text()}// mine\n`);
    const args = ["echo-server", "message-server", "http-client", target];
    await using more = script("copy", args);
    expect(await more.exit()).toBe(0);
    expect(more.stdout).toContain("kept as they are, for they differ:  echo-server.ts\n");
    expect(await Bun.file(mine).text()).toEndWith("// mine\n");
    await using testing = new Process(["bash", "--norc", "-c", `cd '${target}' && '${bun}' test`]);
    expect(await testing.exit(), testing.stderr).toBe(0);
    expect(testing.stderr).toContain("\n 3 pass\n 0 fail\n");
  });

  test.each([
    ["without the types", {}, true],
    ["with the types", { devDependencies: { "bun-types": "*" } }, false],
  ])("below a folder with a package.json, %s, it type-checks too", async (what, own, brings) => {
    const project = join(folder, what.replaceAll(" ", "-"));
    mkdirSync(project);
    writeFileSync(join(project, "package.json"), JSON.stringify(own));
    const target = join(project, "echo");
    await using copying = script("copy", ["echo-server.ts", target]);
    expect(await copying.exit()).toBe(0);
    expect(existsSync(join(target, "package.json"))).toBe(brings); // only if the types are missing
    install(brings ? target : project);
    await using checking = new Process([bun, "check", "--cwd", target]);
    expect(await checking.exit(), checking.stdout + checking.stderr).toBe(0);
  });

  test("refuses in one line what it cannot do, and names what is near", async () => {
    const target = join(folder, "full");
    mkdirSync(target);
    writeFileSync(join(target, "notes"), "mine");
    await using copying = script("copy", ["echo-server", target]);
    expect(await copying.exit()).toBe(2);
    expect(copying.stderr).toBe(`error: ${target} is not empty\n`);
    expect(readdirSync(target)).toEqual(["notes"]);

    const blank = join(folder, "my echo");
    await using named = script("copy", ["byte-order", blank]);
    expect(await named.exit()).toBe(0);
    expect(named.stdout).toMatch(/^next: {2}bun run ".*my echo\/byte-order\.ts"$/m);

    const none = join(folder, "none");
    for (const [wrong, near] of [
      ["ecko-server", "echo-server, "],
      ["chat", "chat-server, "], // a part of the name
      ["weather", "weather-(sender|station|receiver), weather-"],
    ] as const) {
      await using unknown = script("copy", ["echo-client", wrong, none]);
      expect(await unknown.exit()).toBe(2);
      const line = `^error: no script is called ${wrong}: did you mean ${near}`;
      expect(unknown.stderr).toMatch(new RegExp(line));
      for (const name of scripts) expect(unknown.stderr).toContain(name);
    }

    await using itself = script("copy", ["copy", none]);
    expect(await itself.exit()).toBe(2);
    expect(itself.stderr).toMatch(/^error: copy itself cannot be copied: .*\n$/);
    expect(existsSync(none)).toBe(false);

    await using lacking = script("copy", ["echo-server"]);
    expect(await lacking.exit()).toBe(2);
    expect(lacking.stderr).toBe("error: The folder is missing (see --help)\n");
  });

  test("a copy can be changed: its own words on the wire", async () => {
    const target = join(folder, "changed");
    await using copying = script("copy", ["echo-threaded-server", target]);
    expect(await copying.exit()).toBe(0);
    const file = join(target, "echo-threaded-server.ts");
    const text = await Bun.file(file).text();
    await Bun.write(file, text.replace("conn.sendAll(chunk)", "conn.sendAll(`mine: ${chunk}`)"));
    await using server = new Process([bun, "run", file, "--port", "0"]);
    using conn = await connect({ port: await server.port() });
    await conn.sendAll("hello");
    expect(String(await conn.recvExactly(11))).toBe("mine: hello");
  });
});

describe("bun build --compile", () => {
  test.each(scripts.filter((name) => name !== "copy"))("%s is one executable", async (name) => {
    const file = join(folder, name);
    await using build = new Process([
      bun,
      "build",
      "--compile",
      `scripts/${name}.ts`,
      "--outfile",
      file,
    ]);
    expect(await build.exit(), build.stderr).toBe(0);
    await runs([file], name);
    if (name === "ipc") {
      await using both = new Process([file]);
      expect(await both.exit()).toBe(0);
      expect(both.stdout.match(/hello from process/g)).toHaveLength(2);
    }
    if (name === "echo-threaded-server") {
      await using server = new Process([file, "--port", "0", "--threads", "2"]);
      using conn = await connect({ port: await server.port() });
      await conn.sendAll("hello");
      expect(String(await conn.recvExactly(5))).toBe("hello");
    }
    rmSync(file); // 100 MB each
  });
});
