// Turns of the event loop. Awaiting a promise that is already resolved does not let the loop turn: a program
// that awaits only such promises blocks timers, signals and all other connections. So calls that return
// without waiting are counted, and after `MANY` of them a call waits for the next turn.
//
// Tasks for the end of a turn, such as sending what was gathered, run here too.

/** How many calls in a row may return without waiting. */
const MANY = 256;
/** How many bytes count as one more call. */
const BYTES = 4096;

let calls = 0;
let turns = 0;
let isCounted = false; // this turn's end will be noticed
let tasks: (() => void)[] = [];
let next: Promise<void> | null = null;
const NOW: Promise<void> = Promise.resolve();

/** Counts a call that need not wait, and its bytes. True if it has to wait for the next turn anyway. */
export function isTooMany(bytes = 0): boolean {
  return (calls += 1 + bytes / BYTES) > MANY;
}

/** For a call that need not wait: a resolved promise, or the next turn if there were too many. */
export function done(bytes = 0): Promise<void> {
  return isTooMany(bytes) ? nextTurn() : NOW;
}

/** To be called when the event loop has turned: the count starts again. */
export function hasTurned(): void {
  calls = 0;
}

/** Runs `task` when this turn ends. It must not throw. */
export function atTurnsEnd(task: () => void): void {
  thisTurn();
  tasks.push(task);
}

/** This turn's number. */
export function thisTurn(): number {
  if (!isCounted) setImmediate(endTurn);
  isCounted = true;
  return turns;
}

/** Resolves in the next turn. All callers share one promise. */
export function nextTurn(): Promise<void> {
  return (next ??= new Promise((resolve) => atTurnsEnd(resolve)));
}

function endTurn(): void {
  const due = tasks;
  tasks = [];
  next = null;
  calls = 0;
  turns++;
  isCounted = false;
  for (const task of due) task();
}
