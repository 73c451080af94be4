const help = `
HTTP server by hand: reads a request head over a raw socket and answers with a small page.
Documented in tutorial 003, "Creating a Socket" and "Disconnecting".

  terminal 1:  bun run scripts/http-server.ts
  terminal 2:  bun run scripts/http-client.ts              (or curl -i http://127.0.0.1:8000/)

The tutorial names three ways to serve many clients: threads (as echo-threaded-server does), sockets
that do not block (this script), and select (as select-server does). Its code for threads calls ct.run(), which
runs in the thread that accepts; ct.start() was meant.
`;

import { formatAddress } from "../lib/address.ts";
import { cli, print, serverFlags, serverTls, tlsFlags, warn } from "../lib/cli.ts";
import { limitFlags, logFlags, proxyFlags, serve } from "../lib/serve.ts";
import { listen, type Socket } from "../lib/socket.ts";

const MAX_HEAD = 16 * 1024;
const HEAD_SECONDS = 10; // for the whole head: sending a byte now and then does not extend it
const LINGER_MS = 1_000;

const { host, port, signal, ...flags } = cli(help, {
  ...serverFlags(8000),
  ...tlsFlags,
  ...limitFlags,
  ...logFlags,
  ...proxyFlags,
});
using server = listen({ host, port, signal, tls: serverTls(flags) });
print(`listening on ${formatAddress(server.address)}`);
await serve(server, answer, { ...flags, signal, onError: warn });

async function answer(conn: Socket): Promise<void> {
  const seconds = Math.min(HEAD_SECONDS, flags.idleTimeout || HEAD_SECONDS);
  const tooLate = AbortSignal.timeout(seconds * 1000);
  const head = await receiveHead(conn, tooLate);
  if (head === "") return; // a browser opens spare connections, and closes them unused
  await conn.sendAll(reply(head, tooLate.aborted));

  // close() while the client still sends, for example the body of a POST, would reset the connection, and
  // the client could lose the reply. So we send FIN first, and receive for a moment what it sends.
  conn.shutdown("write");
  const enough = { signal: AbortSignal.timeout(LINGER_MS) };
  while ((await conn.recv(65_536, enough).catch(() => "")).length > 0);
}

// Receives up to the empty line after the head; less if the client ends before it, or takes too long. An
// empty line before the request is dropped: RFC 9112, section 2.2.
async function receiveHead(conn: Socket, tooLate: AbortSignal): Promise<string> {
  let head = "";
  while (!head.includes("\r\n\r\n") && head.length <= MAX_HEAD) {
    const chunk = await conn.recv(4096, { signal: tooLate }).catch((error: unknown) => {
      if (tooLate.aborted) return Buffer.alloc(0);
      throw error;
    });
    if (chunk.length === 0) break;
    // In latin1 every byte is one character, so the chunk may end anywhere.
    head = (head + chunk.toString("latin1")).replace(/^(\r\n)+/, "");
  }
  return head;
}

function reply(received: string, tooLate: boolean): string {
  const end = received.indexOf("\r\n\r\n");
  if (end > MAX_HEAD || (end < 0 && received.length > MAX_HEAD)) {
    return page("431 Request Header Fields Too Large", `The limit is ${MAX_HEAD} bytes.`);
  }
  if (end < 0 && tooLate) return page("408 Request Timeout", "The request took too long.");
  const [request = "", ...fields] = received.slice(0, end).split("\r\n");
  const [, method, version] = request.match(/^([!-~]+) [!-~]+ HTTP\/1\.([01])$/) ?? [];
  const field = /^[!#$%&'*+.^_`|~\w-]+:[^\0\r\n]*$/; // RFC 9112, section 5
  const hosts = fields.filter((line) => /^host:/i.test(line));
  const hasHost = hosts.length === 1 || (hosts.length === 0 && version === "0"); // section 3.2
  if (end < 0 || method === undefined || !hasHost || !fields.every((line) => field.test(line))) {
    return page("400 Bad Request", "That was no HTTP request.");
  }
  if (method !== "GET" && method !== "HEAD") {
    return page("405 Method Not Allowed", `${method} is not for here.`, "Allow: GET, HEAD\r\n");
  }
  const head = Buffer.from(received.slice(0, end), "latin1"); // as it came
  const answer = page("200 OK", `This server received:\n\n${head}`);
  return method === "GET" ? answer : answer.slice(0, answer.indexOf("\r\n\r\n") + 4);
}

function page(status: string, text: string, more = ""): string {
  const body = `<!doctype html>\n<title>${status}</title>\n<pre>${Bun.escapeHTML(text)}</pre>\n`;
  const type = "Content-Type: text/html; charset=utf-8";
  const length = `Content-Length: ${Buffer.byteLength(body)}`;
  return `HTTP/1.1 ${status}\r\n${type}\r\n${length}\r\n${more}Connection: close\r\n\r\n${body}`;
}
