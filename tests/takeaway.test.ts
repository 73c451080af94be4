// The ways to take a script away: a copy of it, and a single executable file. (The image is in
// image.test.ts.)

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
import { PATIENCE_MS, Process, root, script, scripts, servers } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const folder = mkdtempSync(join(tmpdir(), "takeaway-"));
afterAll(() => rmSync(folder, { recursive: true }));
const bun = process.execPath;

/** What it does when it runs: a server listens and ends at SIGTERM, the others tell their flags. */
async function runs(command: string[], name: string): Promise<void> {
  if (servers.includes(name)) {
    await using server = new Process([...command, "--host", "127.0.0.1", "--port", "0"]);
    using _conn = await connect({ port: await server.port() });
    server.kill("SIGTERM");
    expect(await server.exit()).toBe(0);
  }
  await using helped = new Process([...command, "--help"]);
  expect(await helped.exit()).toBe(0);
  expect(helped.stdout).toMatch(/^ {2}--help +this text$/m);
}

describe("copy", () => {
  test.each(scripts.filter((name) => name !== "copy"))("%s type-checks and runs", async (name) => {
    const target = join(folder, "copies", name);
    await using copying = script("copy", [name, target]);
    expect(await copying.exit()).toBe(0);
    expect(copying.stdout).toMatch(new RegExp(`^next: {2}bun run .*/${name}\\.ts\n$`));
    // What \`bun install\` would do, without a network.
    symlinkSync(join(root, "node_modules"), join(target, "node_modules"));
    await using checking = new Process([bun, "check", "--cwd", target]);
    expect(await checking.exit(), checking.stdout + checking.stderr).toBe(0);
    await runs([bun, "run", join(target, `${name}.ts`)], name);
  });

  test("takes only what the script needs", async () => {
    const lib = (name: string) => readdirSync(join(folder, "copies", name, "lib"));
    expect(lib("echo-client")).not.toContain("threads.ts");
    expect(lib("echo-client")).not.toContain("framing.ts");
    expect(lib("message-server")).toContain("framing.ts");
  });

  test("is part of a project that is there already", async () => {
    const project = join(folder, "project");
    mkdirSync(project);
    writeFileSync(join(project, "package.json"), "{}");
    await using copying = script("copy", ["echo-server.ts", join(project, "echo")]);
    expect(await copying.exit()).toBe(0);
    expect(existsSync(join(project, "echo/package.json"))).toBe(false);
    expect(existsSync(join(project, "echo/tsconfig.json"))).toBe(true);
  });

  test("never overwrites, and names what is near when there is no such script", async () => {
    const target = join(folder, "full");
    mkdirSync(target);
    writeFileSync(join(target, "notes"), "mine");
    await using copying = script("copy", ["echo-server", target]);
    expect(await copying.exit()).toBe(2);
    expect(copying.stderr).toBe(`error: ${target} is not empty\n`);
    expect(readdirSync(target)).toEqual(["notes"]);

    await using unknown = script("copy", ["ecko-server", join(folder, "none")]);
    expect(await unknown.exit()).toBe(2);
    expect(unknown.stderr).toMatch(
      /^error: no script is called ecko-server: did you mean echo-server, /,
    );
    for (const name of scripts) expect(unknown.stderr).toContain(name);
    expect(existsSync(join(folder, "none"))).toBe(false);

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
