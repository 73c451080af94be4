const help = `
Byte order: the bytes of a number in this machine's order and in network order, and how each arrives at the
other end of a socket.
Documented in tutorial 003, "Binary Data".

  terminal 1:  bun run scripts/byte-order.ts
  terminal 2:  bun run scripts/byte-order.ts --number 258    (it needs no partner: try another number)
`;

import { endianness } from "node:os";

import { htonl, htons, ntohl } from "../lib/byteorder.ts";
import { cli, print, refuse } from "../lib/cli.ts";
import { socketpair } from "../lib/socket.ts";

const { number } = cli(help, {
  number: { type: "count", default: 1, min: 0, about: "a number of at most 32 bits" },
});
if (number > 0xffff_ffff) refuse(`--number must fit 32 bits, not "${number}"`);

// The bytes of a number in this machine's memory.
const inMemory = (long: number) => Buffer.from(Uint32Array.of(long).buffer);
const hex = (bytes: Buffer) => bytes.toString("hex").replace(/..(?=.)/g, "$& ");

print(`this machine is ${endianness() === "LE" ? "little" : "big"}-endian`);
if (number <= 0xffff) {
  const short = (value: number) => hex(Buffer.from(Uint16Array.of(value).buffer));
  print(`${number} in 16 bits: host order ${short(number)}, network order ${short(htons(number))}`);
}
print(
  `${number} in 32 bits: host order ${hex(inMemory(number))}, network order ${hex(inMemory(htonl(number)))}`,
);

using ends = await socketpair();
const { near, far } = ends;

// One way in network order: a receiver on any machine gets the number that was sent.
await near.sendAll(inMemory(htonl(number)));
const there = await far.recvExactly(4);
print(`sent with htonl: ${hex(there)} on the wire, read with ntohl: ${ntohl(wordOf(there))}`);

// Back in the order of this machine: a receiver with the other order gets a different number.
await far.sendAll(inMemory(number));
const back = await near.recvExactly(4);
print(`sent without:    ${hex(back)} on the wire, read in network order: ${back.readUInt32BE()}`);

// Text has no byte order, and a small number is shorter as text. But its length varies, so the receiver
// needs another way to know where it ends: here EOF.
await near.sendAll(String(number));
near.shutdown("write");
const text = await far.recv(10);
print(
  `sent as text:    ${hex(text)} on the wire, ${text.length} ${text.length === 1 ? "byte" : "bytes"} instead of 4`,
);

function wordOf(bytes: Buffer): number {
  return new Uint32Array(Uint8Array.from(bytes).buffer)[0]!;
}
