// A socket's two sides as Web Streams, for code that speaks those. Each stands on the verbs alone,
// and the one side never closes the other.

import { CHUNK } from "./queues.ts";

/** What the sides need of a connection. */
interface Connection {
  recv(maxBytes: number, options: { signal: AbortSignal }): Promise<Buffer>;
  sendAll(data: Uint8Array): Promise<void>;
  shutdown(how: "write"): void;
  reset(): void;
}

/** What `conn.readable` is. */
export function readableSide(conn: Connection): ReadableStream<Uint8Array> {
  const cancelled = new AbortController();
  const source = {
    async pull(controller: ReadableStreamDefaultController<Uint8Array>) {
      const chunk = await conn.recv(CHUNK, { signal: cancelled.signal });
      if (chunk.length > 0) controller.enqueue(chunk);
      else controller.close();
    },
    cancel: () => cancelled.abort(),
  };
  // A high-water mark of 0: nothing is received before somebody reads.
  return new ReadableStream(source, { highWaterMark: 0 });
}

/** What `conn.writable` is. */
export function writableSide(conn: Connection): WritableStream<Uint8Array> {
  return new WritableStream<Uint8Array>({
    // Not in abort(): that would wait for a write which may never end.
    start(controller) {
      const { signal } = controller as unknown as { signal: AbortSignal };
      signal.addEventListener("abort", () => conn.reset());
    },
    write: (chunk) => conn.sendAll(chunk),
    close: () => conn.shutdown("write"),
  });
}
