// TLS from the files that the flags of a script name: read, checked, and read again at a SIGHUP.

import type { ClientTls, ServerTls } from "../socket.ts";
import { refuse } from "./output.ts";

/** How the main thread tells its threads of a renewed certificate. */
const CHANNEL = "socket-tls";

type TlsFlags = { tlsCert?: string; tlsKey?: string; acceptProxy?: boolean };

/**
 * `tls` for `listen`, from `tlsFlags`; undefined without them. The process exits with 2 when a file cannot
 * be used. A SIGHUP reads the files again: the next handshake uses the renewed certificate.
 *
 * @example
 * const flags = cli("Says hello.", { ...serverFlags(4000), ...tlsFlags });
 * using server = listen({ port: flags.port, tls: serverTls(flags) });
 */
export function serverTls({ tlsCert, tlsKey, acceptProxy }: TlsFlags): ServerTls | undefined {
  if (tlsCert === undefined && tlsKey === undefined) return undefined;
  if (tlsCert === undefined || tlsKey === undefined) {
    return refuse("--tls-cert (TLS_CERT) and --tls-key (TLS_KEY) are needed together");
  }
  if (acceptProxy)
    return refuse("--accept-proxy and --tls-cert cannot be had together (see --help)");
  // A thread does not read the files, which may be wrong by then: it gets their content from `startThreads`.
  if (!Bun.isMainThread) return followMainThread(require("node:worker_threads").workerData.tls);
  const read = () => readServerTls(tlsCert, tlsKey);
  const tls = orRefuse(read);
  renewAtSignal(tls, read);
  return tls;
}

/** `tls` for `connect`, from `tlsClientFlags`; undefined without them. Exits as `serverTls` does. */
export function clientTls({ tls, tlsCa }: { tls: boolean; tlsCa?: string }) {
  if (tlsCa === undefined) return tls || undefined;
  return orRefuse((): ClientTls => ({ ca: readCertificate(tlsCa)[0] }));
}

function orRefuse<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    return refuse((error as Error).message);
  }
}

function openChannel(hear: (message: any) => void): BroadcastChannel {
  const channel = new BroadcastChannel(CHANNEL);
  channel.unref();
  channel.onmessage = ({ data }) => hear(data);
  return channel;
}

// A thread asks with null, since the certificate may have been renewed while it started.
function followMainThread(tls: any): ServerTls {
  openChannel((renewed) => Object.assign(tls, renewed)).postMessage(null);
  return tls;
}

// At a SIGHUP, `tls` is read again, for all threads; if `read` throws, `tls` does not change.
function renewAtSignal(tls: ServerTls, read: () => ServerTls): void {
  const channel = openChannel(() => channel.postMessage(tls));
  process.on("SIGHUP", () => {
    try {
      channel.postMessage(Object.assign(tls, read()));
      const { validTo } = new (crypto().X509Certificate)(tls.cert);
      console.error(`the certificate was renewed: valid until ${validTo}`);
    } catch (error) {
      console.error(`the certificate stays as it was: ${(error as Error).message}`);
    }
  });
}

// ---- the files. Each of these throws an `Error` that names the file which cannot be used.

const crypto = () => require("node:crypto") as typeof import("node:crypto");

function readServerTls(certFile: string, keyFile: string): ServerTls {
  const [cert, certificate] = readCertificate(certFile);
  const [key, privateKey] = readPem(keyFile, "unencrypted private key", crypto().createPrivateKey);
  if (certificate.checkPrivateKey(privateKey)) return { cert, key };
  throw new Error(`${keyFile} is not the key of ${certFile}`);
}

// `X509Certificate` reads the first certificate only; the others are the chain.
const chain = (cert: string) =>
  require("node:tls").createSecureContext({ cert }) && new (crypto().X509Certificate)(cert);

function readCertificate(file: string) {
  return readPem(file, "certificate", chain);
}

function readPem<T>(file: string, what: string, parse: (pem: string) => T): [pem: string, T] {
  let pem: string;
  try {
    pem = require("node:fs").readFileSync(file, "utf8");
  } catch (error) {
    const [, why] = (error as Error).message.match(/^\w+: ([^,]+)/) ?? [];
    throw new Error(`cannot read ${file}: ${why}`);
  }
  try {
    return [pem, parse(pem)];
  } catch {
    throw new Error(`${file} holds no ${what} in PEM`);
  }
}
