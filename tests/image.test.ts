// The image, built from the real Dockerfile and run; and the balancer's configuration, in front of real
// replicas. CONTAINER_ENGINE names the command to use; without one that works, it is skipped.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect } from "../lib/socket.ts";
import { PATIENCE_MS, Process, root, script, scripts } from "./helpers.ts";

setDefaultTimeout(3 * PATIENCE_MS);

const engine = process.env.CONTAINER_ENGINE ?? "docker";
const works = Bun.which(engine) !== null && Bun.spawnSync([engine, "info"]).exitCode === 0;
const tag = `sockets-test-${process.pid}`;
const started: string[] = [];

async function call(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  await using process = new Process([engine, ...args]);
  const code = await process.exit();
  return { code, out: process.stdout.trim(), err: process.stderr };
}

async function done(...args: string[]): Promise<string> {
  const { code, out, err } = await call(...args);
  expect(code, err).toBe(0);
  return out;
}

/** Starts a container, and waits until it says that it listens; gives its name and published port. */
async function run(inside: number, args: string[], flags: string[] = []) {
  const name = `${tag}-${started.length}`;
  started.push(name);
  await done("run", "-d", "--name", name, "-p", `127.0.0.1::${inside}`, ...flags, tag, ...args);
  await using logs = new Process([engine, "logs", "-f", name]);
  await logs.until(/^listening on 0\.0\.0\.0:\d+\n/m);
  const [address = ""] = (await done("port", name, `${inside}`)).split("\n");
  return { name, port: Number(address.split(":").at(-1)) };
}

async function echo(port: number, text: string): Promise<string> {
  using conn = await connect({ port });
  await conn.sendAll(text);
  return String(await conn.recvExactly(Buffer.byteLength(text)));
}

describe.skipIf(!works)(
  `the image${works ? "" : ` (skipped: ${engine} does not work here)`}`,
  () => {
    beforeAll(() => void Bun.spawnSync([engine, "build", "-t", tag, root]));
    afterAll(() => {
      for (const name of started) Bun.spawnSync([engine, "rm", "-f", name]);
      Bun.spawnSync([engine, "rmi", "-f", tag]);
    });

    test("echoes on 4000 by default, as a user who is not root", async () => {
      const { name, port } = await run(4000, []);
      expect(await echo(port, "안녕")).toBe("안녕");
      expect(await done("exec", name, "id", "-u")).toBe("1000");
      expect((await call("exec", name, "sh", "-c", "touch scripts/x lib/x")).code).not.toBe(0);
    });

    test("runs with a read-only root, and without any capability", async () => {
      const flags = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"];
      const { port } = await run(4000, [], flags);
      expect(await echo(port, "hello")).toBe("hello");
    });

    test("any other script by its path; HOST and PORT", async () => {
      const weather = await run(23456, ["scripts/weather-receiver.ts"]);
      using sensor = await connect({ port: weather.port });
      await sensor.sendAll("temperature: 5\n");
      await using logs = new Process([engine, "logs", "-f", weather.name]);
      await logs.until(/^Data: temperature: 5\n/m);
      const other = await run(4001, ["scripts/echo-loop-server.ts"], ["-e", "PORT=4001"]);
      expect(await echo(other.port, "hello")).toBe("hello");
    });

    test("flags alone are for the default script; --help is ours", async () => {
      const { port } = await run(4002, ["--port", "4002", "--threads", "1"]);
      expect(await echo(port, "hello")).toBe("hello");
      expect(await done("run", "--rm", tag, "--help")).toContain("Threaded echo server");
      expect(await done("run", "--rm", tag, "sh", "-c", "echo a shell")).toBe("a shell");
    });

    test("SIGTERM as process 1, with clients connected: exit 0 within 2 s", async () => {
      const { name, port } = await run(4000, []);
      using conn = await connect({ port });
      await conn.sendAll("hello");
      await conn.recvExactly(5);
      await done("stop", "-t", "2", name); // then it would be killed: 137
      expect(await done("inspect", "-f", "{{.State.ExitCode}}", name)).toBe("0");
    });

    test("a script that does not exist: the nearest names, and all", async () => {
      for (const wrong of ["scripts/ecko-server.ts", "ecko-server"]) {
        const { code, err } = await call("run", "--rm", tag, wrong);
        expect(code).toBe(2);
        expect(err).toContain("no script is called ecko-server: did you mean echo-server, ");
        for (const name of scripts) expect(err).toContain(name);
      }
    });

    test("is small, labelled, and checks no health that not every script has", async () => {
      const inspect = async (image: string, field: string) =>
        done("image", "inspect", "-f", `{{${field}}}`, image);
      const base = Number(await inspect("oven/bun:1.4.4-slim", ".Size"));
      expect(Number(await inspect(tag, ".Size")) - base).toBeLessThan(5 << 20);
      expect(await inspect(tag, ".Config.Labels")).toContain("org.opencontainers.image.title");
      expect(await inspect(tag, "json .Config")).not.toContain('"Healthcheck"');
    });
  },
);
