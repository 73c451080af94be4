const help = `
WebSocket client by hand: sends line after line as messages and prints each reply. An empty line, or the
end of the input, closes.
Named in tutorial 002, "웹소켓"; the protocol is RFC 6455.

  terminal 1:  bun run scripts/websocket-server.ts
  terminal 2:  bun run scripts/websocket-client.ts --message hello      (without, it asks for lines)
`;

import { formatAddress } from "../lib/address.ts";
import {
  cli,
  clientFlags,
  clientTls,
  fail,
  peerText,
  print,
  refuse,
  tlsClientFlags,
} from "../lib/cli.ts";
import { connect } from "../lib/socket.ts";
import { openWebSocket } from "../lib/websocket.ts";

const { host, port, path, message, signal, ...flags } = cli(help, {
  ...clientFlags(8001),
  ...tlsClientFlags,
  path: { type: "string", default: "/", about: "what follows the server in a ws: URL" },
  message: { type: "string", about: "send this instead of asking" },
});
if (!path.startsWith("/")) refuse(`--path must begin with /, not "${path}"`);
// A path in a request is ASCII without blanks; everything else is percent-encoded, as browsers do it.
const target = path.replace(/[^!-~]+/g, encodeURIComponent);

const name = formatAddress({ host, port });
const conn = await connect({ host, port, signal, tls: clientTls(flags) });
const socket = await openWebSocket(conn, { host: name, path: target });
signal.addEventListener("abort", () => socket.close(1001));
if (process.stdin.isTTY && message === undefined) {
  console.error(`connected to ${name}: type lines, an empty one ends`);
}

// Receive also while we wait for the keyboard: the server may send something unasked, or close.
let closing = false;
let replied = Promise.withResolvers<void>();
const receiving = receive();
receiving.catch(fail);

for await (const line of message === undefined ? console : [message]) {
  if (line === "") break;
  replied = Promise.withResolvers();
  await socket.send(line);
  await replied.promise;
}
closing = true;
await socket.close();

async function receive(): Promise<void> {
  for await (const reply of socket) {
    await print(`>${peerText(typeof reply === "string" ? reply : `(${reply.length} bytes)`)}`);
    replied.resolve();
  }
  if (signal.aborted) process.exit(0); // do not wait for the keyboard
  if (closing) return; // all replies are here: how the server ends does not matter
  const { code, reason } = socket.peerClose!;
  const why = `${code} ${reason}`.trim().replace(/\p{Cc}/gu, "?"); // no control characters on our terminal
  await fail(`${name} has closed the connection: ${why}`);
}
