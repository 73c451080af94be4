const help = `
Netcat: what is typed goes to the other side as it is, and what comes from there is printed, both at once.
The end of the input is sent as an end (FIN), and what still comes is printed; the other side's end is ours.
Goes on where the tutorials stop: a terminal for whatever speaks TCP.

  terminal 1:  bun run scripts/echo-threaded-server.ts
  terminal 2:  bun run scripts/netcat.ts                   (type; Ctrl-D ends)

With --listen it waits for one connection, so two of it are enough. Files go through unchanged:
netcat.ts --listen >copy, and then, elsewhere, netcat.ts <original
`;

import { isatty } from "node:tty";

import { formatAddress } from "../lib/address.ts";
import { cli, clientFlags, peerText, refuse, write } from "../lib/cli.ts";
import { connect, listen, type Socket } from "../lib/socket.ts";

const { host, port } = clientFlags(4000);
const { signal, ...where } = cli(help, {
  host,
  port: { ...port, min: 0, about: "the server's port; to listen on, 0 is any free one" },
  listen: { type: "boolean", about: "wait for one connection there, instead of making one" },
});
if (!where.listen && where.port === 0) refuse("--port must be from 1 on, to connect to");
signal.addEventListener("abort", () => process.exit(0)); // who types the end has seen all there is

using conn = where.listen ? await acceptOne() : await connect(where);
const sending = send();
sending.catch(() => {}); // a connection that breaks is told by receiving first
await receive();

// The other side will say no more. It gets what there is of our input; but more is not waited for.
for (let before = -1; conn.bytesSent > before || conn.bufferedAmount > 0; await Bun.sleep(100)) {
  before = conn.bytesSent;
}
await Promise.race([sending, Bun.sleep(0)]);
process.exit(0);

async function acceptOne(): Promise<Socket> {
  using server = listen(where);
  // stdout is for what comes from the other side, and for nothing else.
  console.error(`listening on ${formatAddress(server.address)}`);
  return await server.accept();
}

async function send(): Promise<void> {
  for await (const chunk of Bun.stdin.stream()) await conn.sendAll(chunk);
  conn.shutdown("write");
}

async function receive(): Promise<void> {
  // On a terminal it is text, cut anywhere; in a file or a pipe, bytes as they come.
  const decoder = isatty(1) ? new TextDecoder() : null;
  for await (const chunk of conn) {
    await write(decoder === null ? chunk : peerText(decoder.decode(chunk, { stream: true })));
  }
}
