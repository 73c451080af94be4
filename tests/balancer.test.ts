// haproxy.cfg: a balancer in front of three echo servers, which die and are restarted under load, and in front
// of two weather stations; and how compose.yaml uses it.

import { expect, setDefaultTimeout, test } from "bun:test";

import { lines } from "../lib/framing.ts";
import { connect } from "../lib/socket.ts";
import {
  freePort,
  PATIENCE_MS,
  Postgres,
  Process,
  recvAll,
  report,
  root,
  script,
  station,
  temporaryFolder,
  testPostgres,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const haproxy = Bun.which("haproxy");

function testBalancer(name: string, body: () => Promise<void>): void {
  if (haproxy === null) test.skip(`${name} (skipped: no haproxy)`, body);
  else test(name, body);
}

const replica = (port = 0, ...args: string[]) =>
  script("echo-threaded-server", ["--port", `${port}`, "--threads=2", "--accept-proxy", ...args]);

/** HAProxy as compose.yaml starts it, in front of three echo servers; and the port that it listens on. */
async function balance(
  ports: number[],
  more: Record<string, string> = {},
): Promise<[Process, port: number]> {
  const [ECHO1, ECHO2, ECHO3] = ports.map((port) => `127.0.0.1:${port}`);
  const port = freePort();
  const env = { LISTEN: `127.0.0.1:${port}`, ECHO1: ECHO1!, ECHO2: ECHO2!, ECHO3: ECHO3!, ...more };
  const balancer = new Process([haproxy!, "-db", "-f", "haproxy.cfg"], env);
  const ended = balancer.exit().then(() => "ended");
  for (let answer; answer !== "up?";) {
    answer = await Promise.race([echo(port, "up?").catch(() => "not yet"), ended]);
    expect(answer, balancer.stderr).not.toBe("ended");
  }
  return [balancer, port];
}

async function echo(port: number, text: string): Promise<string> {
  using conn = await connect({ port });
  await conn.sendAll(text);
  conn.shutdown("write");
  return String(await recvAll(conn));
}

testBalancer("spreads connections, half-closes and all; what has died gets none", async () => {
  await using one = replica();
  await using two = replica();
  await using three = replica();
  const [balancer, port] = await balance([await one.port(), await two.port(), await three.port()]);
  await using _ = balancer;
  const talk = () => Promise.all(Array.from({ length: 30 }, (_, i) => echo(port, `hello ${i}`)));
  expect(await talk()).toEqual(Array.from({ length: 30 }, (_, i) => `hello ${i}`));
  one.kill("SIGKILL");
  two.kill("SIGKILL");
  await Promise.all([one.exit(), two.exit()]);
  while ((await talk().catch(() => [])).length < 30);
});

testBalancer(
  "its servers know who the client is, in the trace and in the log; its checks are not told",
  async () => {
    await using server = replica(0, "--trace", "--log");
    const inner = await server.port();
    const [balancer, port] = await balance([inner, inner, inner]);
    await using _ = balancer;
    using conn = await connect({ port });
    await conn.sendAll("hello");
    expect(String(await conn.recvExactly(5))).toBe("hello");
    const client = `127\\.0\\.0\\.1:${conn.localAddress.port}`;
    await server.until(
      new RegExp(`conn#\\d+ ${client} {2}sendAll\\(5 bytes "hello"\\)$`, "m"),
      "stderr",
    );
    conn.close();
    await server.until(
      new RegExp(`^[-\\dT:.]+Z ${client} ended: 0\\.\\d s, 5 bytes in, 5 out$`, "m"),
      "stderr",
    );
    expect(server.stderr.match(/Z 127.* ended/g)).toHaveLength(
      server.stderr.match(/cameFrom/g)!.length,
    );
    expect(server.stderr).not.toContain("warning");
  },
);

const rooms = "two chat servers behind it are one room";
const hasRedis = Bun.which("redis-server") !== null;
(hasRedis ? testBalancer : test.skip)(
  hasRedis ? rooms : `${rooms} (skipped: no redis-server)`,
  async () => {
    const redisPort = freePort();
    await using redis = new Process(["redis-server", "--port", `${redisPort}`, "--save", ""]);
    await redis.until(/Ready to accept connections/);
    const flags = [
      "--port",
      "0",
      "--accept-proxy",
      "--log",
      "--redis",
      `redis://127.0.0.1:${redisPort}`,
    ];
    await using one = script("chat-server", flags);
    await using two = script("chat-server", flags);
    await using server = replica();
    const inner = await server.port();
    const chat = freePort();
    const [balancer] = await balance([inner, inner, inner], {
      CHAT: `127.0.0.1:${chat}`,
      CHAT1: `127.0.0.1:${await one.port()}`,
      CHAT2: `127.0.0.1:${await two.port()}`,
    });
    await using _ = balancer;
    const names = ["ann", "bob", "carol", "dave"];
    const people = await Promise.all(names.map(() => connect({ port: chat })));
    const heard = people.map((person) => lines(person));
    for (const [i, name] of names.entries()) {
      await people[i]!.sendAll(`${name}\n`);
      for (let line; line !== `Welcome, ${name}`;) line = (await heard[i]!.next()).value;
    }
    // The balancer prefers the server with the fewest connections: two of the four are at each.
    await people[0]!.sendAll("hello\n");
    for (const person of heard.slice(1)) {
      for (let line; line !== "ann: hello";) line = (await person.next()).value;
    }
    for (const person of people) person.close();
    expect(one.stderr + two.stderr).toBe("");
  },
);

testBalancer("each replica is restarted in turn under load, and no message is lost", async () => {
  const replicas = [replica(), replica(), replica()];
  const ports = await Promise.all(replicas.map((server) => server.port()));
  const [balancer, port] = await balance(ports);
  try {
    const load = ["--connections=60", "--size=1000", "--pipeline=2", "--seconds=60"];
    await using bench = script("echo-bench", ["--port", `${port}`, ...load]);
    await bench.until(/ messages\/s/, "stderr");
    for (const [i, server] of replicas.entries()) {
      const told = balancer.stderr.length;
      server.kill("SIGTERM");
      expect(await server.exit()).toBe(0);
      expect(server.stderr).toBe("");
      await server[Symbol.asyncDispose]();
      await untilSaid(balancer, told, `Server replicas/echo${i + 1} is DOWN`);
      replicas[i] = replica(ports[i]!);
      await replicas[i]!.port();
      await untilSaid(balancer, told, `Server replicas/echo${i + 1} is UP`);
    }
    bench.kill("SIGTERM");
    expect(await bench.exit(), bench.stderr).toBe(0);
    const [, times] = bench.stdout.match(
      /^connected again (\d+) times: \d+ messages were sent again, 0 messages were lost$/m,
    )!;
    expect(Number(times)).toBeGreaterThanOrEqual(60); // each of the 60 connections, and some more than once
    expect(bench.stderr).not.toContain("warning");
  } finally {
    for (const process of [balancer, ...replicas]) await process[Symbol.asyncDispose]();
  }
});

/** Waits until a process has printed `text` on stderr, after the first `before` characters. */
async function untilSaid(process: Process, before: number, text: string): Promise<void> {
  await process.until(new RegExp(`^[\\s\\S]{${before}}[\\s\\S]*${text}`), "stderr");
}

if (haproxy === null) test.skip("two stations behind it (skipped: no haproxy)", twoStations);
else testPostgres("two stations behind it", twoStations);

async function twoStations(): Promise<void> {
  await using postgres = new Postgres();
  await postgres.start();
  using folder = temporaryFolder();
  await using one = await station(folder, postgres.url, "--accept-proxy");
  await using two = await station(folder, postgres.url, "--accept-proxy");
  const [sensors, page] = [freePort(), freePort()];
  const at = (port: number | string) => `127.0.0.1:${port}`;
  const pageOf = ({ url }: { url: string }) => at(new URL(url).port);
  await using balancer = new Process([haproxy!, "-db", "-f", "haproxy.cfg"], {
    ...{ SENSORS: at(sensors), SENSORS1: at(one.tcp), SENSORS2: at(two.tcp) },
    ...{ PAGE: at(page), PAGE1: pageOf(one), PAGE2: pageOf(two) },
  });
  const answer = (celsius: number) => report(sensors, `temperature: ${celsius}`);
  while ((await answer(0).catch(() => "")) !== "stored 1\n"); // until the balancer is up
  const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => answer(i)));
  expect(new Set(answers)).toEqual(new Set(["stored 1\n"]));
  const stored = await (await fetch(`http://${at(page)}/readings`)).json();
  expect(stored).toBeArrayOfSize(21);
  await one[Symbol.asyncDispose]();
  while ((await answer(0).catch(() => "")) !== "stored 1\n"); // the other one takes over
  expect(balancer.stderr).not.toContain("ALERT");
  expect(one.stderr + two.stderr).toBe(""); // no warning about the balancer's health checks
}

test("compose.yaml: its stations take what they are given", async () => {
  const { services } = Bun.YAML.parse(await Bun.file(`${root}/compose.yaml`).text()) as any;
  const config = await Bun.file(`${root}/haproxy.cfg`).text();
  for (const name of ["balancer", "stations"]) {
    for (const [variable, address] of Object.entries<string>(services[name].environment)) {
      expect(config).toContain(`"$${variable}"`);
      const [host, port] = address.split(":");
      if (host !== "0.0.0.0") expect(services).toHaveProperty(host!);
      else expect(services[name].ports).toContain(`${port}:${port}`);
    }
  }
  for (const name of ["station1", "station2"]) {
    const [file, ...flags] = services[name].command;
    await using refused = new Process([process.execPath, file, ...flags, "--port=-1"]);
    expect(await refused.exit()).toBe(2);
    expect(refused.stderr).toStartWith("error: --port "); // and nothing before it
  }
});
