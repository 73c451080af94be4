// Makes certificates: X.509 (RFC 5280) in DER, in which every value is a tag, a length and the content.
// Only for trying out and for tests. For anything else, use an authority or openssl.

import { createPrivateKey, generateKeyPairSync, randomBytes, sign } from "node:crypto";

/** A certificate and its private key, both in PEM. */
export interface Certificate {
  name: string;
  cert: string;
  key: string;
}

const ECDSA_WITH_SHA256 = "2a8648ce3d040302";
const COMMON_NAME = "550403";
const SUBJECT_ALT_NAME = "551d11";
const BASIC_CONSTRAINTS = "551d13";

const [BOOLEAN, INTEGER, BITS, OCTETS, OID, UTF8, TIME] = [1, 2, 3, 4, 6, 12, 24] as const;
const [SEQUENCE, SET] = [0x30, 0x31] as const;

/**
 * A certificate for `name` (for `localhost`, its addresses as well), signed by `issuer`, or by itself.
 * It is valid from an hour ago for `days` days; with 0 or less, it has already expired.
 *
 * @example
 * const { cert, key } = makeCertificate("localhost");
 */
export function makeCertificate(name: string, issuer?: Certificate, days = 30): Certificate {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const start = Date.now() - 3_600_000;
  const [from, to] = [Math.min(start, start + days * 86_400_000 - 1), start + days * 86_400_000];
  const algorithm = der(SEQUENCE, der(OID, hex(ECDSA_WITH_SHA256)));
  const addresses = name === "localhost" ? ["7f000001", "00000000000000000000000000000001"] : [];
  const names = [der(0x82, Buffer.from(name)), ...addresses.map((bytes) => der(0x87, hex(bytes)))];
  const extensions = [extension(SUBJECT_ALT_NAME, der(SEQUENCE, ...names))];
  if (issuer === undefined)
    extensions.push(extension(BASIC_CONSTRAINTS, der(SEQUENCE, der(BOOLEAN, hex("ff")))));
  const signed = der(
    SEQUENCE,
    der(0xa0, der(INTEGER, hex("02"))), // version 3
    der(INTEGER, hex("01"), randomBytes(8)), // the serial number
    algorithm,
    distinguished(issuer?.name ?? name),
    der(SEQUENCE, time(from), time(to)),
    distinguished(name),
    publicKey.export({ type: "spki", format: "der" }),
    der(0xa3, der(SEQUENCE, ...extensions)),
  );
  const signer = issuer === undefined ? privateKey : createPrivateKey(issuer.key);
  const signature = der(BITS, hex("00"), sign("sha256", signed, signer));
  return {
    name,
    cert: pem("CERTIFICATE", der(SEQUENCE, signed, algorithm, signature)),
    key: privateKey.export({ type: "pkcs8", format: "pem" }) as string,
  };
}

function der(tag: number, ...parts: Uint8Array[]): Buffer {
  const content = Buffer.concat(parts);
  const { length } = content;
  const size =
    length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255];
  return Buffer.concat([Buffer.from([tag, ...size]), content]);
}

function distinguished(name: string): Buffer {
  return der(
    SEQUENCE,
    der(SET, der(SEQUENCE, der(OID, hex(COMMON_NAME)), der(UTF8, Buffer.from(name)))),
  );
}

function extension(oid: string, content: Buffer): Buffer {
  return der(SEQUENCE, der(OID, hex(oid)), der(OCTETS, content));
}

// 20261125190742Z
function time(ms: number): Buffer {
  return der(TIME, Buffer.from(new Date(ms).toISOString().replace(/\.\d+|[-:T]/g, "")));
}

function hex(digits: string): Buffer {
  return Buffer.from(digits, "hex");
}

function pem(label: string, content: Buffer): string {
  const lines = content.toString("base64").replace(/.{64}(?=.)/g, "$&\n");
  return `-----BEGIN ${label}-----\n${lines}\n-----END ${label}-----\n`;
}
