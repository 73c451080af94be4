// The one way to wait. A socket that cannot go on is asked what it could do (`poll`), and when it
// can do nothing yet, one waits until it has changed and asks again. `waitReadable`, `accept`,
// `recvFrom` and `select` are that loop.

/** Bits of `poll()`, with the values they have in poll(2) on Linux. */
export const POLLIN = 1; // recv or accept would not wait: data, EOF, an error, a connection
export const POLLOUT = 4; // send would not wait: room, or an error
export const POLLERR = 8; // the connection broke
export const POLLNVAL = 32; // closed on our side

export interface WaitOptions {
  /** Ends the wait, which rejects with its reason. Nothing that was received is lost. */
  signal?: AbortSignal;
}

/** Something that changes, and those who wait for it to: one promise serves them all. `anyChange` is told, too. */
export class Change {
  #next: PromiseWithResolvers<void> | null = null;

  /** Resolves the next time `tell()` is called. */
  wait(): Promise<void> {
    return (this.#next ??= Promise.withResolvers<void>()).promise;
  }

  tell(): void {
    const next = this.#next;
    this.#next = null;
    next?.resolve();
    if (this !== anyChange) anyChange.tell();
  }
}

/**
 * Calls `act` when the signal aborts (at once if it has aborted already), until it is disposed of. (`node:events`
 * has the same, but loading it would take every script a millisecond more to start.)
 */
export function onAbort(signal: AbortSignal, act: () => void): Disposable {
  if (signal.aborted) act();
  else signal.addEventListener("abort", act);
  return { [Symbol.dispose]: () => signal.removeEventListener("abort", act) };
}

/** Any socket of this thread changed. */
export const anyChange = new Change();

/**
 * A blocking call: a non-blocking one, `attempt`, and a wait for a change as long as it gives null.
 * Rejects with the signal's reason and with what `attempt` throws. (Time limits are for `attempt`, and
 * for an `Alarm` that tells the change.)
 */
export async function retry<T>(
  change: Pick<Change, "wait" | "tell">,
  attempt: () => T | null,
  { signal }: WaitOptions = {},
): Promise<T> {
  using _listener = signal && onAbort(signal, () => change.tell());
  for (;;) {
    signal?.throwIfAborted();
    const value = attempt();
    if (value !== null) return value;
    await change.wait();
  }
}
