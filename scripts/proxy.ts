const help = `
TCP proxy: opens a connection to another server for each client, and passes everything on both ways: bytes, FINs
and resets. When a connection has ended it prints a line about it.
It goes on where the tutorials stop: a server that is also a client.

  terminal 1:  bun run scripts/echo-threaded-server.ts
  terminal 2:  bun run scripts/proxy.ts --to 127.0.0.1:4000
  terminal 3:  bun run scripts/echo-loop-client.ts --port 4040
`;

import { formatAddress } from "../lib/address.ts";
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
import { limitFlags, logFlags, proxyFlags, serve } from "../lib/serve.ts";
import { connect, listen, type Socket } from "../lib/socket.ts";

/** How long connecting to the server behind may take, in ms. */
const CONNECT_MS = 10_000;

const { host, port, to, sendProxy, signal, ...flags } = cli(help, {
  ...serverFlags(4040),
  ...tlsFlags,
  ...limitFlags,
  ...logFlags,
  ...proxyFlags,
  to: { type: "string", takes: "HOST:PORT", about: "the server behind: needed" },
  toTls: { ...tlsClientFlags.tls, about: "speak TLS to it" },
  toCa: { ...tlsClientFlags.tlsCa, about: "speak TLS to it, and trust this authority (PEM)" },
  sendProxy: {
    type: "choice",
    choices: ["off", "v1", "v2"],
    default: "off",
    about: "tell it who the client is, in a PROXY header",
  },
});
if (to === undefined) refuse("--to is missing: HOST:PORT of the server behind (see --help)");
const [, ip6, name, number] = to.match(/^(?:\[(.+)\]|([^:]+)):(\d{1,5})$/) ?? [];
const backend = { host: ip6 ?? name!, port: Number(number) };
if (!(backend.port > 0 && backend.port < 65_536)) refuse(`--to must be HOST:PORT, not "${to}"`);
const tls = clientTls({ tls: flags.toTls, tlsCa: flags.toCa });

using server = listen({ host, port, signal, tls: serverTls(flags) });
print(`listening on ${formatAddress(server.address)}`);
// A connection takes two descriptors. `pass` reads the PROXY header itself, to pass its addresses on.
const options = { ...flags, descriptors: 2, acceptProxy: false };
const told = new WeakSet<object>(); // errors that the line about their connection has named
const onError = (error: unknown) => void (told.has(Object(error)) || warn(error));
await serve(server, pass, { ...options, signal, onError });

async function pass(client: Socket): Promise<void> {
  const began = performance.now();
  let [headerBytes, there] = [0, 0];
  let broken: unknown;
  try {
    // The addresses of a PROXY header from a proxy before us are passed on.
    const ends = { source: client.remoteAddress, destination: client.localAddress };
    if (flags.acceptProxy) {
      const { source, destination, length } = await acceptProxyHeader(client);
      if (source !== null) Object.assign(ends, { source, destination });
      headerBytes = length;
    }
    const preface =
      sendProxy === "off" ? undefined : encodeProxyHeader(ends, sendProxy === "v1" ? 1 : 2);
    using behind = await connect({ ...backend, timeout: CONNECT_MS, tls, preface });
    broken = await relay(client, behind);
    there = client.bytesReceived - headerBytes;
  } catch (error) {
    broken = error;
  }
  const ends = `${formatAddress(client.remoteAddress)} to ${formatAddress(backend)}`;
  const how = broken === undefined ? "ended" : describe(broken);
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  await print(`${ends}: ${there} bytes there, ${client.bytesSent} back, ${seconds} s, ${how}`);
  if (broken === undefined) return;
  told.add(Object(broken));
  throw broken; // serve resets the client, since a FIN would look like a normal end; --log says why
}
