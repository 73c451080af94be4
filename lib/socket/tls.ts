// TLS below a Socket: what was asked for is checked before anything is sent, and the handshake is over
// before there is a Socket. From then on a TLS handle is a Bun socket like any other, but for its end.
//
// Every connection begins as plain TCP and is then made secure, on both sides, with `upgradeTLS`. (Bun
// could listen and connect with `tls`, too.) So of several addresses one has won before anything is
// negotiated; and a certificate can be renewed while the server listens.

import { type Address, isPath } from "../address.ts";
import { SocketError } from "../errors.ts";
import { type Handle, type HandleData, Socket } from "./connection.ts";

/** Certificates or a key in PEM, RFC 7468: the text itself, not the name of its file. */
export type Pem = string | Uint8Array;

export interface ServerTls {
  /** The server's certificate; behind it those between it and its authority, if there are any. */
  cert: Pem;
  /** Its private key. */
  key: Pem;
  /** What the key is encrypted with, if it is. */
  passphrase?: string;
  /** Only clients with a certificate of one of these authorities are let in. */
  clientCa?: Pem | Pem[];
}

export interface ClientTls {
  /** The authorities to trust, or the server's self-signed certificate. Default: the public ones. */
  ca?: Pem | Pem[];
  /** The name that the server's certificate has to be for. Default: the host, for a path `localhost`. */
  serverName?: string;
  /** Our own certificate and its key, for a server that asks for one. */
  cert?: Pem;
  key?: Pem;
  passphrase?: string;
}

/** What Bun is told, once it has been checked. */
export type Secrets = Bun.TLSOptions & { isServer: boolean };

/** What hears of an attempt: one of the two, once, unless it is called off before. */
export interface Hears<Cause = unknown> {
  opened(handle: Handle): void;
  failed(cause: Cause): void;
}

/** Ends an attempt that is under way. */
export type CallOff = () => void;

/** How long a handshake may take, in ms. */
const HANDSHAKE_MS = 10_000;

/** How long a closed connection waits for a peer that does not take what was sent to it. */
const LINGER_MS = 12_000;

// ---- what was asked for

const FIELDS = {
  listen: ["cert", "key", "passphrase", "clientCa"],
  connect: ["cert", "key", "passphrase", "ca", "serverName"],
};

/**
 * What to tell Bun. Throws a `TypeError` for what is missing, empty or unknown: Bun would take that for
 * no TLS at all. For what is no PEM, or not the certificate's key, it throws a `SocketError`.
 */
export function checkTls(side: "listen" | "connect", tls: unknown, address: Address): Secrets {
  const isServer = side === "listen";
  const given: any = tls === true && !isServer ? {} : tls;
  if (typeof given !== "object" || given === null) {
    throw new TypeError(`tls must be an object, not ${Bun.inspect(tls)}`);
  }
  for (const [name, value] of Object.entries(given)) checkField(FIELDS[side], name, value);
  if (!given.cert !== !given.key || (isServer && !given.cert)) {
    throw new TypeError("tls needs a cert and its key");
  }
  const { passphrase, ca, clientCa, serverName = nameOf(address) } = given;
  const own = isServer ? { ca: clientCa, requestCert: clientCa !== undefined } : { ca, serverName };
  const secrets = {
    ...{ passphrase, ...own, isServer, rejectUnauthorized: true },
    get cert() {
      return given.cert; // which may be renewed
    },
    get key() {
      return given.key;
    },
  };
  try {
    (require("node:tls") as typeof import("node:tls")).createSecureContext(secrets);
    return secrets;
  } catch (cause) {
    throw new SocketError(explained(cause).code, side, address, { cause });
  }
}

// Says what is wrong, but not the value: it may be a key.
function checkField(known: string[], name: string, value: unknown): void {
  if (!known.includes(name)) throw new TypeError(`tls has no ${name}, only ${known.join(", ")}`);
  const isCa = name === "ca" || name === "clientCa";
  if (value === undefined && !isCa) return; // without its authorities, others would be trusted
  const parts: any[] = isCa && Array.isArray(value) ? value : [value];
  const isText = parts.every((part) => typeof part === "string" || part instanceof Uint8Array);
  if (isText && parts.length > 0 && parts.every(({ length }) => length > 0)) return;
  throw new TypeError(`tls.${name} must be text that is not empty`);
}

// Who is asked for by a path is on this machine. An address is the same on every interface.
function nameOf({ host }: Address): string {
  return isPath(host) ? "localhost" : host.replace(/%.*$/, "");
}

// ---- the handshake

/** An error of Bun's, and what it says in words. */
type Explained = Error & { code: string; reason: string };

/** What a TLS handle belongs to until there is a Socket. */
interface Handshake {
  done(success: boolean, cause: unknown): void;
  failed(cause: unknown): void;
}

/** A TLS socket of Bun, and when it is closed but has not sent all, how long it has for that. */
interface Secured extends Handle {
  linger?: Timer;
}

/** Makes a connection secure. Until that is done, or has failed, `underWay` has what calls it off. */
export function secure(
  plain: Handle,
  secrets: Secrets,
  underWay: Set<CallOff>,
  hears: Hears<Explained>,
): void {
  let handle = plain;
  const end = (tell: () => void) => {
    if (!underWay.delete(callOff)) return;
    clearTimeout(timer);
    tell();
  };
  const callOff = () => end(() => handle.terminate());
  const failed = (cause: unknown) => end(() => hears.failed(explained(cause)));
  const refuse = (cause: unknown) => {
    failed(cause);
    handle.terminate();
  };
  const late = { code: "ETIMEDOUT", message: "no TLS handshake within 10 s" };
  const timer = setTimeout(() => refuse(late), HANDSHAKE_MS);
  underWay.add(callOff);
  const { isServer, requestCert } = secrets;
  const handshake: Handshake = {
    done(success, cause) {
      if (!success)
        failed(cause); // Bun closes, once the peer has been told
      else if (handle.authorized || (isServer && !requestCert)) end(() => hears.opened(handle));
      else refuse(cause);
    },
    failed,
  };
  try {
    const data = handshake as unknown as HandleData;
    const options = { tls: secrets, isServer, socket: handlers, data };
    handle = Object.assign(plain.upgradeTLS<HandleData>(options)[1], { end: endSecured });
  } catch (cause) {
    refuse(cause);
  }
}

/** @internal What Bun calls for the TCP socket below: what that carries is not for us. */
export const rawHandlers: Bun.SocketHandler<HandleData> = {
  open: Socket.handlers.open,
  drain() {},
  connectError() {},
};

// What Bun calls for the TLS socket: as for any other, once there is a Socket.
const handlers: Bun.SocketHandler<HandleData> = {
  ...Socket.handlers,
  open() {},
  handshake: (handle, success, cause) => pending(handle)?.done(success, cause),
  drain: (handle: Secured) => {
    if (handle.linger !== undefined) endSent(handle);
    else if (!pending(handle)) Socket.handlers.drain!(handle);
  },
  end: (handle) => void (pending(handle) ?? Socket.handlers.end!(handle)),
  error: (handle, cause) => Socket.handlers.close!(handle, explained(cause)),
  close: (handle: Secured, cause) => {
    clearTimeout(handle.linger);
    pending(handle)?.failed(cause ?? { code: "ECONNRESET", message: "" });
    Socket.handlers.close!(handle, cause);
  },
};

function pending({ data }: Handle): Handshake | undefined {
  return data instanceof Socket ? undefined : (data as unknown as Handshake);
}

const WORDS: Record<string, string> = {
  ECONNRESET: "the connection ended in the TLS handshake",
  HTTP_REQUEST: "the other side does not speak TLS",
  NO_START_LINE: "no PEM",
  WRONG_VERSION_NUMBER: "the other side does not speak TLS",
};

// What BoringSSL says ends in a name of its own: "error:100000f7:SSL routines:…:WRONG_VERSION_NUMBER".
function explained(cause: any): Explained {
  const { code = "EPROTO", message } = cause;
  const [, name = ""] = message.match(/^error:.*:(\w+)$/) ?? [];
  const reason = WORDS[name || code] ?? (name.toLowerCase().replaceAll("_", " ") || message);
  return Object.assign(cause, { code, reason });
}

// ---- the end

// close(2) for TLS: close_notify and FIN. What the kernel had no room for is still with Bun, and with its
// own `end` it would be there for ever if the peer does not read. Nor is a part of it to look like all.
function endSecured(this: Secured): void {
  this.shutdown();
  if (endSent(this)) return;
  this.pause(); // nobody takes what comes
  this.linger = setTimeout(() => this.terminate(), LINGER_MS);
}

/** Lets go of the descriptor, if all has left. */
function endSent(handle: Secured): boolean {
  if (handle.write("") === 0) return false;
  clearTimeout(handle.linger);
  Object.getPrototypeOf(handle).end.call(handle);
  return true;
}
