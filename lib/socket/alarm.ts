// One timer for many deadlines. Arming a timer for every message would cost more than the message:
// this one stays armed from call to call, and when it rings its owner looks what is really due.

/** setTimeout() takes no longer delay: 2^31 - 1 ms, 25 days. */
export const MAX_DELAY = 2_147_483_647;

/** Rings when a deadline has passed, on the clock of `performance.now()`. Keeps no process alive. */
export class Alarm {
  readonly #ring: () => void;
  #timer: Timer | undefined;
  #due = Infinity;

  constructor(ring: () => void) {
    this.#ring = ring;
  }

  /** To ring at `deadline`, or before: who is rung for nothing sets it again. */
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
