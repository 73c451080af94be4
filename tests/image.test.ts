// The image, built from the real Dockerfile and run. CONTAINER_ENGINE names the command to use; if it does
// not work, these tests are skipped.

import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect } from "../lib/socket.ts";
import { makeCertificate } from "../scripts/secure/certificate.ts";
import { alone, PATIENCE_MS, Process, report, root, scripts } from "./helpers.ts";

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

/** Removes the containers of runs that were killed, and so could not do it themselves. */
async function removeLeftOver(): Promise<void> {
  const left = await done("ps", "-aq", "--filter", "name=sockets-test-");
  for (const id of left.split("\n").filter(Boolean)) await call("rm", "-f", id);
}

async function echo(port: number, text: string): Promise<string> {
  using conn = await connect({ port });
  await conn.sendAll(text);
  return String(await conn.recvExactly(Buffer.byteLength(text)));
}

describe.skipIf(!works)(
  `the image${works ? "" : ` (skipped: ${engine} does not work here)`}`,
  () => {
    let lock: Disposable;
    beforeAll(async () => void (lock = await alone("containers")), 200_000);
    beforeAll(removeLeftOver);
    beforeAll(async () => void (await done("build", "-t", tag, root)));
    afterAll(() => {
      for (const name of started) Bun.spawnSync([engine, "rm", "-f", name]);
      Bun.spawnSync([engine, "rmi", "-f", tag]);
      lock[Symbol.dispose]();
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

    test("any other script by its name; HOST and PORT", async () => {
      const chat = await run(5002, ["chat-server"]);
      using person = await connect({ port: chat.port });
      expect(String(await person.recv(100))).toBe("What is your name?\n");
      const loop = await run(4001, ["echo-loop-server", "--port", "4001"]);
      expect(await echo(loop.port, "hello")).toBe("hello");
    });

    test("and by its path", async () => {
      const weather = await run(23456, ["scripts/weather-receiver.ts"]);
      using sensor = await connect({ port: weather.port });
      await sensor.sendAll("temperature: 5\n");
      await using logs = new Process([engine, "logs", "-f", weather.name]);
      await logs.until(/^Data: temperature: 5\n/m);
      const other = await run(4001, ["scripts/echo-loop-server.ts"], ["-e", "PORT=4001"]);
      expect(await echo(other.port, "hello")).toBe("hello");
    });

    test("TLS_CERT and TLS_KEY, in a folder that is mounted, as compose.yaml has it", async () => {
      const folder = mkdtempSync(join(tmpdir(), "image-"));
      const { cert, key } = makeCertificate("localhost");
      writeFileSync(join(folder, "cert.pem"), cert);
      writeFileSync(join(folder, "key.pem"), key);
      chmodSync(folder, 0o755);
      const files = ["-e", "TLS_CERT=/tls/cert.pem", "-e", "TLS_KEY=/tls/key.pem"];
      const { port } = await run(4000, [], [...files, "-v", `${folder}:/tls:ro`]);
      using conn = await connect({ port, tls: { ca: cert } });
      await conn.sendAll("안녕");
      expect(String(await conn.recvExactly(6))).toBe("안녕");
      rmSync(folder, { recursive: true });
    });

    test("the weather station brings its page, and stores where it may write", async () => {
      const store = ["--store", "sqlite:///tmp/weather.db"];
      const { name, port } = await run(23456, ["scripts/weather-station.ts", ...store]);
      expect(await report(port, "temperature: 5")).toBe("stored 1\n");
      const get = "console.log(await (await fetch('http://127.0.0.1:8090/')).text())";
      expect(await done("exec", name, "bun", "-e", get)).toContain("<svg");
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
      await done("stop", "-t", "2", name); // after 2 s the engine would kill it: exit code 137
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

    test("is small, and labelled", async () => {
      const inspect = async (image: string, field: string) =>
        done("image", "inspect", "-f", `{{${field}}}`, image);
      const base = Number(await inspect("oven/bun:1.4.4-slim", ".Size"));
      expect(Number(await inspect(tag, ".Size")) - base).toBeLessThan(5 << 20);
      expect(await inspect(tag, ".Config.Labels")).toContain("org.opencontainers.image.title");
    });

    // Runs the health check of the image at once, in the way that an engine runs it.
    const isHealthy = async (name: string) => {
      const checks: string[] = JSON.parse(
        await done("inspect", "-f", "{{json .Config.Healthcheck.Test}}", name),
      );
      expect(checks).toHaveLength(2);
      return (await call("exec", name, "sh", "-c", checks[1]!)).code === 0;
    };

    test("is healthy while a server listens, and as long as anything else runs", async () => {
      const threads = await run(4000, ["--threads", "1"]);
      expect(await isHealthy(threads.name)).toBe(true);
      const udp = await run(4000, [
        scripts.includes("udp-echo-server") ? "udp-echo-server" : "echo-server",
      ]);
      expect(await isHealthy(udp.name)).toBe(true);
      // This server takes one client only, and the health check must not count as one.
      const once = await run(4000, ["scripts/echo-server.ts"]);
      expect(await isHealthy(once.name)).toBe(true);
      expect(await echo(once.port, "hello")).toBe("hello");
      // After SIGTERM it accepts nobody while its clients finish: it is not healthy then.
      const slow = await run(4000, ["--grace", "30"]);
      using conn = await connect({ port: slow.port });
      await conn.sendAll("x");
      await conn.recv(1);
      expect(await isHealthy(slow.name)).toBe(true);
      await done("kill", "-s", "TERM", slow.name);
      while (await isHealthy(slow.name)) await Bun.sleep(50);
      const client = `${tag}-${started.length}`;
      started.push(client);
      await done("run", "-d", "-i", "--name", client, tag, "netcat", "--listen");
      expect(await isHealthy(client)).toBe(true);
    });
  },
);
