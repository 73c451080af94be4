// Addresses as the system and people write them.

/** One end of a connection, as `getsockname()` and `getpeername()` tell it. */
export interface Address {
  /** An IP address; the name that was asked for, where none is known; a Unix socket's absolute path. */
  host: string;
  /** 0 for a Unix socket. */
  port: number;
}

/**
 * An address as one word. IPv6 takes brackets (RFC 3986, section 3.2.2).
 *
 * @example
 * formatAddress({ host: "127.0.0.1", port: 4000 }); // "127.0.0.1:4000"
 * formatAddress({ host: "::1", port: 4000 }); // "[::1]:4000"
 * formatAddress({ host: "/tmp/socket", port: 0 }); // "/tmp/socket"
 */
export function formatAddress({ host, port }: Address): string {
  if (isPath(host)) return host;
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Whether this is the address of a Unix-domain socket. */
export function isPath(host: string): boolean {
  return /^([a-z]:)?[/\\]/i.test(host); // on Windows too
}
