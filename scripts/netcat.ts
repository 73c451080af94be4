const help = `
Netcat: sends what is typed and prints what comes, both at the same time. At the end of the input it sends FIN
and goes on printing; when the other side ends, it exits.
It goes on where the tutorials stop: a terminal for any TCP server.

  terminal 1:  bun run scripts/echo-threaded-server.ts
  terminal 2:  bun run scripts/netcat.ts                   (type; Ctrl-D ends)

With --listen it waits for one connection, so that two netcats can talk. Files go through unchanged:
netcat.ts --listen >copy, and in another terminal netcat.ts <original
`;

import { isatty } from "node:tty";

import { formatAddress } from "../lib/address.ts";
import {
  cli,
  clientFlags,
  clientTls,
  fail,
  peerText,
  refuse,
  serverTls,
  tlsClientFlags,
  tlsFlags,
  warn,
  write,
} from "../lib/cli.ts";
import { SocketError } from "../lib/errors.ts";
import { connect, listen, type Socket } from "../lib/socket.ts";

const where = clientFlags(4000);
const { host, port, signal, ...flags } = cli(help, {
  ...where,
  port: { ...where.port, min: 0, about: "the server's port; to listen on, 0 is any free one" },
  listen: { type: "boolean", about: "wait for one connection there, instead of making one" },
  ...tlsClientFlags,
  // Not from the environment, which is for servers: with a certificate there, netcat could not connect.
  tlsCert: { ...tlsFlags.tlsCert, env: undefined },
  tlsKey: { ...tlsFlags.tlsKey, env: undefined },
});
if (!flags.listen && port === 0) refuse("--port must be from 1 on, to connect to");
const tls = { here: serverTls(flags), there: clientTls(flags) };
if (flags.listen && tls.there) refuse("--tls and --tls-ca are for connecting, not for --listen");
if (!flags.listen && tls.here) refuse("--tls-cert and --tls-key are for --listen");
signal.addEventListener("abort", () => process.exit(0)); // there is nothing to finish

using conn = flags.listen
  ? await acceptOne()
  : await connect({ host, port, signal, tls: tls.there });
const sending = send();
sending.catch((error) => {
  if (!(error instanceof SocketError)) fail(error); // when the connection breaks, receiving fails too
});
await receive();

// The other side has ended. Input that is already there is still sent; we do not wait for more.
for (let before = -1; conn.bytesSent > before || conn.bufferedAmount > 0; await Bun.sleep(100)) {
  before = conn.bytesSent;
}
await Promise.race([sending, Bun.sleep(0)]);
process.exit(0);

async function acceptOne(): Promise<Socket> {
  using server = listen({ host, port, tls: tls.here });
  server.onRefused = warn;
  // Not on stdout, which is for the data only.
  console.error(`listening on ${formatAddress(server.address)}`);
  return await server.accept();
}

async function send(): Promise<void> {
  for await (const chunk of Bun.stdin.stream()) await conn.sendAll(chunk);
  conn.shutdown("write");
}

async function receive(): Promise<void> {
  // To a terminal as text, which may be cut in the middle of a character; to a file or a pipe as bytes.
  const decoder = isatty(1) ? new TextDecoder() : null;
  for await (const chunk of conn) {
    await write(decoder === null ? chunk : peerText(decoder.decode(chunk, { stream: true })));
  }
  if (decoder !== null) await write(peerText(decoder.decode()));
}
