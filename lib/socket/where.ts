// Where to listen or connect to: what callers may say, and how Bun wants it.

import { type Address } from "../address.ts";
import { SocketError, type Syscall } from "../errors.ts";
import { checkCount, checkText } from "./check.ts";
import { type Owner, Socket } from "./connection.ts";

/** Where to listen or connect to on the network. */
export interface HostAndPort {
  /**
   * An address or a name. Default `127.0.0.1`. To listen on: `0.0.0.0` is all of IPv4, `::` all of
   * both families, `localhost` is `127.0.0.1` (a client who says `localhost` finds it: he tries both).
   */
  host?: string;
  /** To listen on: 0 is any free one, and `server.address.port` tells which. */
  port: number;
}

/** A Unix-domain socket, unix(7): for processes of one machine. */
export interface SocketFile {
  /** The socket's file. Made by `listen`, which refuses one in use, and removed by `close`. */
  path: string;
}

export type ListenOptions = (HostAndPort | SocketFile) & {
  /** How many connections may wait for `accept()`, at least 1. Default 511. */
  backlog?: number;
  /** Share the port with others that say so too: `SO_REUSEPORT`, socket(7). */
  reusePort?: boolean;
  /** With an IPv6 host, `::` above all: take no IPv4 connections. `IPV6_V6ONLY`, ipv6(7). */
  ipv6Only?: boolean;
  /** Closes the server. */
  signal?: AbortSignal;
};

export type ConnectOptions = (HostAndPort | SocketFile) & {
  /**
   * Milliseconds until the attempt is given up with `ETIMEDOUT`, the lookup of a name included.
   * Default: the system's, about two minutes.
   */
  timeout?: number;
  /** Ends the attempt, which rejects with its reason. */
  signal?: AbortSignal;
};

// Loaded with the first Unix-domain socket: most programs have none, and start without node:fs.
export function unixFiles() {
  return require("./unix.ts") as typeof import("./unix.ts");
}

// Where to listen or connect to: as people read it, and as Bun wants it.
export function checkAddress(options: HostAndPort | SocketFile, minPort: 0 | 1) {
  const common = { allowHalfOpen: true, socket: Socket.handlers };
  if ("path" in options) {
    const unix = unixFiles().absolute(checkText("path", options.path));
    return { address: { host: unix, port: 0 }, own: { unix, ...common } };
  }
  const asked = checkText("host", options.host ?? "127.0.0.1");
  const hostname = asked.replace(/^\[(.*:.*)\]$/, "$1"); // as in a URL
  const port = checkCount("port", options.port, minPort, 65_535);
  // Bun's types have one signature for each kind of address, and none for either.
  const own = {
    hostname: isLocal(hostname) ? "127.0.0.1" : hostname,
    port,
    ...common,
  } as unknown as Bun.UnixSocketOptions<Owner>;
  return { address: { host: hostname, port }, own };
}

/** Whether this is this machine's name for itself, whatever its list of names says: RFC 6761, 6.3. */
export function isLocal(host: string): boolean {
  return host.toLowerCase() === "localhost";
}

/** What Bun's errors leave out: a name that does not resolve, and no descriptor left. */
export function systemError(cause: unknown, syscall: Syscall, address: Address): SocketError {
  const { code: told, syscall: failed } = cause as { code?: string; syscall?: string };
  const code = told === undefined || failed === "getaddrinfo" ? "ENOTFOUND" : told;
  const vague = code === "ENOTFOUND" || code === "ECONNREFUSED";
  return new SocketError((vague && outOfDescriptors()) || code, syscall, address, { cause });
}

// Bun tells of it as of a peer that refuses, or a name that is not found.
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
