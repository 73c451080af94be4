const help = `
Weather station: prints the temperatures that sensors send, one line each, for any number of
sensors at once, for ever.
Documented in tutorial 001, "Server".

  terminal 1:  bun run scripts/weather-receiver.ts
  terminal 2:  bun run scripts/weather-sender.ts
`;

import { formatAddress } from "../lib/address.ts";
import { cli, print, serverFlags, peerText, warn } from "../lib/cli.ts";
import { SocketError } from "../lib/errors.ts";
import { getfqdn, gethostname, ownAddress } from "../lib/host.ts";
import { limitFlags, logFlags, serve } from "../lib/serve.ts";
import { listen, type Socket } from "../lib/socket.ts";

/** In characters. A longer line is not a reading. */
const MAX_READING = 1024;

const { host, port, signal, ...limits } = cli(help, {
  ...serverFlags(23456),
  ...limitFlags,
  ...logFlags,
  host: {
    type: "string",
    env: "HOST",
    about: "address to listen on (default: this machine's own)",
  },
});
const ip = host ?? (await ownAddress());
print(`working on ${gethostname()} (${await getfqdn()}) with ${ip}`);

print(`starting up on ${ip} port ${port}`);
using server = listen({ host: ip, port, signal });
print(`listening on ${formatAddress(server.address)}`);

print("waiting for a connection");
await serve(server, receive, { ...limits, signal, onError: warn });

async function receive(conn: Socket): Promise<void> {
  await print(`connection from ${formatAddress(conn.remoteAddress)}`);
  await print("waiting for a connection"); // already now: the next sensor does not wait for this one
  // 64 bytes may end in the middle of a line, even of a character: the decoder and `rest` keep that part
  // until the next bytes come.
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const chunk = await conn.recv(64);
    if (chunk.length === 0) break;
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    for (const line of lines) await print(`Data: ${peerText(line)}`);
    if (rest.length > MAX_READING) {
      const reason = `a reading of over ${MAX_READING} characters`;
      throw new SocketError("EMSGSIZE", "recv", conn.remoteAddress, { reason });
    }
  }
  rest += decoder.decode();
  if (rest !== "") await print(`Data: ${peerText(rest)}`);
  await print("no more data.");
}
