// An error as one line for the person at the terminal.

import { getSystemErrorMap } from "node:util";

import { formatAddress } from "../address.ts";
import { SocketError } from "../errors.ts";

/** One line for an error of the system or a peer. Any other is a mistake in the program: it keeps its stack. */
export function describe(error: unknown): string {
  if (typeof error === "string") return error;
  if (!(error instanceof SocketError)) {
    const { syscall, message } = error as NodeJS.ErrnoException;
    return syscall === undefined ? Bun.inspect(error) : message; // the system's errors need no stack
  }
  const { code, syscall, address } = error;
  const why = error.reason ?? reason(code);
  const peer = code === "ENOTFOUND" ? address.host : formatAddress(address);
  if (syscall === "connect") {
    const hint = code === "ECONNREFUSED" ? " (is the server running?)" : "";
    return `cannot connect to ${peer}: ${why}${hint}`;
  }
  if (syscall === "listen") {
    const hint = address.host === process.env.HOST ? " (HOST in the environment)" : "";
    return `cannot listen on ${peer}: ${why}${hint}`;
  }
  if (syscall === "gethostbyname") return `${peer}: ${why}`;
  return `connection with ${peer}: ${why}`;
}

/** What an errno means, as strerror(3) has it. */
export function reason(code: string): string {
  if (code === "ENOTFOUND") return "host not found";
  if (code === "EINCOMPLETE") return "closed before all of the data had come";
  const known = [...getSystemErrorMap().values()].find(([name]) => name === code);
  return known?.[1] ?? code;
}
