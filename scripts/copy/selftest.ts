// Generates the test of a copy: it runs the two terminals of the script's header, at any free port.

import { basename } from "node:path";

import { headerOf } from "./reach.ts";

const SOCKET = "./lib/socket.ts"; // in the copy

/** Flags that keep the test short, and arguments that a script needs. */
const FLAGS: Record<string, string[]> = {
  "weather-sender.ts": ["--interval=0"],
  "weather-station.ts": ["--web-port=0", "--store=sqlite://:memory:"],
  "echo-bench.ts": ["--seconds=0.5"],
  "silent-peer.ts": ["--wait=0.05"],
  "watch.ts": [
    "--svg=/dev/null",
    "echo-server --port 0",
    "echo-client --port {port} --message hello",
  ],
};

/** The flags of a script, as the code of further arguments in a call. */
function flagsOf(script: string): string {
  return (FLAGS[script] ?? []).map((word) => `, ${JSON.stringify(word)}`).join("");
}

/** The text of NAME.test.ts. */
export function testOf(name: string, script: string): string {
  const [first = "", second = "", third = ""] = [
    ...headerOf(script).matchAll(/terminal \d: +(.*)/g),
  ].map(([, line]) => /scripts\/([\w-]+\.ts)/.exec(line!)?.[1]);
  const isServer = /(server|receiver|station)\.ts$/.test(first);
  if (isServer && /(client|sender|bench|netcat)\.ts$/.test(second))
    return serverAndClient(first, second);
  if (second === "proxy.ts") return serverAndClient(first, third, second);
  return isServer && name === basename(first, ".ts") ? onlyServer(first) : alone(`${name}.ts`);
}

const HEAD = `import { expect, test } from "bun:test";

// Runs a script as a user would in this folder; its output can be read.
function run(...args: string[]) {
  const env = { ...process.env, HOST: "", PORT: "" };
  return Bun.spawn([process.execPath, "run", ...args], {
    cwd: import.meta.dir,
    env,
    stdin: "pipe",
    stdout: "pipe",
  });
}
`;

const LISTENING = `
const ANY = ["--host", "127.0.0.1", "--port", "0"];

/** The port that a server says it listens on. Goes on reading what it prints. */
function listening(output: ReadableStream<Uint8Array>): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  let said = "";
  (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of output) {
      said += decoder.decode(chunk, { stream: true });
      const [, port] = said.match(/^listening on .*:(\\d+)$/m) ?? [];
      if (port !== undefined) resolve(port);
    }
    reject(new Error(\`the server has ended: \${said}\`));
  })();
  return promise;
}
`;

// With `between`, a script that connects the two (the proxy).
function serverAndClient(server: string, client: string, between?: string): string {
  const through = between === undefined ? "" : ` through ${between}`;
  const behind = `"--to", \`127.0.0.1:\${await listening(server.stdout)}\``;
  const start = between && `await using between = run("${between}", ...ANY, ${behind});\n    `;
  return `// Starts ${server}, talks to it with ${client}${through}, and stops it.

${HEAD}${LISTENING}
test("${server} serves ${client}${through}", async () => {
  const server = run("${server}", ...ANY${flagsOf(server)});
  try {
    ${start ?? ""}const port = await listening(${between ? "between" : "server"}.stdout);
    const client = run("${client}", "--host", "127.0.0.1", "--port", port${flagsOf(client)});
    client.stdin.write("hello\\n\\n");
    await client.stdin.end();
    expect((await client.stdout.text()).trim()).not.toBe("");
    expect(await client.exited).toBe(0);
    server.kill("SIGTERM");
    expect(await server.exited).toBe(0);
  } finally {
    server.kill("SIGKILL");
  }
}, 20_000);
`;
}

function onlyServer(server: string): string {
  return `// Starts ${server}, connects to it, and stops it.

${HEAD.replace('"bun:test";\n', `"bun:test";\n\nimport { connect } from "${SOCKET}";\n`)}${LISTENING}
test("${server} can be connected to", async () => {
  const server = run("${server}", ...ANY${flagsOf(server)});
  try {
    using conn = await connect({ port: Number(await listening(server.stdout)) });
    await conn.sendAll("hello\\n");
    expect((await conn.recv(1024)).length).toBeGreaterThan(0);
    server.kill("SIGTERM");
    expect(await server.exited).toBe(0);
  } finally {
    server.kill("SIGKILL");
  }
}, 20_000);
`;
}

function alone(file: string): string {
  return `// Runs ${file} to its end.

${HEAD}
test("${file} runs to its end", async () => {
  const script = run("${file}"${flagsOf(file)});
  await script.stdin.end();
  expect((await script.stdout.text()).trim()).not.toBe("");
  expect(await script.exited).toBe(0);
}, 20_000);
`;
}
