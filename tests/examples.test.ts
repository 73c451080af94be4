// Every `@example` of lib/, and every TypeScript block of the READMEs and docs/, runs as it stands there.
//
// An example names neither its imports nor its surroundings. Imports are added for the public names that it
// uses, and `AROUND` makes what it uses without declaring it (`conn`, `server`, …). Where a line ends with a
// value, as in `htons(1); // 256`, that must be the value of the line, or what it prints.

import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";

import { SocketError } from "../lib/errors.ts";
import { serve } from "../lib/serve.ts";
import { connect, listen, type Socket } from "../lib/socket.ts";
import { alone, PATIENCE_MS, Process, recvAll, root, turn } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

let ports: Disposable; // examples have port numbers in them
beforeAll(async () => void (ports = await alone("default ports")), 200_000);
afterAll(() => ports[Symbol.dispose]());

const folder = mkdtempSync(join(tmpdir(), "examples-"));
afterAll(() => rmSync(folder, { recursive: true }));

const sources = [...new Bun.Glob("lib/**/*.ts").scanSync({ cwd: root })].sort();
// (One pattern with braces for both finds nothing.)
const pages = ["README*.md", "docs/**/*.md"]
  .flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: root })])
  .sort();
const textOf = (file: string) => readFileSync(join(root, file), "utf8");

/** Where each public name comes from. */
const exported = new Map(
  sources
    .filter((file) => /^lib\/[a-z]+\.ts$/.test(file))
    .flatMap((file) => {
      const text = textOf(file);
      const own = text.matchAll(/^export (?:abstract |async )?(?:function\*?|class|const) (\w+)/gm);
      const others = text.matchAll(/^export \{([^}]+)\}/gm);
      const names = [...own, ...others].flatMap(([, names]) => names!.split(/,\s*/));
      return names.map((name) => [name.trim(), file] as const);
    })
    .filter(([name]) => /^\w+$/.test(name)),
);

interface Example {
  /** The file, and the name that it is an example of. */
  title: string;
  code: string;
}

function examplesIn(file: string): Example[] {
  const docs = textOf(file).matchAll(
    /\/\*\*\n((?:(?!\*\/).)*?)\* @example\n(.*?) *\*\/\n([^\n]*)/gs,
  );
  return [...docs].map(([, , code, after]) => {
    const keywords = /^(export|abstract|async|function|class|const|get|static|readonly)$/;
    const name = after!.match(/\w+/g)!.find((word) => !keywords.test(word));
    return { title: `${file} ${name}`, code: code!.replace(/^ *\* ?/gm, "") };
  });
}

function programsIn(page: string): Example[] {
  const blocks = [...textOf(page).matchAll(/^```ts\n(.*?)^```/gms)];
  return blocks.map(([, code], i) => ({ title: `${page} ${i + 1}`, code: code! }));
}

/** A name that examples use without declaring it. If several have the same name, the first that fits is used. */
interface Surroundings {
  name: string;
  /** Only for examples that use this name, too. */
  with?: string;
  before: string;
  after?: string;
}

const AROUND: Surroundings[] = [
  { name: "signal", before: `const { signal } = new AbortController();` },
  { name: "clients", before: `const clients: Socket[] = [];` },
  {
    name: "elsewhere", // the address of an echo server
    before: `using other = listen({ port: 0 });
      const elsewhere = other.address;
      other.accept().then(async (guest) => {
        for await (const chunk of guest) await guest.sendAll(chunk);
        guest.close();
      });`,
  },
  {
    name: "server", // one client sends a line and FIN, and receives until EOF; then the server is closed
    before: `using server = listen({ port: 0 });
      connect(server.address).then(async (visitor) => {
        await visitor.sendAll("hello\\n");
        visitor.shutdown("write");
        const got = await Array.fromAsync(visitor).catch(() => []);
        console.log("the visitor received: " + Buffer.concat(got));
        server.close();
      });`,
  },
  {
    name: "conn", // the other end is a WebSocket client
    with: "acceptWebSocket",
    before: `const { near: conn, far: other } = await socketpair();
      openWebSocket(other).then(async (client) => {
        await client.send("hello");
        for await (const message of client) {
          console.log("the other end received: " + message);
          await client.close();
        }
      });`,
  },
  {
    name: "conn", // the other end is a WebSocket server
    with: "openWebSocket",
    before: `const { near: conn, far: other } = await socketpair();
      acceptWebSocket(other).then(async (server) => {
        for await (const message of server!) console.log("the other end received: " + message);
      });`,
    after: `await socket.close();`,
  },
  {
    name: "conn", // the other end is a proxy
    with: "acceptProxyHeader",
    before: `const { near: conn, far: other } = await socketpair();
      const source = { host: "192.0.2.7", port: 56324 };
      await other.sendAll(encodeProxyHeader({ source, destination: other.localAddress }));`,
    after: `[conn, other].forEach((end) => end.close());`,
  },
  {
    name: "conn", // the other end has sent a line and FIN
    before: `const { near: conn, far: other } = await socketpair();
      await other.sendAll("hello\\n");
      other.shutdown("write");`,
    after: `conn.close();
      console.log("the other end received: " + Buffer.concat(await Array.fromAsync(other)));`,
  },
];

function around(code: string): Surroundings[] {
  const fitting = AROUND.filter(
    ({ name, with: other = name }) =>
      uses(code, name) && !declares(code, name) && uses(code, other),
  );
  return fitting.filter(({ name }, i) => fitting.findIndex((one) => one.name === name) === i);
}

/** What an example must have printed, besides the values in it. */
const PRINTS: Record<string, string> = {
  "lib/errors.ts SocketError": "nobody there\n",
  "lib/framing.ts messages": "hello\n",
  "lib/relay.ts relay": "the visitor received: hello\n",
  "lib/serve.ts serve": "the visitor received: hello\n",
  "lib/socket/connection.ts Socket": "the other end received: hello\n",
  "lib/websocket.ts acceptWebSocket": "the other end received: hello\n",
  "lib/websocket.ts openWebSocket": "the other end received: hello\n",
};

const uses = (code: string, name: string) =>
  new RegExp(`(?<!\\w|(?<!\\.\\.)\\.)${name}(?!\\w)`).test(code.replace(/\/\/.*/g, ""));
const declares = (code: string, name: string) =>
  new RegExp(`(const|let|using) ((?! of )[^=;])*\\b${name}\\b|\\(${name}\\) =>`).test(code);

/** A line with an expression, and the expected value in a comment after it. */
const WITH_VALUE =
  /^(?!(?:console|const|using|for|if)\b)(.+); \/\/ (["\d[{]|true|false|null)(.*)$/gm;

function programOf({ code }: Example): string {
  if (/^import /m.test(code)) return code.replaceAll(`"./lib/`, `"${root}lib/`);
  const surroundings = around(code);
  const parts = [
    ...surroundings.map(({ before }) => before),
    code.replace(WITH_VALUE, (_, expression, first, rest) => {
      return `check(${expression}, ${JSON.stringify(first + rest)});`;
    }),
    ...surroundings.map(({ after = "" }) => after),
    `function check(value: unknown, told: string): void {
      const shown = Bun.inspect(value);
      if (!told.startsWith(shown)) throw new Error(shown + ", not " + told);
    }`,
  ].join("\n");
  const types = uses(parts, "Socket")
    ? `import type { Socket } from "${root}lib/socket.ts";\n`
    : "";
  const imports = [...exported]
    .filter(([name]) => name !== "Socket" && uses(parts, name) && !declares(parts, name))
    .map(([name, file]) => `import { ${name} } from "${root}${file}";\n`);
  return `${imports.join("")}${types}\n${parts}\nexport {};\n`;
}

const examples = [...sources.flatMap(examplesIn), ...pages.flatMap(programsIn)].map(
  (example, i) => ({ ...example, file: join(folder, `example-${i}.ts`) }),
);
for (const example of examples) writeFileSync(example.file, programOf(example));

test("all of them are found, and type-check", async () => {
  const titles = examples.map(({ title }) => title);
  for (const one of ["lib/serve.ts serve", "README.md 1"]) expect(titles).toContain(one);
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
  const { compilerOptions } = JSON.parse(textOf("tsconfig.json"));
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions }));
  await using checking = new Process([process.execPath, "check", "--cwd", folder]);
  expect(await checking.exit(), checking.stdout + checking.stderr).toBe(0);
});

test("what an example prints belongs to an example that is there", () => {
  const titles = examples.map(({ title }) => title);
  for (const title of Object.keys(PRINTS)) expect(titles).toContain(title);
});

test.each(examples)("$title", async ({ title, code, file }) => {
  const portOf = (call: string) =>
    Number(code.match(new RegExp(`(?:${call})\\([^)]*port: ([1-9]\\d*)`))?.[1]);
  const [listens, connects] = [portOf("listen|startThreads"), portOf("connect")];
  const isAnswered = connects > 0 && !code.includes("ECONNREFUSED");
  using server = isAnswered ? listen({ port: connects }) : null;
  if (server) serve(server, echo, { maxConnections: 9, idleTimeout: 9, onError: () => {} });

  await using program = new Process([process.execPath, "run", file]);
  if (listens) {
    const text = title === "lib/socket.ts listen" ? "" : "hello"; // that one closes at once
    const tried: string[] = [];
    expect(await exchange(listens, program, text, tried)).toBe(text);
    program.kill("SIGTERM"); // most examples would serve for ever
    await program.exit();
    expect(program.stderr, `tried: ${tried.join(", ")}`).toBe("");
  } else {
    expect(await program.exit(), program.stderr).toBe(0);
  }
  for (const [, told] of code.matchAll(/console\.log\(.*\); \/\/ ("[^"]*")/g)) {
    expect(program.stdout).toContain(JSON.parse(told!));
  }
  expect(program.stdout).toContain(PRINTS[title] ?? "");
});

async function echo(conn: Socket): Promise<void> {
  for await (const chunk of conn) await conn.sendAll(chunk);
}

/**
 * Sends a text as soon as a program listens, and gives what comes back. The program may first check that its
 * port is free: a connection that is made then is reset, so it is tried again. `tried` tells, for each
 * connection, its port on our side and how far it came.
 */
async function exchange(
  port: number,
  program: Process,
  text: string,
  tried: string[],
): Promise<string> {
  let ended = false;
  program.exit().then(() => (ended = true));
  for (;;) {
    try {
      using conn = await connect({ port });
      const own = tried.push(`${conn.localAddress.port}`) - 1;
      await conn.sendAll(text);
      conn.shutdown("write");
      tried[own] += " sent";
      return String(await recvAll(conn));
    } catch (error) {
      if (ended) throw new Error(`the program has ended: ${program.stderr}`);
      if (!["ECONNREFUSED", "ECONNRESET", "EPIPE"].includes((error as SocketError).code))
        throw error;
    }
    await turn();
  }
}
