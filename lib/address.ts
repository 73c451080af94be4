// Addresses: how the system writes them, and how people do.

/** One end of a connection, as `getsockname()` and `getpeername()` tell it. */
export interface Address {
  /** An IP address; the host name, if it was not resolved; a Unix socket's absolute path. */
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
  return host.includes(":") && !host.startsWith("[") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Whether this is the address of a Unix-domain socket. */
export function isPath(host: string): boolean {
  return /^([a-z]:)?[/\\]/i.test(host); // on Windows too
}

/** Whether this is an IP address, not a name. */
export function isNumeric(host: string): boolean {
  if (!host.includes(":")) return IPV4.test(host);
  return URL.canParse(`http://[${host.replace(/%.+$/, "")}]`);
}

const IPV4 = /^((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(?!$)|$)){4}$/;

/**
 * An address that Bun gives, as people write it. For an IPv4 peer of an IPv6 socket, Bun gives `::ffff:…`
 * (ipv6(7)): the prefix is removed. A link-local address needs its interface after a `%` (RFC 4007,
 * section 11), which Bun leaves out. The interface is taken from `scoped`, another address of the same
 * connection; or else it is the interface that has the address `own`, our end.
 *
 * @example
 * asWritten("::ffff:127.0.0.1"); // "127.0.0.1"
 * asWritten("fe80::1", "fe80::2%eth0"); // "fe80::1%eth0"
 */
export function asWritten(host: string, scoped = "", own = host): string {
  if (host.startsWith("::ffff:") && host.includes(".")) return host.slice(7);
  if (!/^fe[89ab]./i.test(host) || host.includes("%")) return host;
  const [scope = interfaceOf(own)] = scoped.match(/%.+$/) ?? [];
  return host + scope;
}

function interfaceOf(own: string): string {
  const { networkInterfaces } = require("node:os") as typeof import("node:os");
  const all = Object.entries(networkInterfaces());
  const names = all.filter(([, addresses]) => addresses!.some(({ address }) => address === own));
  return names.length === 1 ? `%${names[0]![0]}` : ""; // unknown if VLANs share the address
}
