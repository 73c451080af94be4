const help = `
Basic echo server: accepts one connection, receives once, sends the same bytes back, and exits.
Documented in tutorial 000, "간단한 에코서버".

  terminal 1:  bun run scripts/echo-server.ts
  terminal 2:  bun run scripts/echo-client.ts
`;

import { formatAddress } from "../lib/address.ts";
import { cli, print, serverFlags, peerText, warn } from "../lib/cli.ts";
import { listen, type Socket } from "../lib/socket.ts";

const { host, port, forever, idleTimeout, signal } = cli(help, {
  ...serverFlags(4000),
  forever: { type: "boolean", about: "go on with the next client instead of exiting" },
  idleTimeout: {
    type: "seconds",
    default: 0, // as in the tutorial
    min: 0,
    about: "how long the client may be silent and take nothing, 0 for ever",
  },
});

using server = listen({ host, port, signal });
server.onRefused = warn;
print(`listening on ${formatAddress(server.address)}`);

// One client after another: those that connect meanwhile wait in the server's backlog.
if (forever) for await (const conn of server) await echo(conn).catch(warn);
else await echo(await server.accept());

async function echo(conn: Socket): Promise<void> {
  using _closedAtTheEnd = conn;
  if (idleTimeout > 0) conn.setIdleTimeout(idleTimeout * 1000);
  // One recv, at most 1024 bytes. A short message usually arrives whole, but TCP does not promise that,
  // and the rest of a longer one is lost. echo-loop-server.ts receives until EOF.
  const message = await conn.recv(1024);
  await print(peerText(new TextDecoder().decode(message)));
  await conn.sendAll(message);
}
