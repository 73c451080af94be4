const help = `
Soak: runs every server under well-behaved and ill-behaved clients for a time, and reports what went
through, and what each server holds of memory and descriptors at the start and at the end.

  terminal 1:  bun run soak --seconds 600
`;

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { cli, fail, print } from "../lib/cli.ts";
import { datagram } from "../lib/datagram.ts";
import { lengthPrefixed, messages, sendMessage } from "../lib/framing.ts";
import { connect, type Socket } from "../lib/socket.ts";
import { openWebSocket } from "../lib/websocket.ts";
import { makeCertificate } from "../scripts/secure/certificate.ts";
import { pattern, Process, recvAll } from "./helpers.ts";

const { seconds, clients, only, signal } = cli(help, {
  seconds: { type: "seconds", default: 60, min: 1, about: "how long" },
  only: { type: "string", about: "servers whose command begins so" },
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

// The proxy needs a server behind it.
await using echo = new Process([process.execPath, "run", "scripts/echo-threaded-server.ts"], {
  HOST: "127.0.0.1",
  PORT: "0",
});
const behind = `127.0.0.1:${await echo.port()}`;

const visits: Record<string, Visit | null> = {
  "udp-echo-server": null, // by datagrams
  "echo-server --forever": exchange(() => Buffer.from("one message")),
  "echo-loop-server --forever": exchange(() => Buffer.from("text ".repeat(random(2000)))),
  "echo-threaded-server": exchange(data(300_000)),
  "echo-threaded-server --relay": exchange(data(300_000)),
  "select-server": exchange(data(300_000)),
  "weather-receiver --host 127.0.0.1": exchange(
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
  [`proxy --to ${behind}`]: exchange(data(300_000)),
  "chat-server": async (conn) => {
    const name = `guest${seed++}`;
    const said = `${name}\n안녕하세요\n/who\n/quit\n`;
    await conn.sendAll(said);
    const text = String(await recvAll(conn));
    const who = text.match(/^\* here: (.*)$/m)?.[1] ?? "";
    if (!text.includes(`\nWelcome, ${name}\n`) || !who.split(", ").includes(name)) {
      throw new Error(`not in the room: ${JSON.stringify(text.slice(0, 200))}`);
    }
    return [Buffer.byteLength(said), Buffer.byteLength(text)];
  },
};

// The same over TLS, where half of those who misbehave do so in clear.
const TLS = " (TLS)";
for (const name of Object.keys(visits)) {
  if (/^(echo-threaded|message|http|websocket)-server/.test(name))
    visits[name + TLS] = visits[name]!;
}
const { cert, key } = makeCertificate("localhost");
const folder = mkdtempSync(join(tmpdir(), "soak-"));
process.on("exit", () => rmSync(folder, { recursive: true }));
const files = { TLS_CERT: join(folder, "cert.pem"), TLS_KEY: join(folder, "key.pem") };
writeFileSync(files.TLS_CERT, cert);
writeFileSync(files.TLS_KEY, key);

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
];

// Of datagrams some are lost: they are sent again. And who behaves ill sends many, and reads no reply.
async function callByDatagram(tally: Tally, well: boolean): Promise<[out: number, back: number]> {
  using socket = await datagram({ peer: { host: "127.0.0.1", port: tally.port } });
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

interface Tally {
  server: Process;
  port: number;
  tls: { ca: string } | undefined;
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

async function soak(name: string, visit: Visit | null): Promise<Tally> {
  // We read the server's output only up to its port, and `cat` drops the rest: if we read it all and were slow,
  // the server would have to wait for us.
  const tls = name.endsWith(TLS) ? { ca: cert } : undefined;
  const [file, ...flags] = name.replace(TLS, "").split(" ");
  const command = `${process.execPath} run scripts/${file}.ts --port 0 ${flags.join(" ")}`;
  const shell = `exec ${command} > >(sed -u /listening/q; exec cat > /dev/null)`;
  const server = new Process(["bash", "-c", shell], { HOST: "127.0.0.1", ...(tls && files) });
  const tally: Tally = {
    ...{ server, tls, port: await server.port(), visits: 0, misdeeds: 0, out: 0, back: 0 },
    ...{ wrong: [], memory: [], descriptors: [] },
  };
  for (let i = 0; i < 20; i++) await call(tally, visit, true); // warm
  measure(tally);
  const guests = Array.from({ length: clients }, async (_, i) => {
    while (going()) await call(tally, visit, i % 2 === 0);
  });
  await Promise.all(guests);
  for (let i = 0; i < 20; i++) await call(tally, visit, true); // when these are served, everything before is over
  measure(tally);
  return tally;
}

async function call(tally: Tally, visit: Visit | null, well: boolean): Promise<void> {
  try {
    const [out, back] = await (visit === null
      ? callByDatagram(tally, well)
      : callByConnection(tally, visit, well));
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
  using conn = await connect({ port: tally.port, tls });
  conn.setTimeout(30_000);
  if (well) return await visit(conn);
  tally.misdeeds++;
  await misdeeds[random(misdeeds.length)]!(conn).catch(() => {});
  return [0, 0] as const;
}

/** Resident memory and open descriptors: proc_pid_status(5), proc_pid_fd(5). */
function measure({ server: { pid }, memory, descriptors }: Tally): void {
  const [, kib] = readFileSync(`/proc/${pid}/status`, "utf8").match(/^VmRSS:\s+(\d+) kB/m) ?? [];
  memory.push(Number(kib) / 1024);
  descriptors.push(readdirSync(`/proc/${pid}/fd`).length);
}

const chosen = Object.entries(visits).filter(([name]) => name.startsWith(only ?? ""));
const tallies = chosen.map(async ([name, visit]) => {
  const tally = await soak(name, visit);
  const { memory, descriptors, wrong, server } = tally;
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
});
const fine = await Promise.all(tallies);
if (!fine.every(Boolean)) await fail("not every server came through");

function mib(bytes: number): string {
  return `${(bytes / (1 << 20)).toFixed(0)} MiB`;
}
