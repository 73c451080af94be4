// `relay` joins two connections, as a proxy or a balancer does. The PROXY protocol tells the server behind a proxy
// the address of the client; without it, the server sees the proxy's address.
//
// Sections in the comments are those of
// https://github.com/haproxy/haproxy/blob/master/doc/proxy-protocol.txt.

import { type Address, asWritten, isNumeric } from "./address.ts";
import { SocketError } from "./errors.ts";
import type { Socket } from "./socket.ts";
import { POLLERR, POLLNVAL } from "./socket/readiness.ts";
import { nextTurn } from "./socket/turn.ts";

// ---- the relay

/** What `relay` uses of a connection. */
export type Relayed = AsyncIterable<Uint8Array> &
  Pick<Socket, "remoteAddress" | "closed" | "sendAll" | "shutdown" | "reset" | "poll">;

/** After a reset on one side, the other side has this many ms to take what was received before it. */
const LAST_WORDS_MS = 500;

/**
 * Passes bytes from `a` to `b` and from `b` to `a`, with back-pressure. A FIN is passed on as a FIN, and the other
 * direction goes on. A reset is passed on as a reset, after the bytes that came before it, at the latest half a
 * second later.
 *
 * Resolves when both directions have ended, with the error if a connection broke. It never rejects. The caller
 * closes the connections.
 *
 * @example
 * using client = await server.accept();
 * using backend = await connect(elsewhere);
 * await relay(client, backend);
 */
export async function relay(a: Relayed, b: Relayed): Promise<Error | undefined> {
  const { promise: broken, resolve: breakNow } = Promise.withResolvers<Error>();
  // When sending to a side fails, bytes that it sent before may still be on their way: wait for them.
  const breakSoon = (why: Error) => void setTimeout(breakNow, LAST_WORDS_MS, why).unref();
  const pass = async (from: Relayed, to: Relayed) => {
    try {
      for await (const chunk of from) await to.sendAll(chunk);
      to.shutdown("write");
    } catch (why: any) {
      (why.syscall === "send" ? breakSoon : breakNow)(why);
      await broken;
    }
  };
  // Also notices a reset while nothing is received: because the other side does not read, or after a FIN.
  for (const side of [a, b]) {
    side.closed.then(() => {
      const state = side.poll();
      if (!(state & (POLLERR | POLLNVAL))) return; // a normal end
      const code = state & POLLERR ? "ECONNRESET" : "EBADF";
      breakSoon(new SocketError(code, "recv", side.remoteAddress));
    });
  }
  const ended = Promise.all([pass(a, b), pass(b, a)]).then(() => undefined);
  const why = await Promise.race([ended, broken]);
  if (why === undefined) return undefined;
  await nextTurn(); // what came in this turn may have been gathered: it goes first
  [a, b].forEach((side) => side.reset());
  return why;
}

// ---- the PROXY protocol, as bytes

/** What a proxy says about a connection, before the client's first byte. */
export interface ProxyHeader {
  /**
   * The client's address, and the proxy's address that it connected to. Null for a connection of the proxy's
   * own (LOCAL, a health check), and for one that is unknown or not TCP over IP.
   */
  source: Address | null;
  destination: Address | null;
  /** Further values of version 2 by their type, PP2_TYPE_… in section 2.2. */
  tlvs?: ReadonlyMap<number, Buffer>;
}

/** The type of the value that identifies a connection: PP2_TYPE_UNIQUE_ID. */
export const UNIQUE_ID = 0x05;

const LINE = Buffer.from("PROXY ");
const MAX_LINE = 107;
const SIGNATURE = Buffer.from("\r\n\r\n\0\r\nQUIT\n");
const MAX_HEADER = 4096; // the protocol allows 65,551 bytes; real ones have a few hundred
// After the signature: version and command, family and transport.
const [LOCAL, PROXY, TCP4, TCP6] = [0x20, 0x21, 0x11, 0x21];

/**
 * Encodes a PROXY header: a line of text in version 1, without TLVs; binary in version 2. An IPv4 address beside
 * an IPv6 one is written as `::ffff:…`. The address of a Unix-domain socket is left out.
 *
 * @example
 * const source = { host: "192.0.2.7", port: 56324 };
 * const destination = { host: "192.0.2.1", port: 443 };
 * String(encodeProxyHeader({ source, destination }, 1)); // "PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n"
 */
export function encodeProxyHeader(header: ProxyHeader, version: 1 | 2 = 2): Buffer {
  const { source, destination, tlvs = [] } = header;
  const ends = [source, destination].filter((end) => end && isNumeric(end.host)) as Address[];
  if (ends.length < 2) {
    if (version === 1) return Buffer.from("PROXY UNKNOWN\r\n");
    return Buffer.from([...SIGNATURE, source === null ? LOCAL : PROXY, 0, 0, 0]);
  }
  const is6 = ends.some(({ host }) => host.includes(":"));
  const hosts = ends.map(({ host }) => (is6 ? ipv6(host) : host));
  const ports = ends.map(({ port }) => port);
  if (version === 1) {
    return Buffer.from(`PROXY TCP${is6 ? 6 : 4} ${hosts.join(" ")} ${ports.join(" ")}\r\n`);
  }
  const values = [...tlvs].flatMap(([type, value]) => [type, ...word(value.length), ...value]);
  const block = [...hosts.flatMap(ipBytes), ...ports.flatMap(word), ...values];
  return Buffer.from([...SIGNATURE, PROXY, is6 ? TCP6 : TCP4, ...word(block.length), ...block]);
}

/**
 * Decodes the PROXY header, of either version, at the beginning of `bytes`, with its `length`; null while it is
 * incomplete. Throws an `Error` with the reason as soon as the header is known to be wrong.
 *
 * @example
 * decodeProxyHeader(Buffer.from("PROXY UNKNOWN\r\nhello"))?.length; // 15
 */
export function decodeProxyHeader(bytes: Uint8Array): Decoded | null {
  const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  if (beginsLike(data, LINE)) return decodeLine(data);
  if (beginsLike(data, SIGNATURE)) return data.length < 16 ? null : decodeBinary(data);
  throw new Error("no PROXY header came first");
}

type Decoded = ProxyHeader & { length: number };

// Section 2.1.
function decodeLine(data: Buffer): Decoded | null {
  const end = data.subarray(0, MAX_LINE).indexOf("\r\n");
  if (end < 0 && data.length < MAX_LINE) return null;
  const line = data.toString("latin1", 0, Math.max(end, 0));
  const length = end + 2;
  if (/^PROXY UNKNOWN( |$)/.test(line)) return { source: null, destination: null, length };
  const form = /^PROXY TCP([46]) ([\da-fA-F:.]+) ([\da-fA-F:.]+) (0|[1-9]\d*) (0|[1-9]\d*)$/;
  const [, family, from = "", to = "", ...ports] = line.match(form) ?? [];
  const [source, destination] = [from, to].map((host, i) => {
    const isRight = isNumeric(host) && host.includes(":") === (family === "6");
    if (!isRight || Number(ports[i]) > 65_535) throw new Error("its PROXY line is none");
    return { host: ipText(ipBytes(host)), port: Number(ports[i]) };
  });
  return { source: source!, destination: destination!, length };
}

// Section 2.2.
function decodeBinary(data: Buffer): Decoded | null {
  const [command, kind] = [data[12]!, data[13]!];
  const length = 16 + data.readUInt16BE(14);
  const end = [16, 28, 52, 232][kind >> 4]; // of the addresses, by family
  // What follows LOCAL is ignored, the family too.
  const isKnown = command === LOCAL || (command === PROXY && end !== undefined && (kind & 15) < 3);
  if (!isKnown) throw new Error("its PROXY header is of no known version, command or family");
  if (length > MAX_HEADER) throw new Error(`its PROXY header has more than ${MAX_HEADER} bytes`);
  if (command === PROXY && length < end!) throw new Error("its PROXY header ends in an address");
  if (data.length < length) return null;
  const isTcp = command === PROXY && (kind === TCP4 || kind === TCP6);
  if (!isTcp) return { source: null, destination: null, length }; // Unix-domain sockets, datagrams
  const size = (end! - 16 - 4) / 2;
  const [source, destination] = [0, 1].map((i) => ({
    host: ipText(data.subarray(16 + i * size, 16 + (i + 1) * size)),
    port: data.readUInt16BE(end! - 4 + 2 * i),
  }));
  const tlvs = new Map<number, Buffer>();
  for (let at = end!; at < length;) {
    const next = at + 3 <= length ? at + 3 + data.readUInt16BE(at + 1) : Infinity;
    if (next > length) throw new Error("its PROXY header ends in a value");
    tlvs.set(data[at]!, data.subarray(at + 3, next));
    at = next;
  }
  return { source: source!, destination: destination!, tlvs, length };
}

function beginsLike(data: Buffer, mark: Buffer): boolean {
  return data.subarray(0, mark.length).equals(mark.subarray(0, data.length));
}

function word(number: number): number[] {
  return [number >> 8, number & 255];
}

/** An IPv6 address in its shortest form (RFC 5952), without scope; an IPv4 one as `::ffff:…`. */
function ipv6(host: string): string {
  const long = host.includes(":") ? host.replace(/%.*/, "") : `::ffff:${host}`;
  return new URL(`http://[${long}]`).hostname.slice(1, -1);
}

function ipBytes(host: string): number[] {
  if (!host.includes(":")) return host.split(".").map(Number);
  const halves = ipv6(host).split("::");
  const [head = [], tail = []] = halves.map((half) => half.split(":").filter(Boolean));
  const zeros = Array<string>(8 - head.length - tail.length).fill("0");
  return [...head, ...zeros, ...tail].flatMap((digits) => word(parseInt(digits, 16)));
}

function ipText(bytes: ArrayLike<number>): string {
  const all = Buffer.from(bytes);
  if (all.length === 4) return all.join(".");
  const text = ipv6(all.toString("hex").replace(/.{4}(?=.)/g, "$&:"));
  return /^::ffff:[^:]+:[^:]+$/.test(text) ? all.subarray(12).join(".") : text;
}

// ---- the PROXY protocol, on a connection

/** What `acceptProxyHeader` uses of a connection. */
export type Proxied = Pick<Socket, "remoteAddress" | "recv" | "unrecv" | "cameFrom">;

/** How long a header may take, in ms: "a few seconds (at least 3)", section 2. */
const HEADER_MS = 5_000;

/**
 * Receives the PROXY header at the beginning of a connection, and nothing after it. From then on the
 * connection has the client's address as its `remoteAddress`.
 *
 * Anybody can claim an address in such a header, so use it only for servers that only a proxy can reach. Rejects
 * with `SocketError` `EPROTO` if the connection does not begin with a valid header within 5 s, and as `recv` does.
 *
 * @example
 * await acceptProxyHeader(conn);
 * conn.remoteAddress.host; // "192.0.2.7"
 */
export async function acceptProxyHeader(conn: Proxied): Promise<Decoded> {
  const signal = AbortSignal.timeout(HEADER_MS);
  let came = Buffer.alloc(0);
  try {
    for (;;) {
      const chunk = await conn.recv(MAX_HEADER, { signal });
      if (chunk.length === 0) throw new Error("it ended before its PROXY header did");
      came = Buffer.concat([came, chunk]);
      const header = decodeProxyHeader(came);
      if (header === null) continue;
      conn.unrecv(came.subarray(header.length));
      const { source, destination } = header;
      const host = source && asWritten(source.host, "", destination!.host);
      if (host) conn.cameFrom({ ...source, host });
      return header;
    }
  } catch (error) {
    if (error instanceof SocketError) throw error;
    const late = `no PROXY header within ${HEADER_MS / 1000} s`;
    const reason = signal.aborted ? late : (error as Error).message;
    throw new SocketError("EPROTO", "accept", conn.remoteAddress, { reason });
  }
}
