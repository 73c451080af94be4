// Shared by the tests: processes that end with their test, connected pairs, CPython, and a browser.

import assert from "node:assert/strict";
import { constants } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "bun:test";

import { SocketError } from "../lib/errors.ts";
import { connect, listen, type Socket, socketpair } from "../lib/socket.ts";
import { makeCertificate } from "../scripts/secure/certificate.ts";

/** How long a test may take: enough for a slow machine, and a test that hangs fails after that time. */
export const PATIENCE_MS = 20_000;

/** After a test that ran out of time: prints the output of the processes that it did not dispose of. */
export function tellRunning(): void {
  for (const { command, stdout, stderr } of running) {
    console.error(`${command.join(" ")}\nstdout: ${stdout}\nstderr: ${stderr}`);
  }
  running.clear();
}

export const root = fileURLToPath(new URL("..", import.meta.url));
/** The names of all scripts. */
export const scripts = readdirSync(`${root}/scripts`)
  .filter((file) => file.endsWith(".ts"))
  .map((file) => file.replace(/\.ts$/, ""));

// The scripts without connections are tested in udp-echo.test.ts.
const connecting = scripts.filter((name) => !name.startsWith("udp-"));
/** The servers among them. */
export const servers = connecting.filter((name) => /server$|receiver$|station$/.test(name));
/** The clients among them. */
export const clients = connecting.filter((name) => /client$|sender$/.test(name));

const python3 = Bun.which("python3");

let found: string | undefined;

/** The path of CPython itself: `python3` may be a script of pyenv, which takes long to find it. */
function interpreter(): string {
  found ??= String(
    Bun.spawnSync([python3!, "-c", "import sys; print(sys.executable)"]).stdout,
  ).trim();
  return found;
}

/** A test with CPython as the peer. */
export function testPython(name: string, body: () => Promise<void>): void {
  if (python3 === null) test.skip(`${name} (skipped: no python3)`, body);
  else test(name, body);
}

const chromium = Bun.which("chromium");

/** A test with a real browser: see `openPage`. */
export function testBrowser(name: string, body: () => Promise<void>): void {
  if (chromium === null) test.skip(`${name} (skipped: no chromium)`, body);
  else test(name, body);
}

const hasNamespaces = process.getuid?.() === 0 && Bun.which("ip") !== null;

/** A test with another program as the peer. */
export function testWith(program: string, name: string, body: () => Promise<void>): void {
  if (Bun.which(program) !== null) test(name, body);
  else test.skip(`${name} (skipped: no ${program})`, body);
}

/** A test with a network namespace of Linux, which only root can make. */
export function testNetwork(name: string, body: () => Promise<void>): void {
  if (hasNamespaces) test(name, body);
  else test.skip(`${name} (skipped: no root, or no ip of iproute2)`, body);
}

/**
 * A network namespace with a cable that leads to nobody; the method `ip` configures it. Its own addresses are
 * 10.77.0.1, 2001:db8::1 and, on the interface `near`, fe80::5. Nobody answers at 10.77.0.9 and 2001:db8::9.
 * `hosts` is its /etc/hosts, and 10.77.0.9 its name server. Disposing removes it.
 */
export class Network implements Disposable {
  readonly name = `net-${process.pid}-${Math.random().toString(36).slice(2, 8)}`;

  constructor(hosts = "") {
    this.#run("ip", "netns", "add", this.name);
    mkdirSync(this.#etc, { recursive: true });
    writeFileSync(`${this.#etc}/hosts`, hosts);
    writeFileSync(`${this.#etc}/resolv.conf`, "nameserver 10.77.0.9\n");
    this.ip("link", "set", "lo", "up");
    this.ip("link", "add", "near", "type", "veth", "peer", "name", "far");
    for (const end of ["near", "far"]) this.ip("link", "set", end, "up");
    this.ip("addr", "add", "10.77.0.1/24", "broadcast", "10.77.0.255", "dev", "near");
    for (const address of ["2001:db8::1/64", "fe80::5/64"]) {
      this.ip("-6", "addr", "add", address, "dev", "near", "nodad");
    }
    for (const nobody of ["10.77.0.9", "2001:db8::9"]) {
      this.ip("neigh", "add", nobody, "lladdr", "02:00:00:00:00:09", "dev", "near");
    }
  }

  get #etc(): string {
    return `/etc/netns/${this.name}`;
  }

  ip(...args: string[]): void {
    this.#run("ip", "-n", this.name, ...args);
  }

  /** A process in it. */
  process(command: string[]): Process {
    return new Process(this.inside(command));
  }

  /** The command line that runs a command in this namespace. */
  inside(command: string[]): string[] {
    return ["ip", "netns", "exec", this.name, ...command];
  }

  [Symbol.dispose](): void {
    Bun.spawnSync(["ip", "netns", "del", this.name]);
    rmSync(this.#etc, { recursive: true });
  }

  #run(...command: string[]): void {
    const { exitCode, stderr } = Bun.spawnSync(command);
    if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr}`);
  }
}

const running = new Set<Process>();

/** A process whose output can be waited for, line by line. Disposing of it kills it. */
export class Process implements AsyncDisposable {
  stdout = "";
  stderr = "";
  readonly #process: Bun.Subprocess<"pipe", "pipe", "pipe">;
  readonly #closed: Promise<unknown>;
  #output = Promise.withResolvers<void>();

  constructor(
    readonly command: string[],
    env: Record<string, string> = {},
  ) {
    running.add(this);
    this.#process = Bun.spawn(command, {
      cwd: root,
      env: { ...process.env, HOST: "", PORT: "", NO_COLOR: "1", ...env },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    this.#closed = Promise.all([this.#read("stdout"), this.#read("stderr")]);
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** Waits until the output matches; fails with the output when the process ends without it. */
  async until(pattern: RegExp, stream: "stdout" | "stderr" = "stdout"): Promise<RegExpMatchArray> {
    let ended = false;
    this.#closed.then(() => {
      ended = true;
      this.#output.resolve();
    });
    for (;;) {
      const match = this[stream].match(pattern);
      if (match !== null) return match;
      if (ended) throw new Error(`no ${pattern} in:\n${this.stdout}\n${this.stderr}`);
      await this.#output.promise;
    }
  }

  /** The port that it printed: `listening on HOST:PORT`, or CPython's bare number. */
  async port(): Promise<number> {
    return Number((await this.until(/^(?:listening on .*:)?(\d+)\n/m))[1]);
  }

  /** Types into its stdin. */
  type(text: string): void {
    this.#process.stdin.write(text);
    this.#process.stdin.flush();
  }

  /** Ends its stdin. */
  async endInput(): Promise<void> {
    await this.#process.stdin.end();
  }

  kill(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  /** Waits for its end and for all its output. Gives the exit code: 128 + the signal's number if one killed it. */
  async exit(): Promise<number> {
    await this.#closed;
    return this.#process.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    running.delete(this);
    this.#process.kill("SIGKILL");
    await this.#process.exited;
  }

  async #read(stream: "stdout" | "stderr"): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of this.#process[stream]) {
      this[stream] += decoder.decode(chunk, { stream: true });
      this.#output.resolve();
      this.#output = Promise.withResolvers<void>();
    }
  }
}

/** Flags without which two runs of a script would disturb each other. */
export const APART: Record<string, string[]> = {
  "weather-station": ["--web-port=0", "--store=sqlite://:memory:"],
};

/** `bun run scripts/NAME.ts ARGS`. */
export function script(
  name: string,
  args: string[] = [],
  env: Record<string, string> = {},
): Process {
  const flags = [...(APART[name] ?? []), ...args];
  return new Process([process.execPath, "run", `scripts/${name}.ts`, ...flags], env);
}

/** A folder that is removed with all that is in it. */
export function temporaryFolder(): Disposable & { path: string } {
  const path = mkdtempSync(join(tmpdir(), "sockets-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

/** A weather station: `tcp` is the port for sensors, `url` the page. Its store is in the folder. */
export async function station(
  folder: { path: string },
  store = `sqlite://${folder.path}/weather.db`,
  ...args: string[]
): Promise<Process & { tcp: number; url: string }> {
  const flags = ["--host=127.0.0.1", "--port=0", `--store=${store}`];
  const started = script("weather-station", [...flags, ...args]);
  const [, port, url] = await started.until(/^listening on .*:(\d+)\npage at (.*)\n/);
  return Object.assign(started, { tcp: Number(port), url: url! });
}

/** What a weather station answers to a sensor that sends these lines, and then FIN. */
export async function report(port: number, ...lines: string[]): Promise<string> {
  using conn = await connect({ port });
  await conn.sendAll(lines.map((line) => `${line}\n`).join(""));
  conn.shutdown("write");
  return String(await recvAll(conn));
}

/** A CPython program. Its `listen()` makes a listening socket and prints the port. */
export function python(code: string, ...args: (string | number)[]): Process {
  const prelude = `
import socket, struct, sys, threading, time
def listen(backlog=128, host="127.0.0.1", family=socket.AF_INET):
    s = socket.socket(family); s.bind((host, 0)); s.listen(backlog)
    print(s.getsockname()[1], flush=True)
    return s
def connect(port):
    return socket.create_connection(("127.0.0.1", int(port)))
def reset(conn):
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); conn.close()
def recv_all(conn):
    data = bytearray()
    while chunk := conn.recv(65536): data += chunk
    return bytes(data)
`;
  return new Process([interpreter(), "-u", "-c", prelude + code, ...args.map(String)]);
}

/** A client as in the tutorials: sends each text and receives as many bytes. Takes a port and texts. */
export const pythonClient = `
conn = connect(sys.argv[1])
for text in sys.argv[2:]:
    conn.sendall(text.encode())
    got = b""
    while len(got) < len(text.encode()): got += conn.recv(1024)
    print("got", got.decode(), flush=True)
conn.close()`;

export type TlsVersion = "TLSv1.2" | "TLSv1.3";

/** Until it is disposed of, our clients speak only this version of TLS. (The lib has no option for that.) */
export async function onlyTls(version: TlsVersion): Promise<Disposable> {
  using server = listen({ port: 0 });
  const socket = { data() {} };
  const handle = await Bun.connect({ hostname: "127.0.0.1", port: server.address.port, socket });
  handle.end();
  const prototype = Object.getPrototypeOf(handle);
  const original = prototype.upgradeTLS;
  const not = { "TLSv1.2": constants.SSL_OP_NO_TLSv1_3, "TLSv1.3": constants.SSL_OP_NO_TLSv1_2 };
  prototype.upgradeTLS = function (options: any) {
    if (options.isServer) return original.call(this, options);
    const tls = { ...options.tls, secureOptions: not[version] };
    const handshake = (handle: any, ...rest: unknown[]) => {
      assert.equal(handle.getTLSVersion(), version);
      options.socket.handshake(handle, ...rest);
    };
    return original.call(this, { ...options, tls, socket: { ...options.socket, handshake } });
  };
  return { [Symbol.dispose]: () => (prototype.upgradeTLS = original) };
}

/** Two ends of one connection. */
export const pair = (host?: string) => socketpair({ host });

const forPairs = makeCertificate("localhost");

/** The same over TLS. */
export async function tlsPair(): Promise<{ near: Socket; far: Socket } & Disposable> {
  using server = listen({ port: 0, tls: { cert: forPairs.cert, key: forPairs.key } });
  const connecting = connect({ ...server.address, tls: { ca: forPairs.cert } });
  const [near, far] = await Promise.all([connecting, server.accept()]);
  return { near, far, [Symbol.dispose]: () => [near, far].forEach((end) => end.close()) };
}

/** Sends until the kernel takes no more; gives the number of bytes that it took. */
export function fill(conn: Socket): number {
  const block = new Uint8Array(1 << 20);
  let total = 0;
  for (let sent = conn.trySend(block); sent > 0; sent = conn.trySend(block)) total += sent;
  return total;
}

/** Receives to EOF. */
export async function recvAll(conn: Socket): Promise<Buffer> {
  return Buffer.concat(await Array.fromAsync(conn));
}

/** Sends `bytes` bytes to an echo server, and compares every byte that comes back. */
export async function echoes(port: number, bytes = 1000): Promise<void> {
  using conn = await connect({ port });
  const data = pattern(bytes, port + bytes);
  const [got] = await Promise.all([
    recvAll(conn),
    conn.sendAll(data).then(() => conn.shutdown("write")),
  ]);
  if (!got.equals(data)) throw new Error(`${got.length} of ${bytes} bytes, or other ones`);
}

/**
 * A port that is free now, for a program that does not print which port it got. It is outside the range that
 * kernels use for port 0, so a test that asks for any port cannot get it meanwhile.
 */
export function freePort(): number {
  for (;;) {
    const port = 25_000 + Math.floor(Math.random() * 7_000);
    try {
      listen({ port }).close();
      return port;
    } catch (error) {
      if ((error as SocketError).code !== "EADDRINUSE") throw error;
    }
  }
}

/** The sockets that this process has open, each by its inode: a number that no other socket has. */
export function sockets(): Set<string> {
  const name = (fd: string) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ""; // the descriptor that listed the folder; it is closed by now
    }
  };
  const names = readdirSync("/proc/self/fd").map(name);
  return new Set(names.filter((name) => name.startsWith("socket:")));
}

/** Waits until nobody listens on a port any more. */
export async function untilRefused(port: number): Promise<void> {
  for (;;) {
    const conn = await connect({ port }).catch(() => null);
    if (conn === null) return;
    conn.close();
  }
}

/** What only one run of the tests on a machine does at a time: the port is the lock, and no script uses it. */
const LOCKS = { "default ports": 4099, containers: 4098 };

/** Waits until no other run of the tests on this machine uses this. To be disposed of afterwards. */
export async function alone(what: keyof typeof LOCKS): Promise<Disposable> {
  const port = LOCKS[what];
  for (;;) {
    try {
      return listen({ port });
    } catch {
      // Another run holds the lock. It does not accept, so this connection ends when that run is done.
      using conn = await connect({ port }).catch(() => null);
      await conn?.recv(1).catch(() => {});
    }
  }
}

const [postgres] = new Bun.Glob("/usr/lib/postgresql/*/bin/postgres").scanSync({ absolute: true });

/** A test with a real PostgreSQL. */
export function testPostgres(name: string, body: () => Promise<void>): void {
  if (postgres === undefined) test.skip(`${name} (skipped: no postgresql)`, body);
  else test(name, body);
}

/** A PostgreSQL of its own, which can be stopped and started. Disposing of it removes it. */
export class Postgres implements AsyncDisposable {
  readonly url: string;
  readonly #folder = mkdtempSync(join(tmpdir(), "postgres-"));
  #server: Process | undefined;

  constructor(readonly port = freePort()) {
    this.url = `postgres://weather@127.0.0.1:${port}/postgres`;
  }

  async start(): Promise<void> {
    const data = join(this.#folder, "data");
    if (!existsSync(data)) {
      chmodSync(this.#folder, 0o777);
      const flags = ["-D", data, "-A", "trust", "-U", "weather", "--no-sync"];
      await using init = this.#run(postgres!.replace(/postgres$/, "initdb"), ...flags);
      if ((await init.exit()) !== 0) throw new Error(init.stderr);
    }
    const flags = ["-D", data, "-p", `${this.port}`, "-h", "127.0.0.1", "-k", this.#folder];
    this.#server = this.#run(postgres!, ...flags);
    await this.#server.until(/database system is ready to accept connections/, "stderr");
  }

  /** Shuts it down cleanly; its connections end. */
  async stop(): Promise<void> {
    this.#server?.kill("SIGINT");
    await this.#server?.exit();
    await this.#server?.[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    rmSync(this.#folder, { recursive: true });
  }

  // PostgreSQL refuses to run as root.
  #run(...command: string[]): Process {
    const user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"];
    return new Process(process.getuid?.() === 0 ? [...user, ...command] : command);
  }
}

/** One turn of the event loop. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** The error that a promise or a call fails with. */
export async function failure(call: Promise<unknown> | (() => unknown)): Promise<any> {
  try {
    await (typeof call === "function" ? call() : call);
  } catch (error) {
    return error;
  }
  throw new Error("it did not fail");
}

/** The same, but the error must be a `SocketError` with one of these codes. */
export async function fails(
  call: Promise<unknown> | (() => unknown),
  ...codes: string[]
): Promise<SocketError> {
  const error = await failure(call);
  assert.ok(error instanceof SocketError, `a ${error}, not a SocketError`);
  assert.ok(codes.includes(error.code), `${error.code}, not ${codes}`);
  return error;
}

/** Pseudorandom bytes, so that missing, repeated or swapped bytes are noticed. */
export function pattern(bytes: number, seed = 1): Buffer {
  const words = new Uint32Array(Math.ceil(bytes / 4));
  let state = seed;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    words[i] = state ^ (state >>> 15); // the low bits alone would soon repeat
  }
  return Buffer.from(words.buffer, 0, bytes);
}

/**
 * A page in Chromium, in a window of this size (CSS pixels), with these colours and this language. Close
 * it with `using`. Its console output and its errors are printed on our console.
 */
export async function openPage(
  url: string,
  { width = 800, height = 600, dark = false, language = "en", anyCertificate = false } = {},
): Promise<Bun.WebView> {
  // Chromium's own sandbox refuses to start for root.
  const page = new Bun.WebView({
    backend: { type: "chrome", path: chromium!, argv: ["--no-sandbox"] },
    console,
  });
  await page.navigate("about:blank"); // before that, it takes no commands
  await page.cdp("Emulation.setDeviceMetricsOverride", {
    width,
    height,
    deviceScaleFactor: 1,
    mobile: false,
  });
  await page.cdp("Security.setIgnoreCertificateErrors", { ignore: anyCertificate });
  const scheme = { name: "prefers-color-scheme", value: dark ? "dark" : "light" };
  await page.cdp("Emulation.setEmulatedMedia", { features: [scheme] });
  const userAgent = await page.evaluate("navigator.userAgent");
  await page.cdp("Emulation.setUserAgentOverride", { userAgent, acceptLanguage: language });
  await page.navigate(url);
  return page;
}

/** Waits until an expression is true in the page: `document.title === "ready"`. */
export async function untilTrue(page: Bun.WebView, expression: string): Promise<void> {
  await page.evaluate(`new Promise((resolve) => {
    const look = () => (${expression}) ? resolve() : setTimeout(look, 10);
    look();
  })`);
}
