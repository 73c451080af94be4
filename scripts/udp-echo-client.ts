const help = `
UDP echo client: sends line after line, each as a datagram, and prints each reply. A datagram without a reply
is sent again after a while. An empty line ends.
Named in tutorial 000: SOCK_DGRAM.

  terminal 1:  bun run scripts/udp-echo-server.ts
  terminal 2:  bun run scripts/udp-echo-client.ts
`;

import { formatAddress } from "../lib/address.ts";
import { cli, clientFlags, fail, peerText, print } from "../lib/cli.ts";
import { datagram } from "../lib/datagram.ts";
import { SocketError } from "../lib/errors.ts";

const { host, port, message, timeout, tries, signal } = cli(help, {
  ...clientFlags(4000),
  message: { type: "string", about: "send this instead of asking" },
  timeout: { type: "seconds", default: 1, min: 0.001, about: "wait so long, then send again" },
  tries: { type: "count", default: 5, min: 1, about: "send so often, then give up" },
});

/** Errors that mean a lost datagram; all others end the script. */
const LOST = ["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "ENOBUFS"];

// With a peer, the kernel drops datagrams from other addresses. Nothing is sent yet.
using socket = await datagram({ peer: { host, port } });
const name = formatAddress({ host, port });
signal.addEventListener("abort", () => process.exit(0)); // there is nothing to finish

if (message !== undefined) await ask(message);
else {
  if (process.stdin.isTTY) console.error(`asking ${name}: type lines, an empty one ends`);
  for await (const line of console) {
    if (line === "") break;
    await ask(line);
  }
}

async function ask(line: string): Promise<void> {
  const bytes = Buffer.from(line);
  let reason = "";
  // An error about an earlier datagram does not end the script: the server may have started since.
  const lost = (error: unknown) => {
    if (!(error instanceof SocketError) || !LOST.includes(error.code)) throw error;
    if (error.code === "ECONNREFUSED") reason = ", nobody listens there";
  };
  for (let sent = 0; sent < tries; sent++) {
    reason = "";
    const late = AbortSignal.timeout(timeout * 1000);
    try {
      await socket.send(bytes).catch(lost);
      for (;;) {
        const reply = await socket.recv(undefined, { signal: late }).catch(lost);
        // Another datagram is a late reply to an earlier line, which was sent twice and answered twice.
        if (reply?.equals(bytes)) return await print(`>${peerText(String(reply))}`);
      }
    } catch (error) {
      if (error !== late.reason) throw error;
    }
  }
  await fail(`no answer from ${name}, asked ${tries} times${reason} (is the server running?)`);
}
