const help = `
Message server: sends back every message unchanged, for ever. TCP is a stream of bytes without message
boundaries; a framing, on which both sides agree, says where each message ends.
Documented in tutorial 003, "Using a Socket" (MySocket).

  terminal 1:  bun run scripts/message-server.ts
  terminal 2:  bun run scripts/message-client.ts
`;

import { formatAddress } from "../lib/address.ts";
import { cli, print, serverFlags, serverTls, tlsFlags, warn } from "../lib/cli.ts";
import { delimited, fixedLength, lengthPrefixed, messages, sendMessage } from "../lib/framing.ts";
import { limitFlags, logFlags, proxyFlags, serve } from "../lib/serve.ts";
import { listen, type Socket } from "../lib/socket.ts";

const { host, port, framing, bytes, signal, ...flags } = cli(help, {
  ...serverFlags(5001),
  ...tlsFlags,
  ...limitFlags,
  ...logFlags,
  ...proxyFlags,
  framing: {
    type: "choice",
    choices: ["fixed", "delimited", "length"],
    default: "length",
    about: "a fixed length, a newline at the end, or the length in front",
  },
  bytes: { type: "count", default: 16, min: 1, max: 1 << 20, about: "the fixed length" },
});
const framings = { fixed: fixedLength(bytes), delimited: delimited(), length: lengthPrefixed() };

using server = listen({ host, port, signal, tls: serverTls(flags) });
print(`listening on ${formatAddress(server.address)}`);
await serve(server, echo, { ...flags, signal, onError: warn });

async function echo(conn: Socket): Promise<void> {
  for await (const message of messages(conn, framings[framing])) {
    await sendMessage(conn, framings[framing], message);
  }
}
