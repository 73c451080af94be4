// `--trace`: writes a line about each socket call when it returns. The methods of the socket classes are
// replaced by wrapped ones when tracing starts; the classes themselves have no code for it, so without
// `--trace` it costs nothing. Nothing is stored, so memory stays bounded.

import { isMainThread, threadId } from "node:worker_threads";

import { type Address, formatAddress } from "./address.ts";
import { DatagramSocket } from "./datagram.ts";
import { isAbort, SocketError } from "./errors.ts";
import { ServerSocket, Socket } from "./socket.ts";
import { calls } from "./socket/calls.ts";
import { POLLNVAL } from "./socket/readiness.ts";
import { content, isData, preview, reason } from "./trace/text.ts";
import type { Inbox } from "./socket/queues.ts";
import type { Whole } from "./socket/receiving.ts";

/** `"live"` is JSON, with one more line for a call that waits, before it returns. */
export type TraceMode = "text" | "json" | "live";

/** After how many ms `"live"` says that a call waits. */
const WAITS_MS = 20;

/** The classes whose methods are wrapped, all but `NOT_SHOWN`. A new method is traced without a change here. */
const CLASSES = { conn: Socket, server: ServerSocket, datagram: DatagramSocket };
const NOT_SHOWN = ["constructor", "poll", "opened", "endReceiving"];

/** A call that has returned, as `--trace=json` writes it, one a line. Fields that do not apply are left out. */
export interface TracedCall {
  /** When it returned and when it began, in ms since 1970. */
  time: number;
  began: number;
  pid: number;
  /** The thread's number; left out for the main thread. */
  thread?: number;
  /** The socket that the method belongs to: `conn#1`, `server#1`. Left out for `listen`, `connect`, `select`. */
  on?: string;
  call: string;
  /** Its arguments and its outcome as `--trace` shows them. */
  args: string;
  result: string;
  /**
   * The bytes that were sent or received: how many, and the first of them, `"text"` or `68 65 78`. The
   * count of a message includes its length or its delimiter.
   */
  bytes?: number;
  data?: string;
  /** For a datagram: the address it was sent to, or came from. */
  peer?: string;
  /** The socket that the call returned, with its addresses. */
  made?: { name: string; local: string; remote?: string };
  /** The code of the error, if it failed. An intended end, such as an abort, is no error. */
  error?: string;
  /** With `"live"`: the call has not returned yet. It will have another line, with the same `began`. */
  waits?: true;
}

/** A socket call that has begun. `closed`: the socket was closed before the call. */
interface Call {
  on: object | null;
  name: string;
  args: unknown[];
  began: number;
  closed: boolean;
  timer?: Timer;
}

/**
 * Starts tracing: writes a line about every socket call when it returns, for people or, with `"json"`, a
 * `TracedCall`. A failed call is shown with the error's code. An end that is no error is shown by name:
 * EOF, aborted, closed.
 *
 * @example
 * startTrace("text", console.error);
 * // 14:03:07.512  conn#1 127.0.0.1:53122  recv(1024) -> 5 bytes "hello"
 */
export function startTrace(as: TraceMode, to: (line: string) => void): void {
  [mode, write] = [as, to];
  for (const { prototype } of Object.values(CLASSES)) wrapMethods(prototype);
  const { run } = calls;
  calls.run = (name, call, ...args) => {
    // select() takes iterables, and some can be iterated only once: so copy them.
    const kept = args.map((arg) => (isList(arg) ? [...arg] : arg)) as typeof args;
    return watch(null, name, kept, () => run(name, call, ...kept));
  };
}

let mode: TraceMode;
let write: (line: string) => void;

const thread = isMainThread ? undefined : threadId;

// ---- wrapping

function wrapMethods(prototype: any): void {
  if (prototype === Object.prototype) return;
  wrapMethods(Object.getPrototypeOf(prototype));
  for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
    if (typeof value !== "function" || NOT_SHOWN.includes(name) || name.startsWith("_")) continue;
    prototype[name] = function (this: object, ...args: unknown[]): unknown {
      if (name === "recvMessage") args[0] = counting(args[0] as Whole<unknown>);
      return watch(this, name, args, () => value.apply(this, args));
    };
  }
}

// A framing takes more out of the stream than the message that it gives: its length, or a delimiter.
function counting<T>(whole: Whole<T>): Whole<T> & { taken: number } {
  const counted = {
    ...whole,
    taken: 0,
    take(inbox: Inbox) {
      const before = inbox.length;
      const message = whole.take(inbox);
      counted.taken = before - inbox.length;
      return message;
    },
  };
  return counted;
}

// A call that another traced call makes is part of that one, and not shown.
let inside = false;

function watch(on: object | null, name: string, args: unknown[], run: () => any): any {
  if (inside || (name === "close" && isClosed(on))) return run(); // closing again does nothing
  const call: Call = { on, name, args, began: now(), closed: [on, ...args.flat()].some(isClosed) };
  const returned = (value: unknown) => (tell(call, value, false), value);
  const failed = (error: unknown) => {
    tell(call, error, true);
    throw error;
  };
  let result: unknown;
  inside = true;
  try {
    result = run();
  } catch (error) {
    return failed(error);
  } finally {
    inside = false;
  }
  if (!(result instanceof Promise)) return returned(result);
  if (mode === "live")
    call.timer = setTimeout(tell, WAITS_MS, call, undefined, false, true).unref();
  return result.then(returned, failed);
}

function isClosed(socket: any): boolean {
  return typeof socket?.poll === "function" && (socket.poll() & POLLNVAL) !== 0;
}

function isList(value: unknown): value is Iterable<unknown> {
  return Symbol.iterator in Object(value) && !isData(value);
}

// With fractions of a millisecond, so that the calls of two processes can be sorted.
function now(): number {
  return performance.timeOrigin + performance.now();
}

// ---- telling

function tell(call: Call, outcome: unknown, failed: boolean, waits?: true): void {
  clearTimeout(call.timer);
  const told = describe(call, outcome, failed, waits);
  write(mode === "text" ? toLine(told, call.on) : JSON.stringify(told));
}

function describe(call: Call, outcome: any, failed: boolean, waits?: true): TracedCall {
  const { on, name, args, began } = call;
  const made = isSocket(outcome) ? outcome : undefined;
  const time = now();
  const shown = args.map((arg) => (isSend(name) && isData(arg) ? preview(arg) : show(arg)));
  const [result, error] = failed ? failure(call, outcome) : [success(call, outcome)];
  return {
    ...{ time, began, pid: process.pid, thread, on: on === null ? undefined : nameOf(on) },
    call: name,
    args: shown.filter(Boolean).join(", "),
    result,
    ...(waits ? { waits } : moved(call, outcome, failed)),
    made: made && { name: nameOf(made), ...addresses(made) },
    error,
  };
}

function toLine({ time, call, args, result }: TracedCall, on: object | null): string {
  const clock = new Date(time).toTimeString().slice(0, 8); // local time
  const ms = String(Math.trunc(time) % 1000).padStart(3, "0");
  const who = [thread && `thread ${thread}`, on && fullName(on)].filter(Boolean).join(" ");
  const parts = [`${clock}.${ms}`, who, `${call}(${args})${result && ` -> ${result}`}`];
  return parts.filter(Boolean).join("  ");
}

/** The result of a call in words; empty if it returns nothing. */
function success({ on, name, args }: Call, outcome: any): string {
  if (outcome === undefined || name === "sendAll") return "";
  if (outcome === null) return "would block";
  if (name === "recvMessage")
    return outcome === (args[0] as Whole<unknown>).end ? "EOF" : show(messageIn(outcome));
  if (isSocket(outcome)) return fullName(outcome);
  if (name === "select") {
    const nothing = outcome.flat().length === 0 ? " (time is up)" : "";
    return outcome.map(show).join(", ") + nothing;
  }
  if (on instanceof Socket && /^(tryR|r)ecv$/.test(name) && outcome.length === 0) return "EOF";
  return Array.isArray(outcome) ? `${show(outcome[0])} from ${show(outcome[1])}` : show(outcome);
}

/** Why a call failed, in words, and the error's code; no code if it is no error. */
function failure({ name, args, closed }: Call, error: any): [result: string, error?: string] {
  if (args.some((arg: any) => arg?.signal && isAbort(error, arg.signal))) {
    const why = error instanceof DOMException ? error.name : reason(error);
    return [why === "AbortError" ? "aborted" : `aborted (${why})`];
  }
  if (!(error instanceof SocketError)) return [reason(error), error?.name ?? "Error"];
  const { code, partial, bytesSent, cause } = error;
  // Closed by us while it waited. An accept after the close counts, too: it ends a `for await`.
  if (code === "EBADF" && (!closed || name === "accept")) return ["closed"];
  if (partial?.length === 0) {
    const broken = (cause as { code?: string } | undefined)?.code;
    return [broken ?? "EOF", broken];
  }
  if (partial !== undefined) return [`${code} after ${preview(partial)}`, code];
  return [bytesSent ? `${code} after ${bytesSent} bytes` : code, code];
}

/** The bytes that the call sent or received. */
function moved({ on, name, args }: Call, outcome: any, failed: boolean): Partial<TracedCall> {
  // Of a send that was given up, nobody knows how much has left.
  if (isSend(name) && isData(args[0]) && (!failed || outcome instanceof SocketError)) {
    const all = Buffer.from(args[0]);
    const taken = failed ? (outcome.bytesSent ?? 0) : outcome === false ? 0 : all.length;
    const bytes = typeof outcome === "number" && name !== "sendAll" ? outcome : taken;
    const peer = show(args[1] ?? (on as { peer?: Address } | null)?.peer) || undefined;
    const sign = name === "unrecv" ? -1 : 1; // it undoes a recv
    return { bytes: sign * bytes, data: content(all.subarray(0, bytes)), peer };
  }
  const { preface } = (args[0] ?? {}) as { preface?: Uint8Array }; // of connect
  if (preface && !failed) return { bytes: preface.length, data: content(preface) };
  const given = failed ? outcome?.partial : name === "recvMessage" ? messageIn(outcome) : outcome;
  const [came, from] = Array.isArray(given) ? given : [given];
  if (!(came instanceof Uint8Array)) return {};
  const { taken = 0 } = Object(args[0]) as { taken?: number };
  const bytes = taken || came.length;
  return { bytes, data: content(came), peer: from && show(from) };
}

/** The bytes in a result of `recvMessage`: an iterator result, or a frame. */
function messageIn(outcome: object): unknown {
  return Object.values(outcome).find((part) => part instanceof Uint8Array) ?? outcome;
}

function isSend(name: string): boolean {
  return /^(send|trySend|unrecv)/.test(name);
}

/** A value in few words; empty for an option that was left out, and for a signal. */
function show(value: any): string {
  if (value === undefined || typeof value === "function") return "";
  if (isSocket(value)) return nameOf(value);
  if (value instanceof Uint8Array) return preview(value);
  if (isList(value)) return `[${listed([...value].map(show))}]`;
  if (typeof value !== "object" || value === null) return String(value);
  const { path, host = "127.0.0.1", port, tls, peer, preface } = value;
  if (peer !== undefined) return `peer ${show(peer)}`;
  if (value.host === undefined && port === undefined && path === undefined) return "";
  const first = preface === undefined ? "" : `, preface ${preview(preface)}`;
  return (path ?? formatAddress({ host, port: port ?? 0 })) + first + (tls ? ", tls" : "");
}

const MAX_LISTED = 16;

function listed(names: string[]): string {
  const more = names.length > MAX_LISTED ? [`… ${names.length - MAX_LISTED} more`] : [];
  return [...names.slice(0, MAX_LISTED), ...more].join(", ");
}

// ---- names

const names = new WeakMap<object, string>();
const counts = { conn: 0, server: 0, datagram: 0 };

function isSocket(value: unknown): value is object {
  return Object.values(CLASSES).some((kind) => value instanceof kind);
}

function nameOf(socket: object): string {
  return names.getOrInsertComputed(socket, () => {
    const [kind] = Object.entries(CLASSES).find(([, kind]) => socket instanceof kind)!;
    return `${kind}#${++counts[kind as keyof typeof counts]}`;
  });
}

function fullName(socket: object): string {
  const { local, remote = local } = addresses(socket);
  return `${nameOf(socket)} ${remote}`;
}

function addresses(socket: any): { local: string; remote?: string } {
  const { address, localAddress = address, peer, remoteAddress = peer } = socket;
  const remote = remoteAddress ? formatAddress(remoteAddress) : undefined;
  return { local: formatAddress(localAddress), remote };
}
