// Where to listen or connect to: the options of `listen` and `connect`, checked and translated for Bun.

import { type Address } from "../address.ts";
import { SocketError, type Syscall } from "../errors.ts";
import { checkCount, checkText } from "./check.ts";
import type { ClientTls, ServerTls } from "./tls.ts";

/** Where to listen or connect to on the network. */
export interface HostAndPort {
  /**
   * An address or a name. Default `127.0.0.1`. To listen on: `0.0.0.0` is all of IPv4, `::` all of
   * both families, `localhost` is `127.0.0.1` (a client that connects to `localhost` tries both families).
   */
  host?: string;
  /** For `listen`, 0 is any free port; `server.address.port` is the one it got. */
  port: number;
}

/** A Unix-domain socket, unix(7), between processes of one machine. */
export interface SocketFile {
  /** The socket's file. `listen` creates it, and fails if a server uses it; `close` removes it. */
  path: string;
}

export type ListenOptions = (HostAndPort | SocketFile) & {
  /** How many connections may wait for `accept()`, at least 1. Default 511. */
  backlog?: number;
  /** Shares the port with other sockets that set this too: `SO_REUSEPORT`, socket(7). */
  reusePort?: boolean;
  /** With the host `::`: accepts no IPv4 connections. `IPV6_V6ONLY`, ipv6(7). */
  ipv6Only?: boolean;
  /**
   * Speaks TLS: a connection can be accepted when its handshake is done, within 10 s. Handshakes that
   * take longer than a second count in `backlog`. To renew the certificate, put another `cert` and
   * `key` into this object: the next handshake uses them.
   */
  tls?: ServerTls;
  /** Closes the server. */
  signal?: AbortSignal;
};

export type ConnectOptions = (HostAndPort | SocketFile) & {
  /**
   * Milliseconds until `connect` rejects with `ETIMEDOUT`; includes the name's lookup.
   * Default: the system's, about two minutes.
   */
  timeout?: number;
  /**
   * Speaks TLS: `connect` resolves when the handshake is done, within 10 s. The server's certificate
   * and its name are always checked. `true`: the public authorities are trusted.
   */
  tls?: true | ClientTls;
  /** Sent before everything else, also before TLS: a PROXY header. At most 4 KiB. */
  preface?: Uint8Array;
  /** Aborts the attempt: `connect` rejects with the signal's reason. */
  signal?: AbortSignal;
};

// Loaded with the first Unix-domain socket, because it loads node:fs, which most programs do not need.
export function unixFiles() {
  return require("./unix.ts") as typeof import("./unix.ts");
}

/** The address in the options. */
export function checkAddress(options: HostAndPort | SocketFile, minPort: 0 | 1): Address {
  if (!("path" in options)) return checkHost(options, minPort);
  return { host: unixFiles().absolute(checkText("path", options.path)), port: 0 };
}

/** The checked address, with the default host if none is given. */
export function checkHost({ host = "127.0.0.1", port }: HostAndPort, minPort: 0 | 1): Address {
  const bare = checkText("host", host).replace(/^\[(.*:.*)\]$/, "$1"); // [::1], as in a URL
  return { host: bare, port: checkCount("port", port, minPort, 65_535) };
}

/** Whether this is `localhost`, which always means loopback: RFC 6761, section 6.3. */
export function isLocal(host: string): boolean {
  return host.toLowerCase() === "localhost";
}

/** Bun's error as a `SocketError`, with codes that Bun does not give: `ENOTFOUND`, `EMFILE`, `ENFILE`. */
export function systemError(cause: unknown, syscall: Syscall, address: Address): SocketError {
  const { code: told, syscall: failed } = cause as { code?: string; syscall?: string };
  const code = told === undefined || failed === "getaddrinfo" ? "ENOTFOUND" : told;
  const vague = code === "ENOTFOUND" || code === "ECONNREFUSED";
  return new SocketError((vague && outOfDescriptors()) || code, syscall, address, { cause });
}

// Without a free descriptor, Bun reports a refused connection or an unknown name. So try to open one.
function outOfDescriptors(): string | undefined {
  const { closeSync, openSync } = require("node:fs") as typeof import("node:fs");
  try {
    closeSync(openSync("/", "r"));
    return undefined;
  } catch (error) {
    const { code } = error as { code?: string };
    return code === "EMFILE" || code === "ENFILE" ? code : undefined;
  }
}
