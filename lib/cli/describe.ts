// Turns an error into one line for the person at the terminal.

import { getSystemErrorMap } from "node:util";

import { formatAddress } from "../address.ts";
import { Failure, SocketError } from "../errors.ts";

/** One line for anything that can be thrown. */
export function describe(error: unknown): string {
  if (error instanceof SocketError) return describeSocketError(error);
  return oneLine(isMistake(error) ? mistake(error) : String((error as Error).message ?? error));
}

/** Text that may have several lines, in one. */
export function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").trim();
}

/** Whether an error is a bug in the program: no system error, `SocketError`, `Failure` or thrown string. */
export function isMistake(error: unknown): boolean {
  const isTold = error instanceof SocketError || error instanceof Failure;
  return !isTold && typeof error !== "string" && Object(error).syscall === undefined;
}

// An error's message and the first line of its stack; any other thrown value as Bun.inspect shows it.
function mistake(error: unknown): string {
  const isError = error instanceof Error;
  const what = isError ? `${error.name}: ${error.message}` : `${Bun.inspect(error)} was thrown`;
  const [, where = ""] = (isError && error.stack?.match(/^\s+(at .*)/m)) || [];
  return `${what} ${where}`;
}

function describeSocketError(error: SocketError): string {
  const { code, syscall, address } = error;
  const why = error.reason ?? reason(code);
  const peer = code === "ENOTFOUND" ? address.host : formatAddress(address);
  if (syscall === "connect") {
    const hint = code === "ECONNREFUSED" ? " (is the server running?)" : "";
    return `cannot connect to ${peer}: ${why}${hint}`;
  }
  if (syscall === "listen" || syscall === "bind") {
    const hint = address.host === process.env.HOST ? " (HOST in the environment)" : "";
    return `cannot listen on ${peer}: ${why}${hint}`;
  }
  if (syscall === "sendto") return `cannot send to ${peer}: ${why}`;
  if (syscall === "gethostbyname" || syscall === "recvfrom") return `${peer}: ${why}`;
  return `connection with ${peer}: ${why}`;
}

/** The text for an error code, as strerror(3) has it. */
export function reason(code: string): string {
  if (code === "ENOTFOUND") return "host not found";
  if (code === "EINCOMPLETE") return "closed before all of the data had come";
  const known = [...getSystemErrorMap().values()].find(([name]) => name === code);
  return known?.[1] ?? code;
}
