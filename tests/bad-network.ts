// A network that delays, loses, repeats and reorders packets. `tc netem` would do it in the kernel, but many kernels
// are built without it. So it is a program here, with a TUN interface in a network namespace: each packet
// from 10.99.0.1 to 10.99.0.2 comes back as a packet from 10.99.0.2 to 10.99.0.1. A client that connects to
// 10.99.0.2 reaches the server that listens on 10.99.0.1.
//
// `bun run bad-network COMMAND` runs a command in it; it needs root, ip of iproute2, python3 and /dev/net/tun.

import { existsSync } from "node:fs";
import { test } from "bun:test";

import { Network, type Process, testNetwork } from "./helpers.ts";

/** Where to listen, and where to connect to. */
export const [HERE, THERE] = ["10.99.0.1", "10.99.0.2"];

/** The share of packets that are lost, the share that come twice, and the longest delay in seconds. */
const [LOST, TWICE, DELAY] = [0.02, 0.01, 0.004];

const MIRROR = `
import fcntl, heapq, os, random, select, struct, sys, time
lost, twice, delay = map(float, sys.argv[1:])
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH", b"mirror", 0x1001)) # TUNSETIFF, IFF_TUN | IFF_NO_PI
print("up", flush=True)
late = []
def put(packet): heapq.heappush(late, (time.monotonic() + random.random() * delay, packet))
while True:
    wait = max(0, late[0][0] - time.monotonic()) if late else None
    if select.select([tun], [], [], wait)[0]:
        packet = os.read(tun, 65536)
        # Source and destination are swapped, which leaves all checksums as they are.
        packet = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
        # A packet without data is never lost: TCP sends a SYN again only after a second, and a reset never.
        hasData = packet[9] != 6 or len(packet) > 20 + (packet[32] >> 4) * 4
        if not hasData or random.random() >= lost: put(packet)
        if random.random() < twice: put(packet)
    while late and late[0][0] <= time.monotonic(): os.write(tun, heapq.heappop(late)[1])
`;

export class BadNetwork implements AsyncDisposable {
  readonly #network = new Network();
  readonly #mirror: Process;

  private constructor() {
    const chances = [LOST, TWICE, DELAY].map(String);
    this.#mirror = this.#network.process(["python3", "-u", "-c", MIRROR, ...chances]);
  }

  static async open(): Promise<BadNetwork> {
    const bad = new BadNetwork();
    await bad.#mirror.until(/up\n/);
    bad.#network.ip("link", "set", "mirror", "mtu", "9000", "up");
    bad.#network.ip("addr", "add", `${HERE}/32`, "dev", "mirror");
    // TCP sends a lost segment again after 10 ms instead of 200 ms. That only makes the tests shorter.
    bad.#network.ip("route", "add", THERE, "dev", "mirror", "src", HERE, "rto_min", "10ms");
    return bad;
  }

  /** The command line that runs a command in this network. */
  inside(command: string[]): string[] {
    return this.#network.inside(command);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#mirror[Symbol.asyncDispose]();
    this.#network[Symbol.dispose]();
  }
}

/** A test in such a network. */
export function testBadNetwork(name: string, body: () => Promise<void>): void {
  const missing = Bun.which("python3") ? "/dev/net/tun" : "python3";
  if (missing === "/dev/net/tun" && existsSync(missing)) testNetwork(name, body);
  else test.skip(`${name} (skipped: no ${missing})`, body);
}

if (import.meta.main) {
  await using bad = await BadNetwork.open();
  const stdio = ["inherit", "inherit", "inherit"] as const;
  process.exitCode = await Bun.spawn(bad.inside(process.argv.slice(2)), { stdio: [...stdio] })
    .exited;
}
