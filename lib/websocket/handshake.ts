// The opening handshake, RFC 6455, section 4: an HTTP/1.1 request and its answer. After that, the
// connection no longer speaks HTTP.

import type { SocketError } from "../errors.ts";
import { delimited, messages } from "../framing.ts";
import type { Socket } from "../socket.ts";

const MAX_HEAD = 16 * 1024;
const HEAD_MS = 10_000; // for the whole head, so that a client that sends a byte now and then gains nothing
const DRAIN_MS = 1_000;

// RFC 9112, sections 3 to 5: the first line, and fields.
const REQUEST = /^([!-~]+) ([!-~]+) HTTP\/1\.1(?:\r\n[!#$%&'*+.^_`|~\w-]+:[^\0\r\n]*)*$/;
const ANSWER = /^HTTP\/1\.1 (\d{3}[ -~]*)/;

/**
 * Receives the head of a request or an answer, and leaves the bytes after it on the socket. Gives "" if
 * nothing comes before EOF, "EINCOMPLETE" for a head that is cut off, and "EMSGSIZE" for one that is too long.
 */
export async function receiveHead(conn: Socket): Promise<string> {
  const tooSlow = setTimeout(() => conn.endReceiving(), HEAD_MS);
  try {
    const heads = messages(conn, delimited("\r\n\r\n", { maxBytes: MAX_HEAD }));
    return (await heads.next()).value?.toString("latin1") ?? "";
  } catch (error) {
    const { code } = error as SocketError;
    if (code === "EMSGSIZE" || code === "EINCOMPLETE") return code;
    throw error;
  } finally {
    clearTimeout(tooSlow);
  }
}

export interface Policy {
  /** Other sites whose pages may connect, as `https://example.com`. Pages of this host always may. */
  origins?: string[];
  /** The page at a path, as HTML, for requests that are not for a WebSocket. Without it they get 426. */
  page?: (path: string) => string | undefined;
}

export const SWITCHED = "HTTP/1.1 101 Switching Protocols\r\n";

/** The answer to a request: `SWITCHED` and its fields, a page, or a refusal. */
export function answerTo(head: string, { origins = [], page }: Policy): string {
  const [, method, path] = REQUEST.exec(head) ?? [];
  const host = fieldOf(head, "host");
  if (head === "EMSGSIZE") return answer("431 Request Header Fields Too Large");
  if (path === undefined || !/^[^ ,]+$/.test(host)) return answer("400 Bad Request");
  if (method !== "GET") return answer("405 Method Not Allowed", "Allow: GET\r\n");
  const wantsPage = !holds(head, "upgrade", "websocket");
  const text = wantsPage ? page?.(path) : undefined;
  if (text !== undefined) return answer("200 OK", "", text);
  if (wantsPage || fieldOf(head, "sec-websocket-version") !== "13") {
    return answer("426 Upgrade Required", `Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n`);
  }
  const key = fieldOf(head, "sec-websocket-key");
  const isWhole = holds(head, "connection", "upgrade") && /^[A-Za-z\d+/]{22}==$/.test(key);
  if (!isWhole) return answer("400 Bad Request");
  // Only browsers send an Origin, and no page can change it.
  const origin = fieldOf(head, "origin");
  const isOurs = origin === "" || URL.parse(origin)?.host === host || origins.includes(origin);
  if (!isOurs) return answer("403 Forbidden");
  const fields = `Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${proofOf(key)}`;
  return `${SWITCHED}${fields}\r\n\r\n`;
}

function answer(status: string, fields = "", body = `${status}\n`): string {
  const type = `Content-Type: text/html; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}`;
  return `HTTP/1.1 ${status}\r\n${fields}${type}\r\nConnection: close\r\n\r\n${body}`;
}

/** Why an answer does not open a WebSocket; null if it does. */
export function refusedBy(head: string, key: string): string | null {
  const status = ANSWER.exec(head)?.[1];
  if (status === undefined) return "it does not speak HTTP/1.1";
  if (!status.startsWith("101")) return `it answers ${status}`;
  const switches = holds(head, "upgrade", "websocket") && holds(head, "connection", "upgrade");
  const isMeant = fieldOf(head, "sec-websocket-accept") === proofOf(key);
  const unasked = /^sec-websocket-(extensions|protocol):/im.test(head);
  return switches && isMeant && !unasked ? null : "its answer opens no WebSocket";
}

// The value of Sec-WebSocket-Accept: RFC 6455, section 4.2.2.
function proofOf(key: string): string {
  const all = `${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`;
  return new Bun.CryptoHasher("sha1").update(all).digest("base64");
}

function fieldOf(head: string, name: string): string {
  const values = head.matchAll(new RegExp(`^${name}:(.*)$`, "gim"));
  return [...values].map(([, value]) => value!.trim()).join(", ");
}

function holds(head: string, name: string, word: string): boolean {
  const words = fieldOf(head, name).toLowerCase().split(",");
  return words.some((other) => other.trim() === word);
}

/** Receives and drops what still comes, for up to 1 s: a close with unread data would send a reset. */
export async function drain(conn: Socket): Promise<void> {
  const signal = AbortSignal.timeout(DRAIN_MS);
  while ((await conn.recv(65_536, { signal }).catch(() => "")).length > 0);
}
