// Names and addresses of machines: `gethostname`, `getfqdn` and `gethostbyname` of Python's socket module.

import { lookup, lookupService, reverse } from "node:dns/promises";
import { hostname } from "node:os";

import { SocketError } from "./errors.ts";

/**
 * This machine's name: Python's `gethostname`, gethostname(2).
 *
 * @example
 * console.log(`working on ${gethostname()}`);
 */
export function gethostname(): string {
  return hostname();
}

/**
 * The IPv4 address that `name` resolves to, the first if there are several: Python's
 * `gethostbyname`, gethostbyname(3).
 *
 * Rejects with `SocketError` `ENOTFOUND`.
 *
 * @example
 * await gethostbyname("localhost"); // "127.0.0.1"
 */
export async function gethostbyname(name: string): Promise<string> {
  let cause: unknown;
  const found = await lookup(name, { family: 4 }).catch((error: unknown) => void (cause = error));
  // lookup() returns an IPv6 address unchanged, and null for an empty name.
  if (found?.family === 4 && found.address !== null) return found.address;
  throw new SocketError("ENOTFOUND", "gethostbyname", { host: name, port: 0 }, { cause });
}

/**
 * The fully qualified name of a machine, or the best one found; `name` if the lookup fails. Never rejects.
 * Python's `getfqdn`.
 *
 * @example
 * await getfqdn("no-such-name.invalid"); // "no-such-name.invalid"
 */
export async function getfqdn(name = gethostname()): Promise<string> {
  try {
    const { address } = await lookup(name);
    const { hostname: canonical } = await lookupService(address, 0);
    const names = [canonical, ...(await reverse(address).catch(() => []))];
    return names.find((candidate) => candidate.includes(".")) ?? canonical;
  } catch {
    return name;
  }
}

/**
 * The IPv4 address that this machine's own name resolves to; `127.0.0.1` if it does not resolve.
 *
 * @example
 * using server = listen({ host: await ownAddress(), port: 0 });
 */
export function ownAddress(): Promise<string> {
  return gethostbyname(gethostname()).catch(() => "127.0.0.1");
}
