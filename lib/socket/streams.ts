// A socket's two directions as Web Streams. They use nothing but `recv`, `unrecv`, `sendAll`, `shutdown`
// and `reset`, and ending one direction does not end the other.

import { CHUNK } from "./queues.ts";

/** The methods that the streams call. */
interface Connection {
  recv(maxBytes: number, options: { signal: AbortSignal }): Promise<Buffer>;
  unrecv(bytes: Buffer): void;
  sendAll(data: Uint8Array): Promise<void>;
  shutdown(how: "write"): void;
  reset(): void;
}

/** Makes `conn.readable`. */
export function readableSide(
  conn: Pick<Connection, "recv" | "unrecv">,
): ReadableStream<Uint8Array> {
  const cancelled = new AbortController();
  const source = {
    async pull(controller: ReadableStreamDefaultController<Uint8Array>) {
      const chunk = await conn.recv(CHUNK, { signal: cancelled.signal });
      if (cancelled.signal.aborted) conn.unrecv(chunk);
      else if (chunk.length > 0) controller.enqueue(chunk);
      else controller.close();
    },
    cancel: () => cancelled.abort(),
  };
  // A high-water mark of 0: nothing is received before somebody reads.
  return new ReadableStream(source, { highWaterMark: 0 });
}

/** Makes `conn.writable`. */
export function writableSide(conn: Connection): WritableStream<Uint8Array> {
  return new WritableStream<Uint8Array>({
    // Not in abort(): it is called after the write under way has ended, which may be never.
    start(controller) {
      const { signal } = controller as unknown as { signal: AbortSignal };
      signal.addEventListener("abort", () => conn.reset());
    },
    write: (chunk) => conn.sendAll(chunk),
    close: () => conn.shutdown("write"),
  });
}
