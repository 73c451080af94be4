// WebSocket, RFC 6455, over an open connection: the opening handshake of both sides, messages in both
// directions, and the closing handshake.

import { formatAddress } from "./address.ts";
import { SocketError, type Syscall } from "./errors.ts";
import type { Socket } from "./socket.ts";
import { Inbox } from "./socket/queues.ts";
import type { Whole } from "./socket/receiving.ts";
import { checkCount } from "./socket/check.ts";
import * as frames from "./websocket/frames.ts";
import * as handshake from "./websocket/handshake.ts";

const CLOSE_MS = 2_000; // for the peer's part of the closing handshake
const GOING_AWAY = 1001;
const CUT_OFF = "it ended without a closing handshake";
const END: frames.Frame = { opcode: -1, payload: Buffer.alloc(0) }; // given at EOF

/** Text is a string, binary is bytes. */
export type Message = string | Buffer;

export interface Options {
  /** The longest message that is accepted. Default: 1 MiB. */
  maxBytes?: number;
  /** The signal from `serve`. After it, an end is no error, and the peer gets the code 1001, "going away". */
  signal?: AbortSignal;
}

/**
 * The server's side of the opening handshake. Gives null if no request came, or if it was not for a WebSocket
 * or refused, and has been answered; then the connection should be closed. It refuses requests that are not
 * HTTP (400) or too long (431), methods other than GET (405), other versions (426), and pages of other sites
 * (403): without the last check, any page in a user's browser could connect with the user's rights.
 *
 * Rejects as `recv` and `sendAll` do.
 *
 * @example
 * const socket = await acceptWebSocket(conn);
 * if (socket !== null) for await (const message of socket) await socket.send(message);
 */
export async function acceptWebSocket(
  conn: Socket,
  options: Options & handshake.Policy = {},
): Promise<WebSocketConnection | null> {
  const head = await handshake.receiveHead(conn);
  if (head === "") return null; // browsers open spare connections, and close them unused
  const answer = handshake.answerTo(head, options);
  await conn.sendAll(answer);
  if (answer.startsWith(handshake.SWITCHED)) return new WebSocketConnection(conn, true, options);
  conn.shutdown("write");
  await handshake.drain(conn);
  return null;
}

/**
 * The client's side of the opening handshake. `host` is the server's name and port as in a URL (default: the
 * address that `conn` is connected to), `path` the path of the URL (default: `/`).
 *
 * Rejects with `EPROTO` when the server refuses or does not speak WebSocket, with its answer in the error's
 * `reason`; and as `recv` and `sendAll` do.
 *
 * @example
 * const socket = await openWebSocket(conn);
 * await socket.send("hello");
 */
export async function openWebSocket(
  conn: Socket,
  options: Options & { host?: string; path?: string } = {},
): Promise<WebSocketConnection> {
  const { host = formatAddress(conn.remoteAddress), path = "/" } = options;
  if (!/^\/[!-~]*$/.test(path)) throw new TypeError(`not a path: ${Bun.inspect(path)}`);
  if (!/^[!-~]+$/.test(host)) throw new TypeError(`not a host: ${Bun.inspect(host)}`);
  const key = crypto.getRandomValues(Buffer.alloc(16)).toString("base64");
  await conn.sendAll(
    `GET ${path} HTTP/1.1\r\nHost: ${host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
      `Sec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
  );
  const reason = handshake.refusedBy(await handshake.receiveHead(conn), key);
  if (reason === null) return new WebSocketConnection(conn, false, options);
  throw new SocketError("EPROTO", "recv", conn.remoteAddress, { reason });
}

/**
 * Messages over a connection, for clients and servers. Pings are answered while a receive is under way. If
 * each `send` is awaited before the next receive, memory is bounded: nothing more is received from a peer that
 * does not take its replies.
 */
export class WebSocketConnection implements AsyncIterable<Message> {
  /** The peer's Close frame; the code is 1005 if the frame had none (RFC 6455, section 7.4). */
  peerClose: { readonly code: number; readonly reason: string } | null = null;
  readonly #conn: Socket;
  readonly #isServer: boolean;
  readonly #signal: AbortSignal | undefined;
  readonly #frame: Whole<frames.Frame>;
  #receiving: Promise<Message | null> | null = null;
  #over: Promise<void> | null = null;

  /** @internal Use `acceptWebSocket()` or `openWebSocket()`. */
  constructor(conn: Socket, isServer: boolean, { maxBytes = 1 << 20, signal }: Options) {
    this.#conn = conn;
    this.#isServer = isServer;
    this.#signal = signal;
    const joined = new Inbox();
    const take = frames.splitter(isServer, checkCount("maxBytes", maxBytes, 1), joined);
    conn._keepIn(joined);
    this.#frame = { take, end: END, most: maxBytes + frames.MAX_FRONT };
  }

  /**
   * Sends one message. Resolves when the kernel has it all.
   *
   * Rejects as `sendAll` does, and with `EPIPE` once either side has closed.
   */
  async send(message: string | Uint8Array): Promise<void> {
    if (this.#over !== null) throw this.#error("EPIPE", "send");
    await this.#send(typeof message === "string" ? frames.TEXT : frames.BINARY, message);
  }

  /**
   * The closing handshake: sends a Close frame, waits for the peer's, at most 2 s, and closes the connection.
   * Messages that come meanwhile are dropped. Closing twice is fine.
   *
   * Rejects with `RangeError` for a `code` that must not be sent (RFC 6455, section 7.4) and a `reason`
   * of more than 123 bytes, and never otherwise.
   */
  async close(code = 1000, reason = ""): Promise<void> {
    const says = frames.closing(code, reason);
    await (this.#over ??= this.#end(says, false));
  }

  /**
   * The messages as they come, until the peer closes; then the connection is closed. Breaking out of the loop
   * closes nothing and loses nothing.
   *
   * Rejects when the peer breaks the protocol (`EPROTO`), sends text that is not UTF-8 (`EILSEQ`) or more
   * than `maxBytes` (`EMSGSIZE`); the peer gets a Close frame (1002, 1007, 1009), and the
   * connection is closed. Also rejects with `EINCOMPLETE` when the connection ends without a closing
   * handshake, and as `recv` does.
   */
  [Symbol.asyncIterator](): AsyncIterator<Message, undefined> {
    return { next: () => this.#next() };
  }

  async #next(): Promise<IteratorResult<Message, undefined>> {
    if (this.#receiving !== null) throw this.#error("EBUSY", "recv");
    try {
      const message = this.#over ? null : await (this.#receiving = this.#receive());
      if (message !== null && this.#over === null) return { value: message, done: false };
    } catch (error) {
      if (this.#over === null) await this.#fail(error);
    } finally {
      this.#receiving = null;
    }
    const { code } = this.peerClose ?? { code: GOING_AWAY };
    await (this.#over ??= this.#end(code === 1005 ? "" : frames.closing(code), true));
    return { value: undefined, done: true };
  }

  // The next message; null after the peer's Close frame.
  async #receive(): Promise<Message | null> {
    for (;;) {
      const { opcode, payload } = await this.#conn.recvMessage(this.#frame);
      if (opcode === frames.TEXT) return frames.textOf(payload);
      if (opcode === frames.BINARY) return payload;
      if (opcode === frames.PING && this.#over === null) await this.#send(frames.PONG, payload);
      if (opcode === END.opcode) throw this.#error("EINCOMPLETE", "recv", CUT_OFF);
      if (opcode !== frames.CLOSE) continue;
      this.peerClose = frames.closeOf(payload);
      return null;
    }
  }

  // Makes the loop reject. A protocol error is sent to the peer first, in a Close frame. Other errors do not
  // count after the server's signal, which ends receiving.
  async #fail(error: unknown): Promise<void> {
    if (error instanceof frames.Breach) {
      await (this.#over = this.#end(frames.closing(error.status, error.message), true));
      throw this.#error(error.code, "recv", error.message);
    }
    if (!this.#signal?.aborted) throw error;
  }

  async #end(says: string | Buffer, isAnswer: boolean): Promise<void> {
    const conn = this.#conn;
    const tooSlow = setTimeout(() => conn.close(), CLOSE_MS);
    try {
      await this.#send(frames.CLOSE, says);
      // The peer's Close frame is read by the receive that is under way, or else here.
      if (!isAnswer) await this.#receiving;
      while (!isAnswer && this.peerClose === null && (await this.#receive()) !== null);
      // The server closes the TCP connection first. After the peer's Close frame no data comes that could make
      // the kernel reset it.
      if (this.#isServer) conn.shutdown("write");
      if (!this.#isServer || this.peerClose === null) await handshake.drain(conn);
      if (this.#isServer && this.peerClose === null) await conn.closed;
    } catch {
      // The connection broke, so there is nothing left to close.
    } finally {
      clearTimeout(tooSlow);
      conn.close();
    }
  }

  #send(opcode: number, data: string | Uint8Array): Promise<void> {
    const key = this.#isServer ? undefined : crypto.getRandomValues(new Int32Array(1))[0];
    return this.#conn.sendAll(frames.encode(opcode, data, key));
  }

  #error(code: string, syscall: Syscall, reason?: string): SocketError {
    return new SocketError(code, syscall, this.#conn.remoteAddress, { reason });
  }
}
