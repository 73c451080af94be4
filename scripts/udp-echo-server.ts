const help = `
UDP echo server: sends every datagram back to its sender, for ever.
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

// There are no connections to accept or close: each datagram comes with its sender's address.
for await (const [data, from] of socket) {
  // A reply that cannot be sent is lost, as any datagram may be. A client with a forged address, or without a
  // network, must not end the service for all others.
  await socket.sendTo(data, from).catch(() => {});
}
