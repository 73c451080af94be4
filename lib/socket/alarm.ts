// One timer for many deadlines. To arm a timer for every message would cost more than the message, so
// this one stays armed from call to call. When it fires, its owner checks which deadlines have passed.

/** The longest delay of setTimeout(): 2^31 - 1 ms, 25 days. */
export const MAX_DELAY = 2_147_483_647;

/** Calls `ring` after a deadline, on the clock of `performance.now()`. Does not keep the process alive. */
export class Alarm {
  readonly #ring: () => void;
  #timer: Timer | undefined;
  #due = Infinity;

  constructor(ring: () => void) {
    this.#ring = ring;
  }

  /** Calls `ring` at `deadline` or earlier. If it is called early, it has to set the alarm again. */
  set(deadline: number): void {
    if (deadline >= this.#due) return;
    clearTimeout(this.#timer);
    this.#due = deadline;
    const delay = Math.min(Math.max(0, deadline - performance.now()), MAX_DELAY);
    this.#timer = setTimeout(() => {
      this.#due = Infinity;
      this.#ring();
    }, delay).unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#due = Infinity;
  }
}
