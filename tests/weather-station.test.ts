// weather-station.ts: what is acknowledged is stored, whatever happens to the station and to its store.
// Its page is in weather-page.test.ts.

import { Database } from "bun:sqlite";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { connect, listen, type Socket } from "../lib/socket.ts";
import { makeCertificate } from "../scripts/secure/certificate.ts";
import { Store } from "../scripts/weather-station/store.ts";
import {
  fails,
  PATIENCE_MS,
  Postgres,
  python,
  recvAll,
  report,
  script,
  station,
  temporaryFolder,
  testPostgres,
  testPython,
} from "./helpers.ts";

setDefaultTimeout(3 * PATIENCE_MS);

/** Reports again and again until the readings are acknowledged: the store may still be away. */
async function reportUntilStored(port: number, ...lines: string[]): Promise<void> {
  while (!(await report(port, ...lines).catch(() => "")).startsWith("stored"));
}

type Row = { id: number; sensor: string; celsius: number; at: number };

async function readings(url: string, query = ""): Promise<Row[]> {
  const response = await fetch(`${url}readings${query}`);
  expect(response.status).toBe(200);
  return (await response.json()) as Row[];
}

/** The events of a page, as they come. */
async function* live(url: string) {
  const response = await fetch(`${url}live`);
  let text = "";
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    const events = (text + chunk).split("\n\n");
    text = events.pop()!;
    for (const event of events) {
      if (event.startsWith("data: ")) yield JSON.parse(event.slice(6));
    }
  }
}

async function untilShown(url: string, sensor: string, celsius: number): Promise<void> {
  for await (const { sensors } of live(url)) {
    if (sensors?.some((row: Row) => row.sensor === sensor && row.celsius === celsius)) return;
  }
}

describe("as documented", () => {
  test("readings are stored, acknowledged, and given as JSON and CSV", async () => {
    using folder = temporaryFolder();
    const before = Date.now();
    await using one = await station(folder);
    expect(one.stdout).toMatch(
      /^listening on 127\.0\.0\.1:\d+\npage at http:\/\/127\.0\.0\.1:\d+\/\n$/,
    );
    const flags = ["--host", "127.0.0.1", "--port", `${one.tcp}`, "--interval", "0"];
    await using sender = script("weather-sender", [...flags, "--sensor", '정원, "<b>"']);
    expect(await sender.exit(), sender.stderr).toBe(0);
    expect(sender.stdout).toEndWith("data: 25\ndata: 19\nstored 6\n");
    expect(await report(one.tcp, "temperature: -2.5")).toBe("stored 1\n");

    const rows = await readings(one.url);
    expect(rows.map(({ celsius }) => celsius)).toEqual([15, 22, 21, 26, 25, 19, -2.5]);
    expect(rows.map(({ id }) => id)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(rows[0]!.sensor).toBe('정원, "<b>"');
    expect(rows[6]!.sensor).toBe("127.0.0.1"); // the peer's host
    for (const { at } of rows) expect(at).toBeWithin(before, Date.now() + 1);

    const csv = await (await fetch(`${one.url}readings.csv?limit=1`)).text();
    expect(csv).toBe(`id,sensor,celsius,at\n1,"정원, ""<b>""",15,${rows[0]!.at}\n`);
    expect(await readings(one.url, "?sensor=127.0.0.1")).toEqual(rows.slice(6));
    expect(await readings(one.url, `?since=${rows[6]!.at}`)).toContainEqual(rows[6]!);
    expect(await readings(one.url, `?since=${Date.now() + 1000}`)).toEqual([]);
    expect(await readings(one.url, "?limit=0")).toEqual([]);
    for (const query of ["since=abc", "limit=-1", "limit=1e3", "since="]) {
      const response = await fetch(`${one.url}readings?${query}`);
      expect(response.status).toBe(400);
      expect(await response.text()).toContain(query.split("=")[0]!);
    }
    expect((await fetch(`${one.url}nothing`)).status).toBe(404);
    expect((await fetch(`${one.url}live?span=1`)).status).toBe(400);

    using file = new Database(join(folder.path, "weather.db"));
    expect(file.query("SELECT id, sensor, celsius, at FROM reading").all()).toEqual(rows);
  });

  testPython("the tutorial's sensor closes at once: its readings are stored", async () => {
    using folder = temporaryFolder();
    await using one = await station(folder);
    await using sensor = python(
      `
conn = connect(sys.argv[1])
for entry in ["15", "22", "21"]: conn.sendall(str("temperature: %s\\n" % entry).encode("utf-8"))
conn.close()`,
      one.tcp,
    );
    expect(await sensor.exit(), sensor.stderr).toBe(0);
    await untilShown(one.url, "127.0.0.1", 21);
    expect(await readings(one.url)).toHaveLength(3);
    expect(one.stderr).toBe("");
  });

  test("no answer before FIN; a reading shows before it; the sensor's name may change", async () => {
    using folder = temporaryFolder();
    await using one = await station(folder);
    using conn = await connect({ port: one.tcp });
    await conn.sendAll("sensor: roof\r\ntemperature: 3\r\n");
    await untilShown(one.url, "roof", 3);
    expect(conn.tryRecv(1)).toBeNull();
    await conn.sendAll("sensor: cellar\ntemperature: 4.25"); // the last line needs no newline
    conn.shutdown("write");
    expect(String(await recvAll(conn))).toBe("stored 2\n");
    const named = (await readings(one.url)).map(({ sensor, celsius }) => [sensor, celsius]);
    expect(named).toEqual([
      ["roof", 3],
      ["cellar", 4.25],
    ]);
  });

  test("SIGTERM, with a page and a sensor connected: what came is stored, exit 0", async () => {
    using folder = temporaryFolder();
    await using one = await station(folder);
    const page = live(one.url);
    await page.next();
    using conn = await connect({ port: one.tcp });
    await conn.sendAll("temperature: 7\n".repeat(500));
    await untilShown(one.url, "127.0.0.1", 7);
    one.kill("SIGTERM");
    expect(await one.exit()).toBe(0);
    expect(one.stderr).toBe("");
    using file = new Database(join(folder.path, "weather.db"));
    expect(file.query("SELECT count(*) AS n FROM reading").get()).toEqual({ n: 500 });
  });

  test("SIGTERM in the middle of a line: a part of a reading is none", async () => {
    using folder = temporaryFolder();
    await using one = await station(folder);
    using conn = await connect({ port: one.tcp });
    await conn.sendAll("sensor: roof\ntemperature: 12\ntemperature: 1");
    await untilShown(one.url, "roof", 12);
    one.kill("SIGTERM");
    expect(String(await recvAll(conn))).toBe("stored 1\n");
    conn.close();
    expect(await one.exit()).toBe(0);
    using file = new Database(join(folder.path, "weather.db"));
    expect(file.query("SELECT celsius FROM reading").all()).toEqual([{ celsius: 12 }]);
  });

  test("over TLS, sensors and page; a renewed certificate at SIGHUP", async () => {
    using folder = temporaryFolder();
    const files = ["cert", "key"].map((name) => join(folder.path, `${name}.pem`));
    const renew = () => {
      const { cert, key } = makeCertificate("localhost");
      writeFileSync(files[0]!, cert);
      writeFileSync(files[1]!, key);
      return cert;
    };
    const old = renew();
    const flags = [`--tls-cert=${files[0]}`, `--tls-key=${files[1]}`];
    await using one = await station(folder, undefined, ...flags);
    expect(one.url).toStartWith("https://");
    const secretly = async (ca: string) => {
      using conn = await connect({ host: "localhost", port: one.tcp, tls: { ca } });
      await conn.sendAll("temperature: 5\n");
      conn.shutdown("write");
      const page = `${one.url.replace("127.0.0.1", "localhost")}readings`;
      const shown = await fetch(page, { tls: { ca }, keepalive: false });
      return [String(await recvAll(conn)), ((await shown.json()) as Row[]).length];
    };
    expect(await secretly(old)).toEqual(["stored 1\n", expect.any(Number)]);
    const renewed = renew();
    one.kill("SIGHUP");
    let answer: unknown[] | null = null;
    while (answer === null) answer = await secretly(renewed).catch(() => null);
    expect(answer[0]).toBe("stored 1\n");
    const page = one.url.replace("127.0.0.1", "localhost");
    await expect(fetch(page, { tls: { ca: old }, keepalive: false })).rejects.toThrow();
  });

  test("--accept-proxy: a sensor behind a balancer is its own host", async () => {
    using folder = temporaryFolder();
    await using one = await station(folder, undefined, "--accept-proxy");
    const header = "PROXY TCP4 192.0.2.7 192.0.2.1 5555 23456\r";
    expect(await report(one.tcp, header, "temperature: 5")).toBe("stored 1\n");
    expect(await readings(one.url)).toMatchObject([{ sensor: "192.0.2.7" }]);
    await fails(report(one.tcp, "temperature: 5"), "ECONNRESET");
    await one.until(/^warning: .*\n$/, "stderr");
  });

  test("what it cannot do is told in one line: flags 2, later 1", async () => {
    using folder = temporaryFolder();
    await using one = await station(folder);
    const web = new URL(one.url).port;
    for (const [args, code, told] of [
      [["--store", "mysql://host/db"], 2, /^error: --store must be .*"mysql:\/\/host\/db"\n$/],
      [["--store", "weather.db"], 2, /^error: --store must be .*"weather\.db"\n$/],
      [["--store", "sqlite://"], 2, /^error: --store must be .*"sqlite:\/\/"\n$/],
      [["--store", "sqlite:"], 2, /^error: --store must be .*"sqlite:"\n$/],
      [["--keep", "1.5"], 2, /^error: --keep must be a whole number.*"1\.5"\n$/],
      [["--web-port", "x"], 2, /^error: --web-port must be .*"x"\n$/],
      [
        ["--store", `sqlite://${folder.path}/none/weather.db`],
        1,
        /^error: cannot open the store sqlite:\/\/.*: unable to open database file\n$/,
      ],
      [
        ["--store", "postgres://me:secret@127.0.0.1:1/weather"],
        1,
        /^error: cannot open the store postgres:\/\/me@127\.0\.0\.1:1\/weather: .*\n$/,
      ],
      [
        ["--store", "postgres://me:se/c@ret@127.0.0.1:1/weather?password=secret&x=1"],
        1,
        /^error: cannot open the store postgres:\/\/me@127\.0\.0\.1:1\/weather\?password=…&x=1: .*\n$/,
      ],
      [
        ["--web-port", web],
        1,
        new RegExp(`^error: cannot listen on 127.0.0.1:${web}: address already in use\n$`),
      ],
    ] as const) {
      const flags = ["--host=127.0.0.1", "--port=0"];
      await using refused = script("weather-station", [...flags, ...args]);
      expect(await refused.exit()).toBe(code);
      expect(refused.stderr).toMatch(told);
      expect(refused.stdout).toBe("");
    }
  });
});

test("a page is told what is new, and of the rest only that the station is there", async () => {
  using folder = temporaryFolder();
  await using one = await station(folder);
  await report(one.tcp, "temperature: 1");
  const { body } = await fetch(`${one.url}live`);
  let text = "";
  for await (const chunk of body!.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    if (text.match(/^event: alive$/gm)?.length === 3) break;
  }
  expect(text.match(/^data: \{/gm)).toHaveLength(1);
});

test("a request for no host, or a wrong one, is answered like any other", async () => {
  using folder = temporaryFolder();
  await using one = await station(folder);
  const ask = async (path: string, version: string, fields: string) => {
    using conn = await connect({ port: Number(new URL(one.url).port) });
    await conn.sendAll(`GET ${path} HTTP/${version}\r\n${fields}Connection: close\r\n\r\n`);
    return String(await conn.recv(1000)).slice(0, 12);
  };
  expect(await ask("/readings?limit=1", "1.0", "")).toBe("HTTP/1.1 200");
  expect(await ask("/readings?sensor=roof?&limit=x", "1.1", "Host: a b\r\n")).toBe("HTTP/1.1 400");
  expect(await ask("/live", "1.1", "Host: [zz\r\n")).toBe("HTTP/1.1 200");
  expect(await ask("/live?span=constructor", "1.1", "Host: x\r\n")).toBe("HTTP/1.1 400");
});

describe("bad input ends its own connection", () => {
  test.each([
    ["NaN", "temperature: NaN\n"],
    ["infinite", "temperature: 1e999\n"],
    ["too many digits", `temperature: ${"9".repeat(400)}\n`],
    ["nothing", "temperature: \n"],
    ["an empty line", "\n"],
    ["another unit", "temperature: 59F\n"],
    ["another quantity", "humidity: 40\n"],
    ["below absolute zero, as a broken sensor says", "temperature: -999\n"],
    ["below absolute zero, by little", "temperature: -273.16\n"],
    ["SQL", "temperature: 1); DROP TABLE reading; --\n"],
    ["no name", "sensor: \n"],
    ["a name of two lines to a terminal", "sensor: a\x1b[2Jb\n"],
    ["a zero byte, which Postgres takes in no text", "sensor: a\0b\n"],
    ["a name without end", `sensor: ${"x".repeat(65)}\n`],
    ["100 KB without a newline", "x".repeat(100_000)],
    ["bytes that are no text", "\xff\xfe\x00\n"],
  ])("%s", async (_, input) => {
    using folder = temporaryFolder();
    await using one = await station(folder);
    using good = await connect({ port: one.tcp });
    await good.sendAll("sensor: good\ntemperature: 1\n");
    using bad = await connect({ port: one.tcp });
    bad.sendAll(Buffer.from(`temperature: 2\n${input}`, "latin1")).catch(() => {});
    await fails(recvAll(bad), "ECONNRESET");
    await one.until(/^warning: connection with 127\.0\.0\.1:\d+: .*\n$/, "stderr");
    expect(one.stderr).not.toMatch(/[\0-\x09\x0b-\x1f\x7f-\x9f]/); // nothing that commands a terminal
    await good.sendAll("temperature: 3\n");
    good.shutdown("write");
    expect(String(await recvAll(good))).toBe("stored 2\n");
    expect(one.stderr.match(/\n/g)).toHaveLength(1);
  });

  test("SQL and HTML in a name are a name", async () => {
    using folder = temporaryFolder();
    await using one = await station(folder);
    expect(await report(one.tcp, "sensor: zero", "temperature: -273.15")).toBe("stored 1\n"); // absolute zero is valid
    const quoted = 'the "old", large one';
    const names = ["'); DROP TABLE reading; --", "<script>alert(1)</script>", "?", "$1", quoted];
    for (const name of names) {
      expect(await report(one.tcp, `sensor: ${name}`, "temperature: 1")).toBe("stored 1\n");
    }
    const [, ...stored] = await readings(one.url);
    expect(stored.map(({ sensor }) => sensor)).toEqual(names);
    const query = `?sensor=${encodeURIComponent(names[0]!)}`;
    expect(await readings(one.url, query)).toHaveLength(1);
    const csv = await (await fetch(`${one.url}readings.csv`)).text();
    expect(csv).toContain(',"the ""old"", large one",1,'); // RFC 4180, section 2
  });

  test("a clock that goes back: the last value is what came last", async () => {
    using folder = temporaryFolder();
    {
      await using one = await station(folder);
      await report(one.tcp, "sensor: roof", "temperature: 1");
    }
    using file = new Database(join(folder.path, "weather.db"));
    file.run("UPDATE reading SET at = at + 3600000"); // the clock was an hour ahead then
    await using again = await station(folder);
    expect(await report(again.tcp, "sensor: roof", "temperature: 2")).toBe("stored 1\n");
    for await (const { sensors } of live(again.url)) {
      expect(sensors).toHaveLength(1);
      expect(sensors[0]).toMatchObject({ sensor: "roof", celsius: 2 });
      break;
    }
    expect(await readings(again.url)).toHaveLength(2);
  });
});

describe("what was acknowledged is stored", () => {
  test("kill -9 under 8 sensors, three times: nothing is missing, nothing is there twice", async () => {
    using folder = temporaryFolder();
    const acknowledged = new Map<string, number>();
    let port = 0;
    let goesOn = true;
    let enough = { count: Infinity, reached: () => {} };
    const sensor = async (number: number) => {
      for (let run = 0; goesOn; run++) {
        const name = `${number}-${run}`;
        const lines = Array.from({ length: 1 + (run % 40) }, (_, i) => `temperature: ${i}`);
        const answer = await report(port, `sensor: ${name}`, ...lines).catch(() => "");
        if (answer === "") continue; // the station was killed: nobody knows whether it has stored them
        expect(answer).toBe(`stored ${lines.length}\n`);
        acknowledged.set(name, lines.length);
        if (acknowledged.size >= enough.count) enough.reached();
      }
    };
    let sensors: Promise<unknown> | undefined;
    for (let kill = 0; kill < 3; kill++) {
      await using one = await station(folder);
      port = one.tcp;
      const { promise, resolve } = Promise.withResolvers<void>();
      enough = { count: acknowledged.size + 60, reached: resolve };
      sensors ??= Promise.all(Array.from({ length: 8 }, (_, number) => sensor(number)));
      await Promise.race([promise, sensors]);
      one.kill("SIGKILL");
      await one.exit();
    }
    goesOn = false;
    await sensors;
    expect(acknowledged.size).toBeGreaterThanOrEqual(180);

    using file = new Database(join(folder.path, "weather.db"));
    expect(file.query("PRAGMA integrity_check").get()).toEqual({ integrity_check: "ok" });
    const rows = file
      .query<Row, []>("SELECT sensor, celsius FROM reading ORDER BY id")
      .all() as Row[];
    const stored = Map.groupBy(rows, (row) => row.sensor);
    for (const [name, count] of acknowledged) {
      const values = stored.get(name)?.map(({ celsius }) => celsius);
      expect(values).toEqual(Array.from({ length: count }, (_, i) => i));
    }
    for (const [name, values] of stored) expect(new Set(values).size, name).toBe(values.length);
    await using again = await station(folder);
    expect(await report(again.tcp, "temperature: 1")).toBe("stored 1\n");
  });

  const isRoot = process.getuid?.() === 0;
  test.skipIf(!isRoot)(
    `disk full${isRoot ? "" : " (skipped: only root can make a small one)"}`,
    async () => {
      using folder = temporaryFolder();
      const disk = join(folder.path, "disk");
      mkdirSync(disk);
      const mount = (...args: string[]) =>
        expect(Bun.spawnSync(["mount", ...args]).exitCode).toBe(0);
      mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", disk);
      try {
        await using one = await station(folder, `sqlite://${disk}/weather.db`);
        let sent = 0;
        while ((await report(one.tcp, "temperature: 1").catch(() => "")) !== "") sent++;
        await fails(report(one.tcp, "temperature: 1"), "ECONNRESET");
        await fails(report(one.tcp, "temperature: 1"), "ECONNRESET");
        // A sensor that sends nothing more is reset as well.
        using waiting = await connect({ port: one.tcp });
        await waiting.sendAll("temperature: 1\n");
        await fails(recvAll(waiting), "ECONNRESET");
        expect(one.stderr).toMatch(/^warning: cannot store: database or disk is full; [^\n]*\n$/);
        expect(await readings(one.url)).toHaveLength(sent); // it can still be read

        mount("-o", "remount,size=8m", disk);
        expect(await report(one.tcp, "temperature: 1")).toBe("stored 1\n");
        await one.until(/\nstoring again\n$/);
        expect(one.stderr.match(/\n/g)).toHaveLength(1);
        expect(await readings(one.url)).toHaveLength(sent + 1);
        one.kill("SIGTERM");
        await one.exit();
      } finally {
        expect(Bun.spawnSync(["umount", disk]).exitCode).toBe(0);
      }
    },
  );

  test("a second station on the same SQLite file; and somebody who keeps it locked", async () => {
    using folder = temporaryFolder();
    const [one, two] = await Promise.all([station(folder), station(folder)]);
    await using _one = one;
    await using _two = two;
    const page = live(two.url);
    await page.next();
    const busy = Array.from({ length: 40 }, (_, i) =>
      report(i % 2 ? one.tcp : two.tcp, `sensor: s${i}`, "temperature: 1", "temperature: 2"),
    );
    for (const answer of await Promise.all(busy)) expect(answer).toBe("stored 2\n");
    while ((await page.next()).value.sensors.length < 40);
    await report(one.tcp, "sensor: one alone", "temperature: 1");
    while ((await page.next()).value.sensors.length < 41);
    await page.return();

    using other = new Database(join(folder.path, "weather.db"));
    other.run("BEGIN EXCLUSIVE");
    const refused = [1, 2].map(() => fails(report(one.tcp, "temperature: 3"), "ECONNRESET"));
    await Promise.all(refused);
    expect(one.stderr).toMatch(/^warning: cannot store: database is locked; [^\n]*\n$/);
    expect(two.stderr).toBe("");
    // Locked for a moment only: the sensor waits.
    const answer = report(two.tcp, "temperature: 4");
    // 200 ms: ten times as long as a station gathers readings for one commit. The page works meanwhile.
    const over = performance.now() + 200;
    while (performance.now() < over) await untilShown(two.url, "s1", 2);
    other.run("COMMIT");
    expect(await answer).toBe("stored 1\n");
    expect(await report(one.tcp, "temperature: 5")).toBe("stored 1\n");
  });

  test("a sensor that sends without end has to wait while nothing can be stored", async () => {
    using folder = temporaryFolder();
    await using one = await station(folder);
    using other = new Database(join(folder.path, "weather.db"));
    other.run("BEGIN EXCLUSIVE");
    using first = await connect({ port: one.tcp });
    await first.sendAll("temperature: 0\n");
    await Bun.sleep(100); // its reading waits for the lock, and others gather behind it
    using conn = await connect({ port: one.tcp });
    // Sends until the station has taken nothing for a while. All of it would be a million readings.
    let [taken, quiet] = [0, 0];
    const lines = Buffer.from("temperature: 1\n".repeat(10_000));
    for (; quiet < 20 && taken < 100 * lines.length; await Bun.sleep(10)) {
      const some = conn.trySend(lines.subarray(taken % 15));
      quiet = some > 0 ? 0 : quiet + 1;
      taken += some;
    }
    expect(taken).toBeLessThan(100 * lines.length);
    conn.reset();
    other.run("COMMIT");
    await reportUntilStored(one.tcp, "temperature: 2");
  });

  test("a SQLite file that is locked for a moment when a station starts: it waits", async () => {
    using folder = temporaryFolder();
    using other = new Database(join(folder.path, "weather.db"));
    other.run("BEGIN EXCLUSIVE");
    const starting = station(folder);
    await Promise.race([starting, Bun.sleep(2_000)]); // longer than a start takes without the lock
    other.run("COMMIT");
    await using one = await starting;
    expect(await report(one.tcp, "temperature: 1")).toBe("stored 1\n");
  });

  testPostgres("Postgres is stopped, and started again", async () => {
    await using postgres = new Postgres();
    await postgres.start();
    using folder = temporaryFolder();
    await using one = await station(folder, postgres.url);
    expect(await report(one.tcp, "sensor: roof", "temperature: 1")).toBe("stored 1\n");
    using waiting = await connect({ port: one.tcp });
    await waiting.sendAll("temperature: 2\n");
    await untilShown(one.url, "127.0.0.1", 2);

    await postgres.stop();
    await waiting.sendAll("temperature: 3\n");
    await fails(recvAll(waiting), "ECONNRESET");
    await fails(report(one.tcp, "temperature: 4"), "ECONNRESET");
    expect(one.stderr).toMatch(/^warning: cannot store: [^\n]*\n$/);
    expect((await fetch(`${one.url}readings`)).status).toBe(503);
    for await (const { trouble } of live(one.url)) {
      expect(trouble).toBe(true);
      break;
    }

    await postgres.start();
    await reportUntilStored(one.tcp, "temperature: 5");
    await one.until(/\nstoring again\n$/);
    expect(one.stderr.match(/\n/g)).toHaveLength(1);
    const values = (await readings(one.url)).map(({ celsius }) => celsius);
    expect(values).toEqual([1, 2, 5]);
  });
});

testPostgres(
  "a connection that breaks after COMMIT: stored, told as a failure, not tried again",
  async () => {
    await using postgres = new Postgres();
    await postgres.start();
    // Stands between the station and Postgres. In place of the answer to a commit of readings, it sends a reset.
    using between = listen({ port: 0 });
    const pass = async (near: Socket) => {
      using far = await connect({ port: postgres.port });
      let isInserting = false;
      const there = (async () => {
        for await (const chunk of near) {
          isInserting ||= chunk.includes("INSERT INTO reading");
          await far.sendAll(chunk);
        }
      })().catch(() => {}); // it ends with our reset
      for await (const chunk of far) {
        if (isInserting && chunk.includes("COMMIT")) near.reset();
        else await near.sendAll(chunk);
      }
      await there;
    };
    const accepting = (async () => {
      for await (const conn of between) pass(conn).catch(() => {});
    })();
    using folder = temporaryFolder();
    const url = postgres.url.replace(`:${postgres.port}`, `:${between.address.port}`);
    await using one = await station(folder, url);
    await fails(report(one.tcp, "temperature: 1"), "ECONNRESET");
    await fails(report(one.tcp, "temperature: 2"), "ECONNRESET");
    const values = (await readings(one.url)).map(({ celsius }) => celsius);
    expect(values).toEqual([1, 2]);
    expect(one.stderr.match(/\n/g)).toHaveLength(1);
    between.close();
    await accepting;
  },
);

describe("many stations, one Postgres", () => {
  testPostgres("may start at the same time, though the table is not there yet", async () => {
    await using postgres = new Postgres();
    await postgres.start();
    const stores = await Promise.all(Array.from({ length: 8 }, () => Store.open(postgres.url)));
    await Promise.all(stores.map((store) => store.close()));
  });

  testPostgres(
    "what one takes, the other shows within a second, also after an outage",
    async () => {
      await using postgres = new Postgres();
      await postgres.start();
      using folder = temporaryFolder();
      const both = await Promise.all([
        station(folder, postgres.url),
        station(folder, postgres.url),
      ]);
      const [one, two] = both;
      await using _one = one;
      await using _two = two;
      const page = live(two.url);
      let last = 0;
      const untilOnPage = async (celsius: number) => {
        for (;;) {
          const { sensors } = (await page.next()).value;
          if (sensors?.[0]?.celsius === celsius) return;
        }
      };
      // Without a notification from Postgres, that would take up to a minute.
      const delays = async () => {
        const found = [];
        for (let i = 0; i < 5; i++) {
          await reportUntilStored(one.tcp, "sensor: roof", `temperature: ${++last}`);
          const stored = performance.now();
          await untilOnPage(last);
          found.push(performance.now() - stored);
        }
        return found.sort((a, b) => a - b);
      };
      await page.next();
      expect((await delays())[2]).toBeLessThan(1_000);
      await postgres.stop();
      await fails(report(one.tcp, "temperature: 0"), "ECONNRESET");
      await postgres.start();
      expect((await delays())[2]).toBeLessThan(1_000);
      expect(await readings(two.url)).toEqual(await readings(one.url));
      await page.return();
    },
  );
});

describe("a long time, many readings", () => {
  function fill(folder: string, count: number, at: (i: number) => number): void {
    using file = new Database(join(folder, "weather.db"));
    const insert = file.prepare("INSERT INTO reading (sensor, celsius, at) VALUES (?, ?, ?)");
    file.transaction(() => {
      for (let i = 0; i < count; i++) insert.run(`s${i % 20}`, i % 30, at(i));
    })();
  }

  test("--keep deletes what is older", async () => {
    using folder = temporaryFolder();
    {
      await using _table = await station(folder);
    }
    const day = 86_400_000;
    fill(folder.path, 12_000, () => Date.now() - 8 * day);
    fill(folder.path, 10, () => Date.now() - 6 * day);
    await using keeps = await station(folder, undefined, "--keep", "7");
    expect(await report(keeps.tcp, "temperature: 1")).toBe("stored 1\n");
    while ((await readings(keeps.url)).length > 11);
    expect(await readings(keeps.url)).toHaveLength(11);
  });

  test("a download streams: memory stays, and it ends though readings come meanwhile", async () => {
    using folder = temporaryFolder();
    await using one = await station(folder);
    const many = 300_000;
    fill(folder.path, many, (i) => Date.now() - many + i);
    const memory = () =>
      Number(readFileSync(`/proc/${one.pid}/status`, "utf8").match(/^VmRSS:\s+(\d+)/m)![1]);
    await report(one.tcp, "temperature: 1");
    const before = memory();
    using slow = await connect({ port: Number(new URL(one.url).port) });
    await slow.sendAll("GET /readings HTTP/1.1\r\nHost: station\r\nConnection: close\r\n\r\n");
    expect(String(await slow.recv(12))).toBe("HTTP/1.1 200"); // then this client reads nothing for a while
    expect(await report(one.tcp, "temperature: 2", "temperature: 3")).toBe("stored 2\n");
    const csv = await (await fetch(`${one.url}readings.csv`)).text();
    expect(csv.match(/\n/g)).toHaveLength(1 + many + 3);
    expect(memory() - before).toBeLessThan(60_000); // KiB: three times the whole text, which is about 20 MB
    const [, body = ""] = String(await recvAll(slow)).split("\r\n\r\n");
    expect(body).toContain('"celsius":1,"at":');
    expect(body.match(/"id"/g)).toHaveLength(many + 1); // and not what came meanwhile
    expect(await readings(one.url, "?limit=7&sensor=s3")).toHaveLength(7);
  });

  testPostgres(
    "a store that fails breaks a download off: a part is not called the whole",
    async () => {
      await using postgres = new Postgres();
      await postgres.start();
      using folder = temporaryFolder();
      await using one = await station(folder, postgres.url);
      await using sql = new Bun.SQL(postgres.url, { max: 1 });
      await sql`INSERT INTO reading (sensor, celsius, at) SELECT 'roof', 1, n FROM generate_series(1, 100000) AS n`;
      const response = await fetch(`${one.url}readings.csv`);
      const reader = response.body!.getReader();
      await reader.read();
      await sql.close();
      await postgres.stop();
      const rest = async () => {
        while (!(await reader.read()).done);
      };
      expect(
        await rest().then(
          () => "complete",
          () => "broken off",
        ),
      ).toBe("broken off");
    },
  );
});
