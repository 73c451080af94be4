const help = `
Soak: runs every server under well-behaved and ill-behaved clients for a time, and reports what went
through, and what each server holds of memory and descriptors at the start and at the end.

  terminal 1:  bun run soak --seconds 600
  terminal 2:  bun run bad-network bun run soak --via 10.99.0.2     (packets are lost and late: see bad-network.ts)
`;

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { cli, fail, print, refuse } from "../lib/cli.ts";
import { datagram } from "../lib/datagram.ts";
import { lengthPrefixed, messages, sendMessage } from "../lib/framing.ts";
import { encodeProxyHeader } from "../lib/relay.ts";
import { type ClientTls, connect, type Socket } from "../lib/socket.ts";
import { openWebSocket } from "../lib/websocket.ts";
import { makeCertificate } from "../scripts/secure/certificate.ts";
import { pattern, Process, recvAll, script, untilRefused } from "./helpers.ts";

const { seconds, clients, only, via, signal } = cli(help, {
  seconds: { type: "seconds", default: 60, min: 1, about: "how long" },
  only: { type: "string", about: "servers whose command begins so" },
  via: { type: "string", default: "127.0.0.1", about: "the address that the clients connect to" },
  clients: { type: "count", default: 8, min: 1, about: "clients at once, for each server" },
});

/** What a well-behaved client does and expects. Resolves with the number of bytes sent and received. */
type Visit = (conn: Socket) => Promise<[out: number, back: number]>;

// Sends everything and receives until EOF. The hash of the replies must be that of what was expected.
const exchange =
  (make: () => Buffer, due = (data: Buffer) => data): Visit =>
  async (conn) => {
    const data = make();
    const [got] = await Promise.all([
      recvAll(conn),
      conn.sendAll(data).then(() => conn.shutdown("write")),
    ]);
    if (Bun.hash(got) !== Bun.hash(due(data))) throw new Error(`${got.length} bytes that differ`);
    return [data.length, got.length];
  };

let seed = 1;
const random = (max: number) => Math.floor(Math.random() * max);
const data = (max: number) => () => pattern(1 + random(max), seed++);

// Half of the clients misbehave. At a TLS server, half of these connect without TLS.
const [TLS, NETCAT] = [" (TLS)", " (by netcat)"];
const { cert, key } = makeCertificate("localhost");
const folder = mkdtempSync(join(tmpdir(), "soak-"));
process.on("exit", () => rmSync(folder, { recursive: true }));
const files = { TLS_CERT: join(folder, "cert.pem"), TLS_KEY: join(folder, "key.pem") };
writeFileSync(files.TLS_CERT, cert);
writeFileSync(files.TLS_KEY, key);
const TEXT = "안녕하세요\n".repeat(50_000);
writeFileSync(join(folder, "text"), TEXT);

const source = { host: "192.0.2.7", port: 56324 };
const proxied = encodeProxyHeader({ source, destination: { host: "192.0.2.1", port: 4000 } });

const chat: Visit = async (conn) => {
  const name = `guest${seed++}`;
  const said = `${name}\n안녕하세요\n/who\n/quit\n`;
  await conn.sendAll(said);
  const text = String(await recvAll(conn));
  const who = text.match(/^\* here: (.*)$/m)?.[1] ?? "";
  if (!text.includes(`\nWelcome, ${name}\n`) || !who.split(", ").includes(name)) {
    throw new Error(`not in the room: ${JSON.stringify(text.slice(0, 200))}`);
  }
  return [Buffer.byteLength(said), Buffer.byteLength(text)];
};

const host = via === "127.0.0.1" ? via : "0.0.0.0"; // where the servers listen

// By the server's command. Null: no connection is made for the visit; it uses datagrams or netcat.
const visits: Record<string, Visit | null> = {
  "udp-echo-server": null,
  // These serve one client after another: without a timeout, one whose reset was lost would block the others.
  "echo-server --forever --idle-timeout 3": exchange(() => Buffer.from("one message")),
  "echo-loop-server --forever --idle-timeout 3": exchange(() =>
    Buffer.from("text ".repeat(random(2000))),
  ),
  "echo-threaded-server": exchange(data(300_000)),
  "echo-threaded-server --relay": exchange(data(300_000)),
  "select-server": exchange(data(300_000)),
  [`weather-receiver --host ${host}`]: exchange(
    () => Buffer.from("temperature: 20\n".repeat(1 + random(50))),
    () => Buffer.alloc(0),
  ),
  "reply-threaded-server": async (conn) => {
    const text = "x".repeat(1 + random(1000));
    await conn.sendAll(text);
    const reply = String(await conn.recvExactly(10 + text.length));
    if (reply !== `Received: ${text}`) throw new Error("a reply that differs");
    return [text.length, reply.length];
  },
  "message-server": async (conn) => {
    const message = pattern(random(100_000), seed++);
    await sendMessage(conn, lengthPrefixed(), message);
    const { value: reply } = await messages(conn, lengthPrefixed()).next();
    if (!reply?.equals(message)) throw new Error("a message that differs");
    return [message.length, message.length];
  },
  "http-server": async (conn) => {
    await conn.sendAll("GET /soak HTTP/1.1\r\nHost: x\r\n\r\n");
    const reply = await recvAll(conn);
    if (!reply.includes("GET /soak")) throw new Error("a reply that differs");
    return [32, reply.length];
  },
  "websocket-server": async (conn) => {
    const socket = await openWebSocket(conn);
    const message = pattern(random(100_000), seed++);
    await socket.send(message);
    const { value: reply } = await socket[Symbol.asyncIterator]().next();
    if (!Buffer.from(reply ?? "").equals(message)) throw new Error("a message that differs");
    await socket.close();
    return [message.length, message.length];
  },
  proxy: exchange(data(300_000)),
  "echo-threaded-server --accept-proxy": async (conn) => {
    await conn.sendAll(proxied);
    return await exchange(data(300_000))(conn);
  },
  [`echo-threaded-server${NETCAT}`]: null,
  [`echo-threaded-server${TLS}${NETCAT}`]: null,
  "chat-server": chat,
  "weather-station --web-port 0": exchange(
    () => Buffer.from("sensor: soak\ntemperature: 20\n"),
    () => Buffer.from("stored 1\n"),
  ),
};

for (const name of Object.keys(visits)) {
  if (/^((echo-threaded|message|http|websocket|chat)-server( --relay)?|proxy)$/.test(name))
    visits[name + TLS] = visits[name]!;
}

const misdeeds: ((conn: Socket) => Promise<unknown>)[] = [
  async (conn) => conn.reset(),
  async (conn) => conn.close(),
  async (conn) => conn.sendAll("half a mess").then(() => conn.reset()),
  async (conn) => conn.sendAll(pattern(random(2_000_000), seed++)).then(() => conn.reset()),
  async (conn) => conn.send(new Uint8Array(4 << 20)).then(() => Bun.sleep(20)), // and never receives
  async (conn) => {
    for (let i = 0; i < 50; i++) await conn.sendAll("x");
  },
  async (conn) => Bun.sleep(random(30)),
  async (conn) => {
    // For the chat: gives a name, says much, and reads nothing.
    await conn.sendAll(`loud${seed++}\n`);
    for (let i = random(8000); i > 0; i--) await conn.sendAll(`${"x".repeat(999)}\n`);
  },
];

async function misbehave(conn: Socket): Promise<void> {
  using _closedAtTheEnd = conn;
  conn.setTimeout(30_000);
  await misdeeds[random(misdeeds.length)]!(conn).catch(() => {});
}

// Datagrams that are lost are sent again. A client that misbehaves sends many, and reads no reply.
async function callByDatagram(tally: Tally, well: boolean): Promise<[out: number, back: number]> {
  using socket = await datagram({ peer: { host: via, port: tally.port } });
  if (!well) {
    tally.misdeeds++;
    for (let i = random(500); i > 0; i--) socket.trySendTo(pattern(random(1500), seed++));
    await Bun.sleep(random(30));
    return [0, 0];
  }
  const message = pattern(random(9000), seed++);
  socket.setTimeout(500);
  for (let tries = 0; tries < 60; tries++) {
    await socket.send(message);
    const reply = await socket.recv().catch(() => null);
    if (reply?.equals(message)) return [message.length, reply.length];
    if (reply !== null) throw new Error("a datagram that differs");
  }
  throw new Error("no reply");
}

// Netcat is started for each call: it connects, or it listens for a client that misbehaves.
async function callByNetcat(tally: Tally, well: boolean): Promise<[out: number, back: number]> {
  const text = TEXT.slice(0, random(TEXT.length));
  const there = `--host localhost --port ${tally.port} ${tally.tls ? `--tls-ca ${files.TLS_CERT}` : ""}`;
  const flags = well ? there : "--listen --port 0";
  const input = `< <(head -c ${Buffer.byteLength(text)} ${folder}/text)`;
  const command = `exec ${process.execPath} run scripts/netcat.ts ${flags} ${input}`;
  // --norc: with a socket as its stdin, bash would read ~/.bashrc, which may print something.
  await using netcat = new Process(["bash", "--norc", "-c", command]);
  if (!well) {
    tally.misdeeds++;
    const [, port] = await netcat.until(/^listening on .*:(\d+)\n/, "stderr");
    await misbehave(await connect({ port: Number(port) }));
    await untilRefused(Number(port)); // if a connection was reset too early, it waits for another
  }
  // Whatever the other side did, netcat has to end, with at most one line that says why.
  const code = await Promise.race([netcat.exit(), Bun.sleep(30_000)]);
  const said = netcat.stderr.replace(/^listening on .*\n/, "");
  const isFine = well ? code === 0 && said === "" : /^(error: .*\n)?$/.test(said) && code! < 2;
  if (!isFine) tally.wrong.push(`netcat: exit ${code}, ${said}`);
  if (well && netcat.stdout !== text) throw new Error("a reply that differs");
  return [Buffer.byteLength(text), Buffer.byteLength(text)];
}

interface Tally {
  name: string;
  server: Process;
  port: number;
  tls: ClientTls | undefined;
  visits: number;
  misdeeds: number;
  out: number;
  back: number;
  wrong: string[];
  memory: number[];
  descriptors: number[];
}

const end = performance.now() + seconds * 1000;
const going = () => performance.now() < end && !signal.aborted;

async function soak(name: string, visit: Visit | null): Promise<boolean> {
  // We read the server's output only up to its port, and `cat` drops the rest: if we read it all and were slow,
  // the server would have to wait for us.
  const tls = name.includes(TLS) ? { ca: cert, serverName: "localhost" } : undefined;
  const [file, ...flags] = name.replace(/ \(.*/, "").split(" ");
  if (file === "weather-station") flags.push(`--store=sqlite://${folder}/weather.db`);
  const env = { HOST: host, ...(tls && files) };
  await using behind =
    file === "proxy" ? script("echo-threaded-server", ["--port", "0"], env) : null;
  if (behind !== null) flags.push(`--to localhost:${await behind.port()}`);
  if (behind !== null && tls) flags.push(`--to-ca ${files.TLS_CERT}`);
  const command = `${process.execPath} run scripts/${file}.ts --port 0 ${flags.join(" ")}`;
  const shell = `exec ${command} > >(sed -u /listening/q; exec cat > /dev/null)`;
  const server = new Process(["bash", "--norc", "-c", shell], env);
  const tally: Tally = {
    ...{ name, server, tls, port: await server.port(), visits: 0, misdeeds: 0, out: 0, back: 0 },
    ...{ wrong: [], memory: [], descriptors: [] },
  };
  for (let i = 0; i < 20; i++) await call(tally, visit, true); // warm
  measure(tally);
  const guests = Array.from({ length: name.endsWith(NETCAT) ? 2 : clients }, async (_, i) => {
    while (going()) await call(tally, visit, i % 2 === 0);
  });
  // Measures during the run, too: a number that rises only at first is not a leak.
  const looks = setInterval(measure, (seconds * 1000) / 4, tally);
  await Promise.all(guests);
  clearInterval(looks);
  for (let i = 0; i < 20; i++) await call(tally, visit, true); // when these are served, everything before is over
  measure(tally);
  return await report(tally);
}

async function call(tally: Tally, visit: Visit | null, well: boolean): Promise<void> {
  try {
    const [out, back] = await (visit !== null
      ? callByConnection(tally, visit, well)
      : tally.name.endsWith(NETCAT)
        ? callByNetcat(tally, well)
        : callByDatagram(tally, well));
    if (!well) return;
    tally.visits++;
    tally.out += out;
    tally.back += back;
  } catch (error) {
    if (well) tally.wrong.push(String(error));
  }
}

async function callByConnection(tally: Tally, visit: Visit, well: boolean) {
  const tls = well || random(2) > 0 ? tally.tls : undefined;
  using conn = await connect({ host: via, port: tally.port, tls });
  conn.setTimeout(30_000);
  if (well) return await visit(conn);
  tally.misdeeds++;
  await misbehave(conn);
  return [0, 0] as const;
}

/** Resident memory and open descriptors: proc_pid_status(5), proc_pid_fd(5). */
function measure({ server: { pid }, memory, descriptors }: Tally): void {
  const [, kib] = readFileSync(`/proc/${pid}/status`, "utf8").match(/^VmRSS:\s+(\d+) kB/m) ?? [];
  memory.push(Number(kib) / 1024);
  descriptors.push(readdirSync(`/proc/${pid}/fd`).length);
}

async function report(tally: Tally): Promise<boolean> {
  const { name, memory, descriptors, wrong, server } = tally;
  const traffic = `${tally.visits} visits, ${mib(tally.out)} out, ${mib(tally.back)} back`;
  const held = `${memory.map((m) => m.toFixed(0)).join(" -> ")} MiB, ${descriptors.join(" -> ")} descriptors`;
  server.kill("SIGTERM");
  const code = await server.exit();
  const odd = server.stderr
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("warning:"));
  await print(
    `${name}: ${traffic}; ${tally.misdeeds} misdeeds, ${wrong.length} wrong; ${held}; exit ${code}`,
  );
  for (const line of [...new Set([...wrong, ...odd])].slice(0, 5)) await print(`  ${line}`);
  return wrong.length === 0 && odd.length === 0 && code === 0;
}

// The clients of each server run in a process of their own. (Bun continues five TLS handshakes per turn of the
// loop, the newest first: in one process for all, with long turns, some would wait for ever.)
async function soakAlone(name: string): Promise<boolean> {
  const limits = ["--seconds", `${seconds}`, "--clients", `${clients}`];
  const flags = [...limits, "--via", via, "--only", name];
  const command = [process.execPath, "run", import.meta.path, ...flags];
  const child = Bun.spawn(command, { stdout: "inherit", stderr: "ignore" });
  signal.addEventListener("abort", () => child.kill());
  return (await child.exited) === 0;
}

const names = Object.keys(visits);
const chosen = names.includes(only!)
  ? [only!]
  : names.filter((name) => name.startsWith(only ?? ""));
const [first] = chosen;
if (first === undefined) refuse(`--only: no server's command begins with "${only}"`);
const fine =
  chosen.length === 1
    ? [await soak(first, visits[first]!)]
    : await Promise.all(chosen.map(soakAlone));
if (!fine.every(Boolean)) await fail("not every server came through");

function mib(bytes: number): string {
  return `${(bytes / (1 << 20)).toFixed(0)} MiB`;
}
