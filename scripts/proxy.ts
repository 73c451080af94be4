const help = `
TCP proxy: every client gets a connection of its own to another server, and what either of the two sends
reaches the other: bytes as they are, ends and resets as what they are. It tells of each that has ended.
Goes on where the tutorials stop: a server that is a client, too.

  terminal 1:  bun run scripts/echo-threaded-server.ts
  terminal 2:  bun run scripts/proxy.ts --to 127.0.0.1:4000
  terminal 3:  bun run scripts/echo-loop-client.ts --port 4040
`;

import { type Address, formatAddress } from "../lib/address.ts";
import {
  cli,
  clientTls,
  describe,
  print,
  refuse,
  serverFlags,
  serverTls,
  tlsClientFlags,
  tlsFlags,
  warn,
} from "../lib/cli.ts";
import { acceptProxyHeader, encodeProxyHeader, relay } from "../lib/relay.ts";
import { affordable, limitFlags, serve } from "../lib/serve.ts";
import { connect, listen, type Socket } from "../lib/socket.ts";

/** How long a back-end may take to answer, in ms. Its client waits as long. */
const CONNECT_MS = 10_000;

const { host, port, to, sendProxy, acceptProxy, signal, ...flags } = cli(help, {
  ...serverFlags(4040),
  ...tlsFlags,
  ...limitFlags,
  to: { type: "string", about: "HOST:PORT of the server behind: needed" },
  toTls: { type: "boolean", about: "speak TLS with it" },
  toCa: tlsClientFlags.tlsCa,
  sendProxy: {
    type: "choice",
    choices: ["off", "v1", "v2"],
    default: "off",
    about: "tell it who the client is, in a PROXY header",
  },
  acceptProxy: {
    type: "boolean",
    about:
      "a proxy is in front, and says in a PROXY header who the client is; who has none is refused",
  },
});
if (to === undefined) refuse("--to is missing: HOST:PORT of the server behind (see --help)");
const [, ip6, name, number] = to.match(/^(?:\[(.+)\]|([^:]+)):(\d{1,5})$/) ?? [];
const backend = { host: ip6 ?? name!, port: Number(number) };
if (!(backend.port > 0 && backend.port < 65_536)) refuse(`--to must be HOST:PORT, not "${to}"`);

const toTls = clientTls({ tls: flags.toTls, tlsCa: flags.toCa });
const tls = serverTls(flags);
// A PROXY header stands before TLS, in clear; here TLS comes first.
if (acceptProxy && tls) refuse("--accept-proxy cannot be combined with --tls-cert");
if (sendProxy !== "off" && toTls)
  refuse("--send-proxy cannot be combined with --to-tls or --to-ca");

using server = listen({ host, port, signal, tls });
print(`listening on ${formatAddress(server.address)}`);
const most = Math.floor((await affordable(Infinity)) / 2); // a connection takes two descriptors
const maxConnections = Math.min(flags.maxConnections, most);
await serve(server, pass, { ...flags, maxConnections, onError: warn });

async function pass(client: Socket): Promise<void> {
  const began = performance.now();
  let [headerBytes, how] = [0, "ended"];
  try {
    // A proxy before us has told who its client is, and where that one connected to.
    let destination: Address | null = client.localAddress;
    if (acceptProxy) ({ destination, length: headerBytes } = await acceptProxyHeader(client));
    using behind = await connect({ ...backend, timeout: CONNECT_MS, tls: toTls });
    if (sendProxy !== "off") {
      const ends = {
        source: client.remoteAddress,
        destination: destination ?? client.localAddress,
      };
      await behind.sendAll(encodeProxyHeader(ends, sendProxy === "v1" ? 1 : 2));
    }
    const broken = await relay(client, behind);
    if (broken !== undefined) how = describe(broken);
  } catch (error) {
    how = describe(error);
    client.reset(); // nobody is behind: it must not look like an end
  }
  const ends = `${formatAddress(client.remoteAddress)} to ${formatAddress(backend)}`;
  const there = `${client.bytesReceived - headerBytes} bytes there`;
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  await print(`${ends}: ${there}, ${client.bytesSent} back, ${seconds} s, ${how}`);
}
