const help = `
HTTP client by hand: sends a GET over a raw socket, shuts down its sending side, and reads the reply until
EOF. The body goes to stdout, the status to stderr.
Documented in tutorial 003, "Creating a Socket" and "Disconnecting".

  terminal 1:  bun run scripts/http-server.ts
  terminal 2:  bun run scripts/http-client.ts --path /hello
`;

import { formatAddress } from "../lib/address.ts";
import { cli, clientFlags, clientTls, fail, refuse, tlsClientFlags, write } from "../lib/cli.ts";
import { connect } from "../lib/socket.ts";

const MAX_HEAD = 64 * 1024;
const END = "\r\n\r\n";

const { host, port, path, signal, ...flags } = cli(help, {
  ...clientFlags(8000),
  ...tlsClientFlags,
  path: { type: "string", default: "/", about: "what to get" },
});
if (!path.startsWith("/")) refuse(`--path must begin with /, not "${path}"`);
// A path in a request is ASCII without blanks; everything else is percent-encoded, as browsers do it.
const target = path.replace(/[^!-~]+/g, encodeURIComponent);

using conn = await connect({ host, port, signal, tls: clientTls(flags) });
const name = formatAddress({ host, port });
// HTTP/1.0: the body comes as it is, without the chunked encoding of HTTP/1.1, and ends at EOF.
await conn.sendAll(`GET ${target} HTTP/1.0\r\nHost: ${name}\r\nConnection: close\r\n\r\n`);
// shutdown(1) in the tutorial: we send no more, but still receive.
conn.shutdown("write");

let head = Buffer.alloc(0);
while (!head.includes(END) && head.length <= MAX_HEAD) {
  const chunk = await conn.recv(65_536);
  if (chunk.length === 0) break;
  head = Buffer.concat([head, chunk]);
}
const end = head.indexOf(END);
const [, status, code] = head.toString("latin1").match(/^HTTP\/\d\.\d ((\d{3})[^\r\n]*)/) ?? [];

if (end < 0 || status === undefined) await fail(`${name} did not answer in HTTP`);
console.error(status!.replace(/[^ -~]/g, "?")); // no control characters on our terminal

const body = head.subarray(end + END.length);
const length = head.toString("latin1", 0, end).match(/^content-length: *(\d+) *$/im)?.[1];
let received = body.length;
await write(body);
for await (const chunk of conn) {
  received += chunk.length;
  await write(chunk);
}
const hasBody = code !== "204" && code !== "304";
if (hasBody && received < Number(length)) await fail(`${name} sent ${received} of ${length} bytes`);
if (Number(code) >= 400) process.exitCode = 1;
