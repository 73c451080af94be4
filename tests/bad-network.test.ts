// The promises also hold on a network where packets are late, lost, repeated and reordered.

import { expect, setDefaultTimeout } from "bun:test";

import { BadNetwork, HERE, testBadNetwork, THERE } from "./bad-network.ts";
import { Process } from "./helpers.ts";

setDefaultTimeout(60_000);

testBadNetwork("the kit, connected, and accepted over TLS", async () => {
  await using bad = await BadNetwork.open();
  const kit = [process.execPath, "run", "tests/fixtures/far-conformance.ts", HERE!, THERE!];
  await using run = new Process(bad.inside(kit));
  expect(await run.exit(), `${run.stdout}${run.stderr}`).toBe(0);
  expect(run.stdout).toEndWith("all checks passed\n");
  // The network was really a bad one: TCP has sent segments again, and received some out of order.
  await using counters = new Process(bad.inside(["cat", "/proc/net/snmp", "/proc/net/netstat"]));
  await counters.exit();
  expect(counterOf(counters.stdout, "RetransSegs")).toBeGreaterThan(20);
  expect(counterOf(counters.stdout, "TCPOFOQueue")).toBeGreaterThan(20);
});

// proc_pid_net(5): a line of names, and below it a line of their values.
function counterOf(table: string, name: string): number {
  const rows = table.split("\n").map((line) => line.split(" "));
  const names = rows.findIndex((row) => row.includes(name));
  return Number(rows[names + 1]![rows[names]!.indexOf(name)]);
}
