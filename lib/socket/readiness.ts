// The one way to wait. A socket that cannot go on is asked what it could do (`poll`), and when it
// can do nothing yet, one waits until it has changed and asks again. `waitReadable`, `accept` and
// `select` are that loop.

/** Bits of `poll()`, with the values they have in poll(2) on Linux. */
export const POLLIN = 1; // recv or accept would not wait: data, EOF, an error, a connection
export const POLLOUT = 4; // send would not wait: room, or an error
export const POLLERR = 8; // the connection broke
export const POLLNVAL = 32; // closed on our side

/** Something that changes, and those who wait for it to: one promise serves them all. */
export class Change {
  #next: PromiseWithResolvers<void> | null = null;

  /** Resolves the next time `now()` is called. */
  wait(): Promise<void> {
    return (this.#next ??= Promise.withResolvers<void>()).promise;
  }

  now(): void {
    const next = this.#next;
    if (next === null) return;
    this.#next = null;
    next.resolve();
  }
}

/** Any socket of this thread changed. */
export const anyChange = new Change();
