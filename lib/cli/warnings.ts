// Warnings about single connections. Peers can cause any number of them, so at most one a second is
// printed on stderr.

const EVERY_MS = 1_000;

let held = 0; // warnings that are not printed yet
let last = "";
let timer: Timer | undefined;
process.on("exit", tell);

/** Prints a warning at once or when the second is over, with the number of others. Threads share the limit. */
export function addWarning(line: string): void {
  if (!Bun.isMainThread) {
    return require("node:worker_threads").parentPort.postMessage({ warning: line });
  }
  held++;
  last = line;
  if (timer !== undefined) return;
  tell();
}

function tell(): void {
  timer = undefined;
  if (held === 0) return;
  console.error(`warning: ${last}${held > 1 ? ` (and ${held - 1} more)` : ""}`);
  held = 0;
  timer = setTimeout(tell, EVERY_MS).unref();
}
