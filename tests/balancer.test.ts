// haproxy.cfg: a balancer in front of three echo servers, which die and are restarted under load, and in front
// of two weather stations; and what compose.yaml makes of it.

import { expect, setDefaultTimeout, test } from "bun:test";

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

const replica = (port = 0) => script("echo-threaded-server", ["--port", `${port}`, "--threads=2"]);

/** HAProxy as compose.yaml starts it, in front of three ports; and its own. */
async function balance(ports: number[]): Promise<[Process, port: number]> {
  const [ECHO1, ECHO2, ECHO3] = ports.map((port) => `127.0.0.1:${port}`);
  // haproxy cannot take port 0 and tell: a port that was free a moment ago.
  const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = probe;
  probe.stop();
  const env = { LISTEN: `127.0.0.1:${port}`, ECHO1: ECHO1!, ECHO2: ECHO2!, ECHO3: ECHO3! };
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

testBalancer("each replica is restarted in turn under load, and no message is lost", async () => {
  const replicas = [replica(), replica(), replica()];
  const ports = await Promise.all(replicas.map((server) => server.port()));
  const [balancer, port] = await balance(ports);
  try {
    const load = ["--connections=60", "--size=1000", "--pipeline=2", "--seconds=60"];
    await using bench = script("echo-bench", ["--port", `${port}`, ...load]);
    await bench.until(/ messages\/s|/, "stderr");
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
    expect(Number(times)).toBeGreaterThanOrEqual(60); // each of them, and some more than once
    expect(bench.stderr).not.toContain("warning");
  } finally {
    for (const process of [balancer, ...replicas]) await process[Symbol.asyncDispose]();
  }
});

/** Waits until a process has said something on stderr behind the first `before` characters. */
async function untilSaid(process: Process, before: number, text: string): Promise<void> {
  await process.until(new RegExp(`^[\\s\\S]{${before}}[\\s\\S]*${text}`), "stderr");
}

if (haproxy === null) test.skip("two stations behind it (skipped: no haproxy)", twoStations);
else testPostgres("two stations behind it", twoStations);

async function twoStations(): Promise<void> {
  await using postgres = new Postgres();
  await postgres.start();
  using folder = temporaryFolder();
  await using one = await station(folder, postgres.url);
  await using two = await station(folder, postgres.url);
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
