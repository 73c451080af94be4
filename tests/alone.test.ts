// The scripts that need no second terminal.

import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, expect, setDefaultTimeout, test } from "bun:test";

import { PATIENCE_MS, Process, script } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

describe("the scripts that need no partner", () => {
  test("byte-order shows the bytes, and refuses what is no 32-bit number", async () => {
    await using one = script("byte-order", ["--number", "258"]);
    expect(await one.exit()).toBe(0);
    expect(one.stdout).toMatch(/258 in 16 bits: host order (02 01|01 02), network order 01 02\n/);
    expect(one.stdout).toMatch(/258 in 32 bits: host order .*, network order 00 00 01 02\n/);
    expect(one.stdout).toContain("00 00 01 02 on the wire, read with ntohl: 258\n");
    await using large = script("byte-order", ["--number", "4294967296"]);
    expect(await large.exit()).toBe(2);
    expect(large.stderr).toMatch(/^error: --number .*"4294967296"\n$/);
  });

  test("ipc: two processes, over loopback and over a file that is gone afterwards", async () => {
    await using ipc = script("ipc");
    expect(await ipc.exit()).toBe(0);
    expect(ipc.stderr).toBe("");
    const lines = ipc.stdout.trimEnd().split("\n");
    expect(lines).toHaveLength(4);
    const [, partner] = lines[0]!.match(/^127\.0\.0\.1:\d+: "hello from process (\d+)"/) ?? [];
    expect(Number(partner)).toBeGreaterThan(0);
    expect(Number(partner)).not.toBe(ipc.pid);
    const [, file] = lines[2]!.match(/^(\/.*): "hello from process \d+"/) ?? [];
    expect(existsSync(dirname(file!))).toBe(false);
  });

  test("ipc leaves no file behind, also when nobody takes what it prints", async () => {
    const folder = mkdtempSync(join(tmpdir(), "alone-"));
    const piped = `TMPDIR=${folder} ${process.execPath} run scripts/ipc.ts | head -n 2`;
    await using shell = new Process(["bash", "--norc", "-c", piped]);
    expect(await shell.exit()).toBe(0);
    expect(readdirSync(folder)).toEqual([]);
    rmSync(folder, { recursive: true });
  });

  test("silent-peer: what hangs, what a timeout finds, what keep-alive does not", async () => {
    await using silent = script("silent-peer", ["--wait", "0.05"]);
    expect(await silent.exit()).toBe(0);
    expect(silent.stderr).toBe("");
    expect(silent.stdout).toMatch(
      /"I am here".*stopped.*recv: nothing.*send: no error.*keep-alive: still open.*setTimeout: ETIMEDOUT.*died: recv gives (EOF|ECONNRESET)/s,
    );
  });

  test("duplex: one way, in turns, both at once", async () => {
    await using duplex = script("duplex", ["--bytes", "20000000"]);
    expect(await duplex.exit()).toBe(0);
    expect(duplex.stderr).toBe("");
    expect(duplex.stdout).toMatch(
      /^simplex: .*\n(half duplex: .*\n){2}full duplex: 20000000 bytes/,
    );
    expect(duplex.stdout).toEndWith('received "far may still talk"\n');
  });
});
