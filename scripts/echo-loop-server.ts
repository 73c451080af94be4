const help = `
Looping echo server: sends back whatever one client sends, until the client closes.
Documented in tutorial 000, "변형 : 에코서버2".

  terminal 1:  bun run scripts/echo-loop-server.ts
  terminal 2:  bun run scripts/echo-loop-client.ts
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

if (forever) for await (const conn of server) await echo(conn).catch(warn);
else await echo(await server.accept());

async function echo(conn: Socket): Promise<void> {
  using _closedAtTheEnd = conn;
  if (idleTimeout > 0) conn.setIdleTimeout(idleTimeout * 1000);
  // A chunk may end in the middle of a character: the streaming decoder keeps that part for the next chunk.
  const decoder = new TextDecoder();
  for (;;) {
    const chunk = await conn.recv(1024);
    if (chunk.length === 0) break; // the client has closed, or shut down its sending side
    await print(peerText(decoder.decode(chunk, { stream: true })));
    await conn.sendAll(chunk);
  }
  const cutOff = decoder.decode();
  if (cutOff !== "") await print(peerText(cutOff));
}
