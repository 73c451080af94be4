const help = `
TLS: the bytes on the wire with it and without it. One process is the server, the client, and a proxy between them
that shows what it passes on. The same sentence goes there and back in clear text, then over TLS. Then the client
connects twice more: it expects another name, and then it does not know the certificate's authority. It refuses
both times.
It goes on where the tutorials stop: their programs send clear text.

  terminal 1:  bun run scripts/secure.ts
  terminal 2:  bun run scripts/secure.ts --trace           (it is all three itself)

The certificate is made for this one run, which is good for trying out only. For your own machine, openssl makes
one (openssl req -x509); real ones come from an authority.
`;

import { formatAddress } from "../lib/address.ts";
import { cli, print } from "../lib/cli.ts";
import { SocketError } from "../lib/errors.ts";
import { type ClientTls, connect, listen, type ServerSocket, type Socket } from "../lib/socket.ts";
import { makeCertificate } from "./secure/certificate.ts";

/** The first byte of a TLS record is its type: RFC 8446, section 5.1. */
const RECORDS = { 20: "change of keys", 21: "alert", 22: "handshake", 23: "ciphertext" };

const { message } = cli(help, {
  message: { type: "string", default: "the password is 12345", about: "the sentence" },
});

const { cert, key } = makeCertificate("localhost");
using plain = listen({ port: 0 });
using secure = listen({ port: 0, tls: { cert, key } });
secure.onRefused = () => {}; // the client prints the reason
for (const server of [plain, secure]) echo(server);

await talk("in clear", plain);
await talk("over TLS", secure, { ca: cert });
await talk("over TLS, to bank.example", secure, { ca: cert, serverName: "bank.example" });
await talk("over TLS, to somebody whom no known authority has signed for", secure, true);

async function talk(how: string, server: ServerSocket, tls?: true | ClientTls): Promise<void> {
  await print(`\n${how}:`);
  using wire = listen({ port: 0 });
  const watching = watch(wire, server);
  const started = performance.now();
  try {
    // The server's certificate and its name are checked before anything of ours is sent.
    using conn = await connect({ ...wire.address, tls });
    const ms = (performance.now() - started).toFixed(1);
    await print(`  client: connected in ${ms} ms${tls ? ", with the handshake" : ""}`);
    await conn.sendAll(message);
    const reply = await conn.recvExactly(Buffer.byteLength(message));
    await print(`  client: received ${JSON.stringify(String(reply))}`);
  } catch (error) {
    if (!(error instanceof SocketError)) throw error;
    await print(`  client: refuses ${formatAddress(error.address)}: ${error.reason ?? error.code}`);
  }
  await watching;
}

async function echo(server: ServerSocket): Promise<void> {
  for await (const conn of server) {
    for await (const chunk of conn) await conn.sendAll(chunk);
    conn.close();
  }
}

// The proxy between the two passes everything on and shows it. Anybody on the network path could run one.
async function watch(wire: ServerSocket, { address }: ServerSocket): Promise<void> {
  using client = await wire.accept();
  using server = await connect(address);
  const both = [pass(client, server, "client ->"), pass(server, client, "-> client")];
  await Promise.all(both).catch(() => {}); // a client that refuses resets the connection
}

async function pass(from: Socket, to: Socket, way: string): Promise<void> {
  for await (const chunk of from) {
    await print(`  wire:   ${way}  ${show(chunk)}`);
    await to.sendAll(chunk);
  }
  to.shutdown("write");
}

function show(bytes: Buffer): string {
  const kind = RECORDS[bytes[0] as keyof typeof RECORDS];
  const start = bytes
    .subarray(0, 16)
    .toString("hex")
    .replace(/..(?=.)/g, "$& ");
  if (kind === undefined) return JSON.stringify(String(bytes));
  return `${bytes.length} bytes: ${start}${bytes.length > 16 ? " …" : ""}  (${kind})`;
}
