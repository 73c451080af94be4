// Turns of the event loop. A promise that is resolved already does not let the loop turn: a program
// that awaits nothing but such promises keeps timers, signals and every other connection waiting. So
// calls that go on at once are counted, and after some of them one has to wait for the next turn.
//
// What is done once a turn for all sockets (sending what was gathered) is done here, too.

/** So many calls in a row may go on at once. */
const MANY = 256;
/** So many bytes of a call count as one call more. */
const BYTES = 4096;

let calls = 0;
let tasks: (() => void)[] = [];
let next: Promise<void> | null = null;

/** Counts a call that could go on at once, with so many bytes: true if it has to wait for the next turn. */
export function isTooMany(bytes = 0): boolean {
  return (calls += 1 + bytes / BYTES) > MANY;
}

/** The event loop has called us: others have had their turn. */
export function hasTurned(): void {
  calls = 0;
}

/** Runs `task` when this turn ends. It must not throw. */
export function atTurnsEnd(task: () => void): void {
  if (tasks.push(task) === 1) setImmediate(endTurn);
}

/** Resolves in the next turn: one promise for all who wait for it. */
export function nextTurn(): Promise<void> {
  return (next ??= new Promise((resolve) => atTurnsEnd(resolve)));
}

function endTurn(): void {
  const due = tasks;
  tasks = [];
  next = null;
  calls = 0;
  for (const task of due) task();
}
