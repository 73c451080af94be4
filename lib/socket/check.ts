// Checks of arguments. A wrong one throws a `RangeError` or `TypeError` that shows the value.

/** A whole number from `min` to `max`. */
export function checkCount(name: string, value: number, min: number, max = Infinity): number {
  if (Number.isSafeInteger(value) && value >= min && value <= max) return value;
  const range = max < Infinity ? `from ${min} to ${max}` : `of at least ${min}`;
  throw wrong(value, `${name} must be a whole number ${range}`);
}

/** Milliseconds, above 0. */
export function checkTimeout(ms: number): number {
  if (typeof ms === "number" && ms > 0) return ms;
  throw wrong(ms, "timeout must be above 0 milliseconds");
}

/** Text that is not empty. */
export function checkText(name: string, text: string): string {
  if (typeof text === "string" && text !== "") return text;
  throw new TypeError(`${name} must be text, not ${Bun.inspect(text)}`);
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
