// A loop that waits: it tries a call, and while that cannot go on yet, waits until the socket has
// changed and tries again. `waitReadable`, `accept`, `recvFrom` and `select` use it.

/** Bits of `poll()`, with the values they have in poll(2) on Linux. */
export const POLLIN = 1; // recv or accept would not wait: data, EOF, an error, a connection
export const POLLOUT = 4; // send would not wait: room, or an error
export const POLLERR = 8; // the connection broke
export const POLLNVAL = 32; // closed on our side

export interface WaitOptions {
  /** Ends the wait: the call rejects with the signal's reason. Nothing that was received is lost. */
  signal?: AbortSignal;
}

/** A change that calls can wait for: one promise serves them all. `tell` also tells `anyChange`. */
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
 * Calls `act` when the signal aborts (at once if it has aborted already); disposing of the result ends that.
 * (`node:events` has the same, but loading it makes every script start a millisecond later.)
 */
export function onAbort(signal: AbortSignal, act: () => void): Disposable {
  if (signal.aborted) act();
  else signal.addEventListener("abort", act);
  return { [Symbol.dispose]: () => signal.removeEventListener("abort", act) };
}

/** Any socket of this thread changed. */
export const anyChange = new Change();

/**
 * A blocking call: calls the non-blocking `attempt`, and as long as that gives null, waits for a change
 * and calls it again. Rejects with the signal's reason or with what `attempt` throws. (`attempt` has to
 * check time limits, and a timer has to tell the change.)
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
