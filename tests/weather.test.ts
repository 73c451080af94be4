// The weather station and its sensor, against each other and against CPython.

import { readdirSync } from "node:fs";
import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { connect, listen } from "../lib/socket.ts";
import {
  failure,
  freePort,
  PATIENCE_MS,
  Process,
  python,
  recvAll,
  script,
  testPython,
  turn,
} from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

const descriptors = (pid: number) => readdirSync(`/proc/${pid}/fd`).length;

describe("weather-receiver and weather-sender", () => {
  const readings = ["15", "22", "21", "26", "25", "19"];

  test("print what is documented", async () => {
    await using receiver = script("weather-receiver", ["--port", "0"]);
    const port = await receiver.port();
    await using sender = script("weather-sender", ["--port", `${port}`, "--interval", "0.01"]);
    expect(await sender.exit()).toBe(0);
    const [first, ...data] = sender.stdout.trimEnd().split("\n");
    expect(first).toMatch(/^connecting to \S+ \(\S+\) with \d+\.\d+\.\d+\.\d+$/);
    expect(data).toEqual(readings.map((reading) => `data: ${reading}`));

    await receiver.until(/no more data\.\n/);
    const lines = receiver.stdout.trimEnd().split("\n");
    expect(lines[0]).toMatch(/^working on \S+ \(\S+\) with \d+\.\d+\.\d+\.\d+$/);
    expect(lines[1]).toMatch(/^starting up on \d+\.\d+\.\d+\.\d+ port 0$/);
    expect(lines[2]).toMatch(/^listening on /);
    expect(lines[3]).toBe("waiting for a connection");
    expect(lines[4]).toMatch(/^connection from \d+\.\d+\.\d+\.\d+:\d+$/);
    expect(lines.filter((line) => line.startsWith("Data: "))).toEqual(
      readings.map((reading) => `Data: temperature: ${reading}`),
    );
    expect(lines.at(-1)).toBe("no more data.");
  });

  test("whole readings, however they arrive; many sensors at once; the last without newline", async () => {
    await using receiver = script("weather-receiver", ["--port", "0", "--host", "127.0.0.1"]);
    const port = await receiver.port();
    using silent = await connect({ port });
    using sensor = await connect({ port });
    const sent = Array.from({ length: 40 }, (_, i) => `temperature: ${i}°`);
    const bytes = Buffer.from(sent.join("\n"));
    for (const byte of bytes) await sensor.sendAll(Uint8Array.of(byte));
    sensor.shutdown("write");
    await receiver.until(/no more data\./);
    const data = receiver.stdout.split("\n").filter((line) => line.startsWith("Data: "));
    expect(data).toEqual(sent.map((line) => `Data: ${line}`));
    silent.reset();
    await receiver.until(/warning: connection with .*: connection reset by peer/, "stderr");
  });

  test("a character that is cut in two by a chunk is whole again", async () => {
    await using receiver = script("weather-receiver", ["--port", "0", "--host", "127.0.0.1"]);
    using sensor = await connect({ port: await receiver.port() });
    const [before, after] = [Buffer.from("first\n15 °").subarray(0, -1), Uint8Array.of(0xb0)];
    await sensor.sendAll(before);
    await receiver.until(/Data: first\n/); // the first byte of `°` came with it
    await sensor.sendAll(after);
    sensor.shutdown("write");
    await receiver.until(/Data: 15 °\nno more data\.\n/);
  });

  test("a reading without end ends its connection, with one line", async () => {
    await using receiver = script("weather-receiver", ["--port", "0", "--host", "127.0.0.1"]);
    using sensor = await connect({ port: await receiver.port() });
    sensor.sendAll("x".repeat(1 << 20)).catch(() => {});
    await receiver.until(/^warning: connection with .* over 1024 characters$/m, "stderr");
    expect((await failure(recvAll(sensor))).code).toBe("ECONNRESET"); // the receiver has not read everything
  });

  testPython(
    "ten sensors that never stop: an eleventh is served, a signal is heard, and nothing stays",
    async () => {
      // Writing to /dev/null never has to wait, so others get a turn only if the server itself lets them.
      const port = freePort();
      const run = `exec ${process.execPath} run scripts/weather-receiver.ts --host 127.0.0.1 --port ${port}`;
      await using receiver = new Process(["bash", "--norc", "-c", `${run} > /dev/null`]);
      for (let probing = true; probing;) {
        const conn = await connect({ port }).catch(() => null);
        conn?.close();
        probing = conn === null;
      }
      await using floods = python(
        `
def flood():
    c = connect(sys.argv[1]); block = b"temperature: 15\\n" * 4096
    ready.release()
    try:
        while True: c.sendall(block)
    except OSError: pass
ready = threading.Semaphore(0)
for _ in range(10): threading.Thread(target=flood, daemon=True).start()
for _ in range(10): ready.acquire()
print("flooding", flush=True); sys.stdin.readline()`,
        port,
      );
      await floods.until(/flooding/);
      const started = performance.now();
      await using sensor = script("weather-sender", [
        "--host=127.0.0.1",
        `--port=${port}`,
        "--readings=7",
        "--interval=0",
      ]);
      expect(await sensor.exit()).toBe(0); // the station has read it all
      expect(performance.now() - started).toBeLessThan(5_000); // 20 s if the server gives others no turn
      receiver.kill("SIGTERM");
      const killed = performance.now();
      expect(await receiver.exit()).toBe(0);
      expect(performance.now() - killed).toBeLessThan(3_000); // 11 s if the server gives others no turn
      floods.kill("SIGKILL");
    },
  );

  test("--readings; a value that is no number is named", async () => {
    await using receiver = script("weather-receiver", ["--port", "0"]);
    const args = ["--port", `${await receiver.port()}`, "--interval", "0", "--readings"];
    await using sender = script("weather-sender", [...args, "15,-2.5"]);
    expect(await sender.exit()).toBe(0);
    await receiver.until(/Data: temperature: 15\nData: temperature: -2\.5\nno more data\./);
    await using wrong = script("weather-sender", [...args, "15,warm"]);
    expect(await wrong.exit()).toBe(2);
    expect(wrong.stderr).toMatch(/^error: --readings .*"15,warm"\n$/);
  });

  testPython("each with CPython on the other side", async () => {
    await using receiver = script("weather-receiver", ["--port", "0", "--host", "127.0.0.1"]);
    await using theirs = python(
      `
conn = connect(sys.argv[1])
for reading in (3, 4): conn.sendall(f"temperature: {reading}\\n".encode())
conn.close()`,
      await receiver.port(),
    );
    expect(await theirs.exit()).toBe(0);
    await receiver.until(/Data: temperature: 3\nData: temperature: 4\nno more data\./);

    await using python3 = python(`
conn, _ = listen(1).accept()
print("got", recv_all(conn)); conn.close()`);
    const args = ["--host", "127.0.0.1", "--port", `${await python3.port()}`, "--interval", "0"];
    await using sender = script("weather-sender", [...args, "--readings", "1,2"]);
    expect(await sender.exit()).toBe(0);
    await python3.until(/got b'temperature: 1\\ntemperature: 2\\n'/);
  });

  test("the sender notices a closed station before it sends the next reading", async () => {
    await using receiver = script("weather-receiver", ["--port", "0", "--host", "127.0.0.1"]);
    const port = `${await receiver.port()}`;
    const args = ["--host", "127.0.0.1", "--port", port, "--interval", "2", "--readings", "1,-2"];
    await using sender = script("weather-sender", args);
    await receiver.until(/Data: temperature: 1\n/);
    receiver.kill("SIGKILL");
    expect(await sender.exit()).toBe(1);
    expect(sender.stderr).toBe("error: the station has closed the connection\n");
    expect(sender.stdout).not.toContain("data: -2");
  });

  test("the sender tells what a station that stops has stored", async () => {
    using station = listen({ port: 0 });
    const where = ["--host", "127.0.0.1", "--port", `${station.address.port}`];
    await using sender = script("weather-sender", [...where, "--interval", "60"]);
    using conn = await station.accept();
    await conn.recv(100);
    await conn.sendAll("stored 1\n");
    conn.close();
    expect(await sender.exit()).toBe(1);
    expect(sender.stdout).toEndWith("data: 15\nstored 1\n");
    expect(sender.stderr).toBe("error: the station has closed the connection\n");
  });

  testPython("a receiver that dies on the way is noticed", async () => {
    await using python3 = python(`
conn, _ = listen(1).accept()
conn.recv(64); reset(conn)`);
    const args = ["--host", "127.0.0.1", "--port", `${await python3.port()}`, "--interval", "0.1"];
    await using sender = script("weather-sender", args);
    expect(await sender.exit()).toBe(1);
    expect(sender.stderr).toMatch(/^error: (the station|connection with 127\.0\.0\.1:\d+: ).*\n$/);
  });
});
