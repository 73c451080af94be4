const help = `
Basic echo client: asks for a line, sends it, prints what comes back, and exits.
Documented in tutorial 000, "간단한 에코서버".

  terminal 1:  bun run scripts/echo-server.ts
  terminal 2:  bun run scripts/echo-client.ts
`;

import { cli, clientFlags, peerText, print, warn, write } from "../lib/cli.ts";
import { connect } from "../lib/socket.ts";

const { host, port, message, signal } = cli(help, {
  ...clientFlags(4000),
  message: { type: "string", about: "send this instead of asking" },
});

using conn = await connect({ host, port, signal });
signal.addEventListener("abort", () => process.exit(0)); // there is nothing to finish
const sent = Buffer.from(message ?? (await ask(":")));
await conn.sendAll(sent);

// Our FIN tells the server that this was all. The loop ends with the server's FIN. The reply may come in
// several pieces, and a piece may end in the middle of a character.
conn.shutdown("write");
const decoder = new TextDecoder();
await write(">");
let received = 0;
for await (const piece of conn) {
  received += piece.length;
  await write(peerText(decoder.decode(piece, { stream: true })));
}
await print(decoder.decode());
if (received < sent.length) warn(`only ${received} of ${sent.length} bytes came back`);

async function ask(prompt: string): Promise<string> {
  await write(prompt);
  for await (const line of console) return line;
  return "";
}
