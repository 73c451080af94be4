const help = `
Message client: sends messages of very different sizes, all at once, and checks that the same ones
come back, one by one. On the way they may be split and joined: the framing finds them again.
Documented in tutorial 003, "Using a Socket" (MySocket).

  terminal 1:  bun run scripts/message-server.ts
  terminal 2:  bun run scripts/message-client.ts
`;

import { cli, clientFlags, clientTls, fail, print, tlsClientFlags } from "../lib/cli.ts";
import { delimited, fixedLength, lengthPrefixed, messages, sendMessage } from "../lib/framing.ts";
import { connect } from "../lib/socket.ts";

const { host, port, framing, bytes, message, signal, ...flags } = cli(help, {
  ...clientFlags(5001),
  ...tlsClientFlags,
  framing: {
    type: "choice",
    choices: ["fixed", "delimited", "length"],
    default: "length",
    about: "as the server has it: a fixed length, a newline at the end, or the length in front",
  },
  bytes: { type: "count", default: 16, min: 1, max: 1 << 20, about: "the fixed length" },
  message: { type: "string", about: "send this one instead" },
});
const framings = { fixed: fixedLength(bytes), delimited: delimited(), length: lengthPrefixed() };

const texts = message === undefined ? ["hello", "", "안녕하세요", "x".repeat(100_000)] : [message];
// With a fixed length, short messages are padded with blanks, and longer ones cannot be sent.
const outgoing = texts
  .map((text) => Buffer.from(text))
  .map((text) => (framing === "fixed" ? fill(text) : text))
  .filter((text) => message !== undefined || framing !== "fixed" || text.length === bytes);

using conn = await connect({ host, port, signal, tls: clientTls(flags) });
const incoming = messages(conn, framings[framing]);
// Receive while we send: otherwise the buffers of both directions could fill up, and both sides would wait
// for ever.
const sending = Promise.all(outgoing.map((text) => sendMessage(conn, framings[framing], text)));
sending.catch(fail);

for (const sent of outgoing) {
  const { value: reply } = await incoming.next();
  if (!reply) await fail("the server has closed the connection");
  else if (!reply.equals(sent)) await fail("a different message came back");
  const bytes = sent.length === 1 ? "1 byte" : `${sent.length} bytes`;
  print(`${bytes} there and back: ${JSON.stringify([...String(sent)].slice(0, 30).join(""))}`);
}

function fill(text: Buffer): Buffer {
  return Buffer.concat([text, Buffer.alloc(Math.max(0, bytes - text.length), " ")]);
}
