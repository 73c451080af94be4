const help = `
UDP echo server: sends every datagram back to whoever sent it, for ever.
Named in tutorial 000: SOCK_DGRAM, and with --host :: (both families) AF_INET6.

  terminal 1:  bun run scripts/udp-echo-server.ts
  terminal 2:  bun run scripts/udp-echo-client.ts
`;

import { formatAddress } from "../lib/address.ts";
import { cli, print, serverFlags } from "../lib/cli.ts";
import { datagram } from "../lib/datagram.ts";

const { host, port, signal } = cli(help, serverFlags(4000));

using socket = await datagram({ host, port });
signal.addEventListener("abort", () => socket.close());
print(`listening on ${formatAddress(socket.address)}`);

// There is nothing to accept and nothing to end: each datagram stands for itself and says who sent it.
for await (const [data, from] of socket) {
  // A reply that cannot be sent is lost, as any datagram may be. Whoever sent a forged address, or has
  // no network any more, is not to end the service for all others.
  await socket.sendTo(data, from).catch(() => {});
}
