// Makes connections, before there is a Socket: looks up names, tries several addresses, keeps time limits,
// and cancels attempts that are no longer needed.

import { type Address, isNumeric } from "../address.ts";
import { SocketError, type Syscall } from "../errors.ts";
import { MAX_DELAY } from "./alarm.ts";
import { checkTimeout } from "./check.ts";
import { type Handle, type HandleData, Socket } from "./connection.ts";
import { onAbort } from "./readiness.ts";
import { checkTls, type Hears, rawHandlers, secure, type UnderWay } from "./tls.ts";
import type { ConnectOptions, SocketFile } from "./where.ts";
import { checkAddress, isLocal, systemError } from "./where.ts";

/** After this many ms without an answer, the next address is tried, too: RFC 8305, section 5. */
const STAGGER_MS = 250;

/** Stands for our own address until Bun tells it. */
const ANY: Address = { host: "0.0.0.0", port: 0 };

type Handlers = Bun.SocketHandler<HandleData>;
type Target = Address | SocketFile;

/** `connect()`: gives one connection, or rejects; all other attempts are cancelled. */
export async function dial(options: ConnectOptions): Promise<Socket> {
  const { timeout, signal } = options;
  const address = checkAddress(options, 1);
  const { host, port } = address;
  const tls = options.tls === undefined ? undefined : checkTls("connect", options.tls, address);
  const delay = timeout === undefined ? undefined : Math.min(checkTimeout(timeout), MAX_DELAY);
  signal?.throwIfAborted();

  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const underWay: UnderWay = new Set();
  const callOff = () => underWay.forEach((end) => end());
  const expire = () => reject(new SocketError("ETIMEDOUT", "connect", address));
  using _listener = signal && onAbort(signal, () => reject(signal.reason));
  using _timer = delay === undefined ? undefined : setTimeout(expire, delay);
  const file = "path" in options;
  const failed = (cause: unknown) => reject(systemError(cause, "connect", address));
  const ready = (handle: Handle) => resolve(new Socket(handle, file ? address : ANY, address));
  const handlers = tls === undefined ? Socket.handlers : rawHandlers;
  const hears: Hears = {
    opened(handle) {
      callOff(); // the others
      // A new connection has room for the preface: `write` takes less only if it was reset meanwhile. Bun
      // then closes it without an error.
      const { preface } = options;
      if (preface !== undefined && handle.write(preface) < preface.length) {
        failed({ code: "ECONNRESET" });
        handle.terminate();
      } else if (tls === undefined) ready(handle);
      else secure(handle, tls, underWay, { opened: ready, failed });
    },
    failed,
  };
  try {
    const lookedUp = file ? [host] : lookUp(address);
    const hosts = await Promise.race([lookedUp, promise as Promise<never>]);
    const targets = hosts.map((host) => (file ? { path: host } : { host, port }));
    const isFree = targets.length === 1 && delay === undefined && signal === undefined;
    if (isFree) tryForGood(targets[0]!, handlers, hears);
    else tryInTurn(targets, handlers, underWay, hears);
    return await promise;
  } finally {
    callOff();
  }
}

/**
 * The addresses in the order in which they are tried, the two families alternating: RFC 8305, section 4.
 * The system's lookup cannot be cancelled: after a timeout it ends by itself, and its result is ignored.
 */
export async function lookUp(address: Address, syscall: Syscall = "connect"): Promise<string[]> {
  const { host } = address;
  if (isNumeric(host)) return [host];
  if (isLocal(host)) return ["::1", "127.0.0.1"];
  try {
    const { lookup } = require("node:dns/promises") as typeof import("node:dns/promises");
    const found = await lookup(host, { all: true });
    const [first = [], second = []] = Map.groupBy(found, ({ family }) => family).values();
    const inTurn = found.flatMap((_, i) => [...first.slice(i, i + 1), ...second.slice(i, i + 1)]);
    return [...new Set(inTurn.map(({ address }) => address))];
  } catch (cause) {
    throw systemError(cause, syscall, address);
  }
}

// Tries one address after the other: the next one when an attempt has failed, or after `STAGGER_MS`.
function tryInTurn(targets: Target[], handlers: Handlers, underWay: UnderWay, hears: Hears) {
  let [started, failures] = [0, 0];
  let timer: Timer | undefined;
  const next = () => {
    clearTimeout(timer);
    const target = targets[started++];
    if (target === undefined) return;
    timer = setTimeout(next, STAGGER_MS);
    tryOne(target, handlers, underWay, { opened: hears.opened, failed });
  };
  const failed = (cause: unknown) => {
    if (++failures === targets.length) hears.failed(cause);
    else next();
  };
  underWay.add(() => clearTimeout(timer));
  next();
}

// The only attempt, without a time limit or a signal: nobody cancels it.
function tryForGood(target: Target, socket: Handlers, { opened, failed }: Hears): void {
  const at = "path" in target ? { unix: target.path } : { ...target, hostname: target.host };
  const options = { ...at, socket, allowHalfOpen: true, data: { opened } };
  Bun.connect(options as Bun.UnixSocketOptions<HandleData>).catch(failed);
}

// An attempt that can be cancelled. `Bun.connect` cannot be; a socket of node:net can, and the Bun socket
// inside it works like any other once it has our handlers. (node:net is loaded on first use, because
// loading it takes longer than starting most programs.)
function tryOne(target: Target, handlers: Handlers, underWay: UnderWay, hears: Hears): void {
  const { connect } = require("node:net") as typeof import("node:net");
  const stream = connect({ ...target, autoSelectFamily: false });
  const handle = (stream as unknown as { _handle: Handle | null })._handle; // null: it failed at once
  const callOff = () => end(() => handle?.terminate());
  const end = (tell: () => void) => void (underWay.delete(callOff) && tell());
  underWay.add(callOff);
  const opened = (handle: Handle) => end(() => hears.opened(handle));
  const failed = (cause: unknown) => end(() => hears.failed(cause));
  const takeOver = () => {
    if (!underWay.has(callOff) || handle === null) return handle?.terminate();
    handle.reload({ socket: { ...handlers, connectError: (_, cause) => failed(cause) } });
    handle.data = { opened };
  };
  stream.on("error", failed); // until `takeOver`
  process.nextTick(takeOver); // `stream` connects before that, in this turn
}
