// The READMEs do what they say: every command is taken out of the text and run, every recording is made
// again and compared, and the two languages tell the same.

import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect } from "../lib/socket.ts";
import { defaultPorts, PATIENCE_MS, Process, root, scripts } from "./helpers.ts";

setDefaultTimeout(3 * PATIENCE_MS);

let ports: Disposable;
beforeAll(async () => void (ports = await defaultPorts()), 200_000);
afterAll(() => ports[Symbol.dispose]());

const english = readFileSync(join(root, "README.md"), "utf8");
const korean = readFileSync(join(root, "README.ko.md"), "utf8");

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

// A command as a reader types it, in a folder; Bun is the one that runs the tests.
function shell(command: string, cwd = root): Process {
  const path = `${process.execPath.replace(/\/[^/]+$/, "")}:${process.env.PATH}`;
  return new Process(["bash", "-c", `cd '${cwd}' && PATH='${path}' && ${command}`]);
}

describe("the table of scripts", () => {
  const table = rows(english).filter(([first = ""]) => /^`[\w-]+\.ts`$/.test(first));

  test("has every script", () => {
    const named = table.map(([name]) => codes(name!)[0]!.replace(".ts", ""));
    expect(named.sort()).toEqual(scripts.filter((name) => name !== "copy").sort());
  });

  const pairs = new Map(table.map((row) => [`${row[2]} | ${row[3]}`, row]));
  test.each([...pairs])("%s", async (_, [, , first, second]) => {
    const [server] = codes(first!);
    const [client] = codes(second!);
    await using one = shell(`exec ${server}`);
    if (client === undefined) return expect(await one.exit()).toBe(0);
    await one.until(/^listening on .*\n/m);
    if (client.startsWith("nc ") && Bun.which("nc") === null) return; // skipped: no nc
    await using two = shell(`exec ${client}`);
    two.type("hello\n");
    if (client.includes("client")) two.type("\n");
    if (client.startsWith("nc ")) await two.until(/Received: hello\n/);
    else expect(await two.exit(), two.stderr).toBe(0);
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
  const lines = blocks(english, "sh").flatMap((block) => block.trim().split("\n"));

  test("run the main job", async () => {
    const [, job] = lines.find((line) => line.startsWith("npm"))!.split(" && ");
    await using server = shell(`exec ${job} --port 0`);
    using conn = await connect({ port: await server.port() });
    await conn.sendAll("hello");
    expect(String(await conn.recv(100))).toBe("hello");
  });

  test("test: what CI runs", () => {
    const commands = lines.find((line) => line.includes("bun test"))!.split(" && ");
    const ci = readFileSync(join(root, ".ci/run"), "utf8");
    expect(commands).toContain("bun test");
    expect(ci).toMatch(/^bun test$/m);
    expect(ci).toContain(commands[0]!.split(" ").at(-1)!); // the same Bun
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

  test("build a single file", async () => {
    const build = lines.find((line) => line.startsWith("bun build"))!;
    await using building = shell(build, project);
    expect(await building.exit(), building.stderr).toBe(0);
    await using server = shell("exec ./echo --port 0", project);
    await server.port();
  });

  const engine = process.env.CONTAINER_ENGINE ?? "docker";
  const works = Bun.which(engine) !== null && Bun.spawnSync([engine, "info"]).exitCode === 0;
  test.skipIf(!works)(`the image's (skipped where ${engine} does not work)`, async () => {
    const [build, ...runs] = lines
      .filter((line) => line.startsWith("docker"))
      .map((line) => line.replace("docker", engine));
    await using building = shell(build!);
    expect(await building.exit(), building.stderr).toBe(0);
    for (const run of runs) {
      await using container = shell(`exec ${run}`);
      await container.until(/^listening on 0\.0\.0\.0:\d+\n/m);
      container.kill("SIGTERM");
      expect(await container.exit()).toBe(0);
    }
    Bun.spawnSync([engine, "rmi", "-f", "sockets"]);
  });
});

describe("the recordings", () => {
  // Times, process numbers and a client's port differ from run to run.
  const same = (text: string) =>
    text.replace(/^\d\d:\d\d:\d\d\.\d{3}/gm, "TIME").replace(/:[1-6]\d{4}\b/g, ":PORT");

  test("are what a person sees", async () => {
    const [server, client, traced] = blocks(english, "console").map((block) => {
      const [command = "", ...output] = block.split("\n");
      return { command: command.replace("$ ", "exec "), output: output.join("\n") };
    });
    for (const { command, output } of [client!, traced!]) {
      await using one = shell(server!.command);
      await one.until(/listening/);
      await using two = shell(command);
      expect(await two.exit()).toBe(0);
      const said = (text: string) => same(text).trimEnd().split("\n").sort();
      expect(said(two.stderr + two.stdout)).toEqual(said(output));
      expect(await one.exit()).toBe(0);
      expect(one.stdout).toBe(server!.output);
    }
  });
});

describe("the two languages", () => {
  test("have the same headings, blocks and tables", () => {
    const headings = (text: string) => [...text.matchAll(/^(#+) /gm)].map(([, level]) => level);
    expect(headings(korean)).toEqual(headings(english));
    for (const language of ["sh", "console", "mermaid"]) {
      expect(blocks(korean, language)).toEqual(blocks(english, language));
    }
    const number = /^[\d.]+( \w+)?$/;
    const skeleton = (text: string) =>
      rows(text).map((cells) =>
        cells.map((cell) => (number.test(cell) ? cell : codes(cell).join(" "))),
      );
    expect(skeleton(korean)).toEqual(skeleton(english));
  });

  test("name the same flags, files and links", () => {
    const links = (text: string) => [...text.matchAll(/\]\(([^)]+)\)/g)].map(([, link]) => link);
    const others = (link: string | undefined) => !link!.startsWith("README");
    expect(links(korean).filter(others).sort()).toEqual(links(english).filter(others).sort());
    const flags = (text: string) => [...new Set(text.match(/--[a-z][\w-]*/g))].sort();
    expect(flags(korean)).toEqual(flags(english));
  });
});
