// TLS from the files that the flags of a script name: read, checked, and read again at a SIGHUP.

import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";

import type { ClientTls, ServerTls } from "../socket.ts";

/** How the main thread tells its threads of a renewed certificate. */
const CHANNEL = "socket-tls";

/** Throws an `Error` that names the file which cannot be used. */
export function readServerTls(certFile: string, keyFile: string): ServerTls {
  const cert = read(certFile);
  const key = read(keyFile);
  const certificate = parsed("certificate", certFile, () => new X509Certificate(cert));
  const privateKey = parsed("unencrypted private key", keyFile, () => createPrivateKey(key));
  if (certificate.checkPrivateKey(privateKey)) return { cert, key };
  throw new Error(`${keyFile} is not the key of ${certFile}`);
}

/** Throws an `Error` that names the file. */
export function readClientTls(caFile: string): ClientTls {
  const ca = read(caFile);
  parsed("certificate", caFile, () => new X509Certificate(ca));
  return { ca };
}

/** At a SIGHUP, `tls` gets what `renew` gives then, in all threads; if that throws, it stays as it is. */
export function renewAtSignal(
  tls: ServerTls,
  renew: () => ServerTls,
  tell: (line: string) => void,
): void {
  const channel = new BroadcastChannel(CHANNEL);
  channel.unref();
  channel.onmessage = ({ data }) => Object.assign(tls, data);
  if (!Bun.isMainThread) return;
  process.on("SIGHUP", () => {
    try {
      channel.postMessage(Object.assign(tls, renew()));
      tell(`the certificate was renewed: valid until ${new X509Certificate(tls.cert).validTo}`);
    } catch (error) {
      tell(`the certificate stays as it was: ${(error as Error).message}`);
    }
  });
}

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const [, why] = (error as Error).message.match(/^\w+: ([^,]+)/) ?? [];
    throw new Error(`cannot read ${file}: ${why}`);
  }
}

function parsed<T>(what: string, file: string, parse: () => T): T {
  try {
    return parse();
  } catch {
    throw new Error(`${file} holds no ${what} in PEM`);
  }
}
