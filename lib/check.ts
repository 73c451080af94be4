// Arguments that make no sense are refused where they come in, with the value in the message.

/** A whole number from `min` to `max`. */
export function checkCount(
  name: string,
  value: number,
  min: number,
  max = Number.MAX_SAFE_INTEGER,
) {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  const range = max < Number.MAX_SAFE_INTEGER ? `from ${min} to ${max}` : `of at least ${min}`;
  throw wrong(value, `${name} must be a whole number ${range}`);
}

/** A port to listen on (`min` 0: any that is free) or to connect to (`min` 1). */
export function checkPort(port: number, min: 0 | 1): number {
  return checkCount("port", port, min, 65_535);
}

/** Milliseconds, more than none. */
export function checkTimeout(ms: number): number {
  if (typeof ms === "number" && ms > 0) return ms;
  throw wrong(ms, "timeout must be above 0 milliseconds");
}

/** An address or a name; this machine alone when none is given. */
export function checkHost(host = "127.0.0.1"): string {
  if (typeof host === "string" && host !== "") return host;
  throw new TypeError(`host must be an address or a name, not ${Bun.inspect(host)}`);
}

/** What goes on the wire: bytes as they are, text as UTF-8. */
export function toBytes(data: string | Uint8Array): Uint8Array {
  if (data instanceof Uint8Array) return data;
  if (typeof data === "string") return Buffer.from(data);
  throw new TypeError(`data must be a string or a Uint8Array, not ${Bun.inspect(data)}`);
}

function wrong(value: unknown, rule: string): Error {
  const Kind = typeof value === "number" ? RangeError : TypeError;
  return new Kind(`${rule}, not ${Bun.inspect(value)}`);
}
