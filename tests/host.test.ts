// lib/host.ts: the same answers as CPython's.

import { hostname } from "node:os";
import { expect, test, setDefaultTimeout } from "bun:test";

import { getfqdn, gethostbyname, gethostname, ownAddress } from "../lib/host.ts";
import { failure, Network, PATIENCE_MS, python, testNetwork, testPython } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);

test("names this machine and resolves names", async () => {
  expect(gethostname()).toBe(hostname());
  expect(await gethostbyname("localhost")).toBe("127.0.0.1");
  expect(await gethostbyname("127.0.0.1")).toBe("127.0.0.1");
  expect(await ownAddress()).toMatch(/^\d+\.\d+\.\d+\.\d+$/);
});

test("an unknown name, an IPv6 address and no name at all are ENOTFOUND", async () => {
  for (const name of ["no-such-host.invalid", "::1", ""]) {
    const error = await failure(gethostbyname(name));
    expect(error.code).toBe("ENOTFOUND");
    expect(error.message).toBe(`gethostbyname ENOTFOUND ${name}`);
  }
  expect(await getfqdn("no-such-host.invalid")).toBe("no-such-host.invalid");
});

testNetwork("getfqdn gives the name with a domain, where a machine has several", async () => {
  using network = new Network("10.77.0.1 short short.example.org alias\n");
  const program = 'import { getfqdn } from "./lib/host.ts"; console.log(await getfqdn("short"));';
  await using ours = network.process([process.execPath, "-e", program]);
  expect(await ours.exit(), ours.stderr).toBe(0);
  expect(ours.stdout).toBe("short.example.org\n"); // as CPython's socket.getfqdn("short")
});

testPython("agrees with CPython", async () => {
  await using peer = python(`
try: ip = socket.gethostbyname(socket.gethostname())
except OSError: ip = "127.0.0.1"
print("names", socket.gethostname(), socket.getfqdn(), ip)`);
  const [, names] = await peer.until(/^names (.*)\n/m);
  expect(`${gethostname()} ${await getfqdn()} ${await ownAddress()}`).toBe(names!);
});
