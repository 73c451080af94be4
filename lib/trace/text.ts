// Shows what is sent, received and thrown, as one line of text that cannot control the terminal.

/** Whatever was thrown, in one line. */
export function reason(thrown: any): string {
  const text = thrown?.message ?? (typeof thrown === "string" ? thrown : Bun.inspect(thrown));
  return String(text).replace(/,?\s+(?=})|\s+/g, " ");
}

export function isData(value: unknown): value is string | Uint8Array {
  return typeof value === "string" || value instanceof Uint8Array;
}

/** The number of bytes, and the first of them. */
export function preview(data: string | Uint8Array): string {
  const bytes = Buffer.from(data);
  return `${bytes.length} ${bytes.length === 1 ? "byte" : "bytes"} ${content(bytes)}`.trimEnd();
}

/** The first bytes: as text if they are UTF-8 without control characters and U+FFFD, else in hex. */
export function content(bytes: Uint8Array): string {
  const head = Buffer.from(bytes.subarray(0, 32));
  const isCut = bytes.length > head.length;
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // what is not UTF-8 becomes U+FFFD
  const text = decoder.decode(head, { stream: isCut }); // cut, it may end within a character
  const isBinary = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffd]/.test(text);
  const shown = isBinary ? head.toString("hex").replace(/..(?=.)/g, "$& ") : JSON.stringify(text);
  return text && shown + (isCut ? "…" : "");
}
