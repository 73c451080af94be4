// The BSD verbs over Bun's TCP sockets, with `await` where Python blocks: listen, accept, connect,
// socketpair, send, recv, shutdown, close.
//
// A blocking call is a non-blocking call plus a wait. So there is one non-blocking core (`tryRecv`,
// `trySend`, `tryAccept`), and an awaitable verb tries that first. If it has to wait, `recv` and `send`
// get a promise of their own; `accept` and `select` use the loop in `socket/readiness.ts`.

import { calls } from "./socket/calls.ts";
import type { Socket } from "./socket/connection.ts";
import { dial } from "./socket/dial.ts";
import { ServerSocket } from "./socket/server.ts";
import type { ConnectOptions, ListenOptions } from "./socket/where.ts";

export type { Address } from "./address.ts";
export { Socket, type WaitOptions } from "./socket/connection.ts";
export { ServerSocket } from "./socket/server.ts";
export type { ClientTls, Pem, ServerTls } from "./socket/tls.ts";
export type { ConnectOptions, HostAndPort, ListenOptions, SocketFile } from "./socket/where.ts";

/**
 * Opens a server: Python's `socket()`, `bind()` and `listen()` in one; bind(2), listen(2).
 *
 * Throws `SocketError` (`EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`, `ENOTFOUND`).
 *
 * @example
 * using server = listen({ port: 4000 });
 * for await (const conn of server) conn.close();
 */
export function listen(options: ListenOptions): ServerSocket {
  return calls.run("listen", (wanted) => new ServerSocket(wanted), options);
}

/**
 * Opens a connection: Python's `socket.create_connection`; connect(2).
 *
 * A name is looked up. If it has several addresses, the next one is tried when one refuses, or has not
 * answered for 250 ms (RFC 8305). The first connection is used; the other attempts are cancelled.
 *
 * Rejects with `SocketError` (`ECONNREFUSED`, `ENOTFOUND`, `ETIMEDOUT`, …) or the signal's reason.
 *
 * @example
 * using conn = await connect({ port: 4000, timeout: 5_000 });
 * await conn.sendAll("hello");
 */
export function connect(options: ConnectOptions): Promise<Socket> {
  return calls.run("connect", dial, options);
}

/** The two ends of one connection. Disposing of the pair closes both. */
export interface SocketPair extends Disposable {
  readonly near: Socket;
  readonly far: Socket;
}

/**
 * Opens a connection within this process and gives its two ends: Python's `socket.socketpair()`,
 * socketpair(2), but over TCP.
 *
 * Rejects as `connect` does.
 *
 * @example
 * using ends = await socketpair();
 * const { near, far } = ends;
 * await near.sendAll("hello");
 * console.log(String(await far.recv(5))); // "hello"
 */
export async function socketpair({ host }: { host?: string } = {}): Promise<SocketPair> {
  using server = listen({ host, port: 0 });
  const near = await connect(server.address);
  let far = await server.accept();
  while (far.remoteAddress.port !== near.localAddress.port) {
    far.close(); // another process connected first
    far = await server.accept();
  }
  const close = () => [near, far].forEach((end) => end.close());
  return { near, far, [Symbol.dispose]: close };
}
