const help = `
Looping echo client: sends line after line and prints each reply. An empty line closes.
Documented in tutorial 000, "변형 : 에코서버2".

  terminal 1:  bun run scripts/echo-loop-server.ts
  terminal 2:  bun run scripts/echo-loop-client.ts
`;

import { formatAddress } from "../lib/address.ts";
import { cli, clientFlags, fail, peerText, print } from "../lib/cli.ts";
import { connect } from "../lib/socket.ts";

const { host, port, signal } = cli(help, clientFlags(4000));
using conn = await connect({ host, port, signal });
signal.addEventListener("abort", () => process.exit(0)); // nothing is under way that could finish

const name = formatAddress(conn.remoteAddress);
if (process.stdin.isTTY) console.error(`connected to ${name}: type lines, an empty one ends`);

// While we wait for the keyboard we expect no data. If the socket becomes readable then, it is
// usually because the server has gone.
conn.waitReadable().then(
  () => {
    const isEnd = conn.tryRecv(1)?.length === 0;
    fail(isEnd ? `${name} has closed the connection` : `${name} sent more than the echo`);
  },
  () => {}, // we closed first
);

for await (const line of console) {
  // The tutorial sends an empty string here, to tell the server that this is the end. But an empty string
  // sends nothing: what the server receives is EOF, because we close the connection.
  if (line === "") break;

  // Receive while we send: with a line larger than the kernel's buffers, each side would otherwise wait
  // for the other one to receive, for ever.
  const bytes = Buffer.from(line);
  const [reply] = await Promise.all([conn.recvExactly(bytes.length), conn.sendAll(bytes)]);
  await print(peerText(String(reply)));
}
