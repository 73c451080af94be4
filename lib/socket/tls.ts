// TLS below a Socket. The options are checked before anything is sent, and the handshake is done before
// there is a Socket. From then on a TLS handle works like any other Bun socket, except when it ends.
//
// Every connection begins as plain TCP and is then upgraded with `upgradeTLS`, on both sides. (Bun can also
// listen and connect with `tls` directly.) So with several addresses only the connection that is used has a
// handshake, and a certificate can be replaced while the server listens.

import { type Address, isPath } from "../address.ts";
import { SocketError } from "../errors.ts";
import { type Handle, type HandleData, Socket, UNSENT } from "./connection.ts";

/** Certificates or a key in PEM, RFC 7468: the text itself, not the name of its file. */
export type Pem = string | Uint8Array;

export interface ServerTls {
  /** The server's certificate, followed by the intermediate ones, if there are any. */
  cert: Pem;
  /** Its private key. */
  key: Pem;
  /** The passphrase of an encrypted key. */
  passphrase?: string;
  /** Clients must have a certificate of one of these authorities. */
  clientCa?: Pem | Pem[];
}

/** `cert` and `key` are our own, for a server that asks for them. */
export interface ClientTls extends Partial<Omit<ServerTls, "clientCa">> {
  /** The authorities to trust, or the server's self-signed certificate. Default: the public ones. */
  ca?: Pem | Pem[];
  /** The name that must be in the server's certificate. Default: the host; `localhost` for a path. */
  serverName?: string;
}

/** The checked options for Bun. */
export type Secrets = Bun.TLSOptions & { isServer: boolean };

/** The callbacks of an attempt: one of the two is called, once; none if the attempt is cancelled. */
export interface Hears {
  opened(handle: Handle): void;
  failed(cause: unknown): void;
}

/** The attempts that are under way: a function for each, which cancels it. */
export type UnderWay = Set<() => void>;

/** How long a handshake may take, in ms. */
const HANDSHAKE_MS = 10_000;

// ---- the options

const FIELDS = {
  listen: ["cert", "key", "passphrase", "clientCa"],
  connect: ["cert", "key", "passphrase", "ca", "serverName"],
};

/**
 * Checks the options and converts them for Bun. Throws a `TypeError` for missing, empty or unknown options:
 * with those, Bun would connect without TLS. Throws a `SocketError` for text that is not PEM, or a key of
 * another certificate.
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
  // A Unix socket is on this machine. The interface of a link-local address (%eth0) is no part of its name.
  const name = isPath(address.host) ? "localhost" : address.host.replace(/%.*$/, "");
  const { ca, clientCa, serverName = name } = given;
  const own = isServer ? { ca: clientCa, requestCert: clientCa !== undefined } : { ca, serverName };
  // Each handshake reads the rest from the caller's object: the certificate may have been renewed.
  const checked = { ...own, isServer, rejectUnauthorized: true };
  const secrets = Object.assign(Object.create(given), checked);
  try {
    (require("node:tls") as typeof import("node:tls")).createSecureContext(secrets);
    return secrets;
  } catch (cause) {
    throw new SocketError(explained(cause).code, side, address, { cause });
  }
}

// The message names the option, but not its value, which may be a key.
function checkField(known: string[], name: string, value: unknown): void {
  if (!known.includes(name)) throw new TypeError(`tls has no ${name}, only ${known.join(", ")}`);
  const isCa = name === "ca" || name === "clientCa";
  if (value === undefined && !isCa) return; // an undefined `ca` would mean the public authorities
  const parts: any[] = isCa && Array.isArray(value) ? value : [value];
  const isText = parts.every((part) => typeof part === "string" || part instanceof Uint8Array);
  if (isText && parts.length > 0 && parts.every(({ length }) => length > 0)) return;
  throw new TypeError(`tls.${name} must be text that is not empty`);
}

// ---- the handshake

/** The `data` of a TLS handle until there is a Socket: called when the handshake ends. */
type Handshake = (success: boolean, cause: unknown) => void;

/** Does the TLS handshake on a connection. Until it ends, `underWay` has the function that cancels it. */
export function secure(plain: Handle, tls: Secrets, underWay: UnderWay, hears: Hears) {
  let handle = plain;
  const end = (tell: () => void) => {
    if (!underWay.delete(callOff)) return;
    clearTimeout(timer);
    tell();
  };
  const callOff = () => end(() => handle.terminate());
  const refuse = (cause: unknown) => {
    done(false, cause);
    handle.terminate();
  };
  const late = { code: "ETIMEDOUT", message: "no TLS handshake within 10 s" };
  const timer = setTimeout(() => refuse(late), HANDSHAKE_MS);
  underWay.add(callOff);
  const { isServer, requestCert } = tls;
  const done: Handshake = (success, cause) => {
    // Bun sends the TLS alert and closes.
    if (!success) end(() => hears.failed(explained(cause)));
    else if (handle.authorized || (isServer && !requestCert)) end(() => hears.opened(handle));
    else refuse(cause);
  };
  try {
    const data = done as unknown as HandleData;
    const options = { tls, isServer, socket: handlers, data };
    handle = Object.assign(plain.upgradeTLS<HandleData>(options)[1], { end: endSecured });
  } catch (cause) {
    refuse(cause);
  }
}

/** @internal The handlers of the TCP socket below TLS. Bun itself reads its encrypted data. */
export const rawHandlers: Bun.SocketHandler<HandleData> = {
  open: Socket.handlers.open,
  drain() {},
};

// The handlers of the TLS socket: once there is a Socket, the usual ones.
const handlers: Bun.SocketHandler<HandleData> = {
  ...Socket.handlers,
  open() {},
  handshake: (handle, success, cause) => pending(handle)?.(success, cause),
  drain: (handle) => void (pending(handle) ?? Socket.handlers.drain!(handle)),
  end: (handle) => void (pending(handle) ?? Socket.handlers.end!(handle)),
  error: (handle, cause) => Socket.handlers.close!(handle, explained(cause)),
  close: (handle, cause) => {
    pending(handle)?.(false, cause ?? { code: "ECONNRESET", message: "" });
    Socket.handlers.close!(handle, cause);
  },
};

function pending({ data }: Handle): Handshake | undefined {
  return data instanceof Socket ? undefined : (data as unknown as Handshake);
}

const WORDS: Record<string, string> = {
  BAD_PACKET_LENGTH: "the other side has refused the TLS handshake", // by an alert that is not encrypted
  ECONNRESET: "the connection ended in the TLS handshake",
  HTTP_REQUEST: "the other side does not speak TLS",
  NO_START_LINE: "no PEM",
  WRONG_VERSION_NUMBER: "the other side does not speak TLS",
};

// The messages of BoringSSL end in a name: "error:100000f7:SSL routines:…:WRONG_VERSION_NUMBER".
function explained(cause: any) {
  const { code = "EPROTO", message } = cause;
  const [, name = ""] = message.match(/^error:.*:(\w+)$/) ?? [];
  const words = name.toLowerCase().replaceAll("_", " ") || message.replace(/^.*?altnames: /, "");
  const reason = WORDS[name || code] ?? words;
  return Object.assign(cause, { code, reason });
}

// ---- the end

// close(2) for TLS: sends close_notify and FIN. Bun may still hold data that the kernel had no room for.
// Bun's own `end` would keep that data for ever if the peer does not read.
function endSecured(this: Handle): number {
  this.shutdown();
  return this.write("") === 0 ? UNSENT : Object.getPrototypeOf(this).end.call(this);
}
