// Names and addresses of machines: the socket module's gethostname, getfqdn and gethostbyname.

import { lookup, lookupService, reverse } from "node:dns/promises";
import { hostname } from "node:os";

import { SocketError } from "./errors.ts";

/** This machine's name, as the system has it: Python's `gethostname`, gethostname(2). */
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
  const unknown = (cause?: unknown) =>
    new SocketError("ENOTFOUND", "gethostbyname", { host: name, port: 0 }, { cause });
  const found = await lookup(name, { family: 4 }).catch((cause: unknown) => {
    throw unknown(cause);
  });
  if (found.family !== 4) throw unknown(); // an IPv6 address is taken as it is
  return found.address;
}

/**
 * The full name of a machine, with its domain where it has one; `name` itself where nothing better
 * is known. Never fails. Python's `getfqdn`.
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

/** The address that this machine's name stands for; `127.0.0.1` where it stands for none. */
export function ownAddress(): Promise<string> {
  return gethostbyname(gethostname()).catch(() => "127.0.0.1");
}
