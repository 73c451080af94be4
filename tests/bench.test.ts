// echo-bench, and the benchmark in bench/.

import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { picture } from "../bench/picture.ts";
import { listen, type Socket } from "../lib/socket.ts";
import { PATIENCE_MS, Process, recvAll, root, script, turn } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

describe("echo-bench", () => {
  test("measures, closed and open loop, and compares every byte", async () => {
    await using server = script("echo-threaded-server", ["--port", "0"]);
    const port = `${await server.port()}`;
    for (const load of [
      ["--size", "100"],
      ["--size", "300000", "--pipeline", "3"],
      ["--rate", "500"],
    ]) {
      const args = ["--port", port, "--connections", "5", "--seconds", "0.3", "--json", ...load];
      await using bench = script("echo-bench", args);
      expect(await bench.exit(), bench.stderr).toBe(0);
      const result = JSON.parse(bench.stdout);
      expect(result.messages).toBeGreaterThan(0);
      expect(result.unanswered).toBe(0);
      const { p50, p90, p99, p999, max } = result.ms;
      expect(p50).toBeGreaterThan(0);
      expect([p50, p90, p99, p999, max]).toEqual([p50, p90, p99, p999, max].sort((a, b) => a - b));
    }
    await using told = script("echo-bench", ["--port", port, "--seconds", "1.1"]);
    expect(await told.exit()).toBe(0);
    expect(told.stdout).toMatch(
      /^\d+ messages\/s, .*\np50 .*p999 .*max .*ms\n( +[\d.]+ ms {2}#+ .*%\n)+$/,
    );
    expect(told.stderr).toMatch(/^1 s {2}\d+ messages\/s\n/);
  });

  test("a server that changes a byte, repeats, or does not answer is not let through", async () => {
    const serveWith = async (answer: (conn: Socket) => Promise<unknown>) => {
      using server = listen({ port: 0 });
      const args = ["--port", `${server.address.port}`, "--connections", "1", "--seconds", "0.2"];
      await using bench = script("echo-bench", args);
      using conn = await server.accept();
      await answer(conn);
      expect(await bench.exit()).toBe(1);
      return bench.stderr;
    };
    const wrong = async (conn: Socket) => {
      const message = await conn.recvExactly(1000);
      message[500]! ^= 1;
      await conn.sendAll(message);
    };
    expect(await serveWith(wrong)).toBe("error: other bytes came back\n");
    const repeats = async (conn: Socket) => {
      const message = await conn.recvExactly(1000);
      await conn.sendAll(Buffer.concat([message, message]));
    };
    expect(await serveWith(repeats)).toBe("error: more came back than was sent\n");
    expect(await serveWith(async () => {})).toMatch(/error: 1 message was not answered\n$/);
  });

  test("connections that end: it connects again, counts what was lost, and tells all it measured", async () => {
    using server = listen({ port: 0 });
    const args = [
      "--port",
      `${server.address.port}`,
      "--connections=1",
      "--pipeline=3",
      "--seconds=0.5",
    ];
    await using bench = script("echo-bench", [...args, "--json"]);
    await using told = script("echo-bench", args);
    // Each connection answers ten messages. Then, with more under way, two end with FIN and two with a reset.
    for (let i = 0; (bench.stdout === "" || told.stdout === "") && i < 1e6; i++) {
      const ended = Promise.all([bench.exit(), told.exit()]).then(() => null);
      const conn = await Promise.race([server.accept(), ended]);
      if (conn === null) break;
      serveTen(conn, i % 4 < 2).catch(() => {});
    }
    expect(await bench.exit()).toBe(1);
    const { lost, sentAgain, reconnected, messages, unanswered } = JSON.parse(bench.stdout);
    expect(reconnected).toBeGreaterThanOrEqual(2);
    expect(lost).toBeGreaterThan(0);
    expect(sentAgain).toBeGreaterThan(0);
    expect(messages).toBeGreaterThanOrEqual(20);
    expect(unanswered).toBe(0);
    expect(bench.stderr).toMatch(/^warning: connection with .*: connection reset by peer/m);
    expect(bench.stderr).toContain(`error: ${lost} messages were not answered\n`);
    expect(await told.exit()).toBe(1);
    expect(told.stdout).toMatch(/^\d+ messages\/s, .*\np50 /);
    expect(told.stdout).toMatch(
      /^connected again \d+ times: \d+ messages were sent again, \d+ messages were lost$/m,
    );
  });

  async function serveTen(conn: Socket, gently: boolean): Promise<void> {
    for (let i = 0; i < 10; i++) await conn.sendAll(await conn.recvExactly(1000));
    await conn.recv(1); // more is under way
    if (!gently) return conn.reset();
    conn.shutdown("write");
    await recvAll(conn);
    conn.close();
  }

  test("a signal ends it before its time, with what was measured until then", async () => {
    await using server = script("echo-threaded-server", ["--port", "0"]);
    const args = ["--port", `${await server.port()}`, "--seconds", "60"];
    await using bench = script("echo-bench", args);
    await bench.until(/^1 s {2}\d+ messages\/s\n/, "stderr");
    bench.kill("SIGINT");
    expect(await bench.exit()).toBe(0);
    expect(bench.stdout).toMatch(/^[1-9]\d* messages\/s, .*\np50 /);
  });

  test("a server that stalls is not flattered: time counts from when a message was due", async () => {
    using server = listen({ port: 0 });
    const args = [
      "--port",
      `${server.address.port}`,
      "--connections=1",
      "--size=100",
      "--rate=200",
    ];
    await using bench = script("echo-bench", [...args, "--seconds=1", "--json"]);
    using conn = await server.accept();
    await conn.sendAll(await conn.recvExactly(100));
    await Bun.sleep(600); // the stall: some 120 messages come due in it
    for await (const chunk of conn) await conn.sendAll(chunk);
    expect(await bench.exit()).toBe(0);
    const { ms, messages } = JSON.parse(bench.stdout);
    expect(messages).toBeGreaterThan(150);
    expect(ms.p90).toBeGreaterThan(100);
    expect(ms.max).toBeGreaterThan(550);
  });
});

describe("the benchmark", () => {
  test.if(process.platform === "linux")("leaves nothing running when it is stopped", async () => {
    const flags = ["--loads=1x100", "--parts=echo", "--seconds=60", "--only=recv"];
    await using bench = new Process([process.execPath, "bench/run.ts", ...flags]);
    await bench.until(/medians of/);
    const children = `/proc/${bench.pid}/task/${bench.pid}/children`;
    const peers = () => readFileSync(children, "utf8").trim().split(" ").filter(Boolean);
    let started: string[] = [];
    while (started.length < 2) {
      await turn();
      started = peers(); // the server and its load
    }
    bench.kill("SIGTERM");
    expect(await bench.exit()).toBe(1);
    const runs = (pid: string) => existsSync(`/proc/${pid}/exe`);
    while (started.some(runs)) await turn();
  });

  test.if(process.platform === "linux")(
    "every part of it measures, and wrong flags are named",
    async () => {
      const run = (...flags: string[]) => new Process([process.execPath, "run", "bench", ...flags]);
      const short = [
        "--loads=2x100",
        "--datagrams=2x100",
        "--rounds=1",
        "--seconds=0.2",
        "--idle=20",
        "--only=lib, for await",
      ];
      await using bench = run(...short);
      expect(await bench.exit(), bench.stderr).toBe(0);
      const rows = (name: string) =>
        bench.stdout.split("\n").filter((line) => line.startsWith(`| ${name} |`));
      // (On a machine that stalls, no reply may come in time: 0 messages/s is allowed. But without any
      // message, the CPU time for a message would not be a number.)
      const measured = /^\|[^|]+\| \d+\.\d\d µs \| \S+ \| .* \| \d+ \| .* ms \| .* MiB \|$/;
      const pipelined = rows("bare, each by itself");
      expect(pipelined).toHaveLength(2);
      for (const row of pipelined) expect(row).toMatch(measured);
      for (const name of ["bare Bun.listen", "lib, for await"]) {
        const [echo, rate, proxy, start, idle] = rows(name);
        for (const row of [echo, rate, proxy]) expect(row).toMatch(measured);
        expect(start).toMatch(/ \d+\.\d ms \|$/);
        expect(idle).toMatch(/ -?\d+\.\d\d KiB \|$/);
      }
      for (const [name, first] of [
        ["bare Bun.listen", 5],
        ["lib, for await", 6],
      ] as const) {
        const [handshake, echo, idle] = rows(name).slice(first);
        for (const row of [handshake, echo]) expect(row).toMatch(measured);
        expect(idle).toMatch(/ -?\d+\.\d\d KiB \|$/);
      }
      expect(rows("Bun.serve")[0]).toMatch(measured);
      const [selects, more] = [
        rows("100 idle connections beside them"),
        rows("2000 idle connections beside them"),
      ];
      expect(selects.length).toBe(3);
      const datagrams = [rows("bare Bun.udpSocket")[0], rows("lib, for await")[5]];
      for (const row of [...selects, ...more, ...datagrams]) expect(row).toMatch(measured);

      for (const name of ["10000", "as fast as it takes them"]) {
        expect(rows(name)[0]).toMatch(
          /^\|[^|]+\| [1-9]\d* \| \d+ % \| .* ms \| .* ms \| .* MiB \|$/,
        );
      }

      await using wrongLoad = run("--loads=50");
      expect(await wrongLoad.exit()).toBe(2);
      expect(wrongLoad.stderr).toContain(
        'error: --loads takes connections x bytes, as 50x1000, not "50"\n',
      );
      await using wrongDatagrams = run("--datagrams=16");
      expect(await wrongDatagrams.exit()).toBe(2);
      expect(wrongDatagrams.stderr).toContain(
        "error: --datagrams takes datagrams under way x bytes",
      );
      await using wrongPeer = run("--only=nobody");
      expect(await wrongPeer.exit()).toBe(2);
      expect(wrongPeer.stderr).toContain('error: --only: no peer\'s name holds "nobody"\n');
      await using wrongPart = run("--loads=1x1", "--parts=ecko");
      expect(await wrongPart.exit()).toBe(2);
      expect(wrongPart.stderr).toContain('error: --parts: there is no "ecko"');
    },
    200_000,
  );

  test("the pictures of the READMEs are drawn from the results beside it", async () => {
    const results = await Bun.file(join(root, "bench/results.json")).json();
    for (const theme of ["light", "dark"] as const) {
      const drawn = await Bun.file(join(root, `docs/pictures/speed-${theme}.svg`)).text();
      expect(drawn).toBe(picture(results, theme));
    }
  });

  test.if(process.platform === "linux")("--save keeps the results and draws them", async () => {
    const copy = mkdtempSync(join(tmpdir(), "bench-"));
    try {
      for (const part of ["bench", "lib", "scripts"]) {
        cpSync(join(root, part), join(copy, part), { recursive: true });
      }
      const flags = ["--loads=50x1000", "--parts=echo", "--rounds=1", "--seconds=0.2"];
      const command = [process.execPath, join(copy, "bench/run.ts"), ...flags];
      await using bench = new Process([...command, "--only=for await", "--save"]);
      expect(await bench.exit(), bench.stderr).toBe(0);
      const { columns, tables } = await Bun.file(join(copy, "bench/results.json")).json();
      const [load, servers] = Object.entries<any>(tables)[0]!;
      expect(load).toBe("echo, 50 connections x 1000 bytes");
      expect(servers["lib, for await"]).toHaveLength(columns.length);
      const drawn = await Bun.file(join(copy, "docs/pictures/speed-dark.svg")).text();
      expect(drawn).toContain(">lib, for await</text>");
    } finally {
      rmSync(copy, { recursive: true });
    }
  });
});
