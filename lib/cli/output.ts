// Printing to stdout, also from threads. When the reader of stdout has gone, the process ends.

import type { Worker } from "node:worker_threads";

import { oneLine, reason } from "./describe.ts";
import { addWarning } from "./warnings.ts";

/** Writes a line to stdout. Resolves when it is written: a caller that awaits it is as slow as the reader. */
export function print(line: string): Promise<void> {
  return write(`${line}\n`);
}

let stdout: Bun.FileSink | undefined;

/** Writes text or bytes to stdout. When the reader has gone (`| head`), the process exits with 0. */
export async function write(text: string | Uint8Array): Promise<void> {
  if (!Bun.isMainThread) return writeInMainThread(text);
  try {
    stdout ??= Bun.stdout.writer();
    await Promise.all([stdout.write(text), stdout.flush()]); // write() can reject, too
    if (openLine !== null) openLine = (openLine + text).slice(-MAX_OPEN).replace(/^.*\n/s, "");
  } catch (error) {
    const { code = "" } = error as { code?: string };
    if (code === "EPIPE") process.exit(0);
    console.error(`error: cannot write to stdout: ${reason(code)}`);
    process.exit(1);
  }
}

/** The line on stdout that has no newline yet, if `--trace` writes to the same terminal; else null. */
let openLine: string | null = null;
const MAX_OPEN = 1_000; // characters

/**
 * Gives the function that writes a line of `--trace` to stderr. If stdout and stderr are the same
 * terminal, an unfinished line of stdout (`>`) is erased, and written again below the line of the trace.
 */
export function noteWriter(): (line: string) => void {
  const { isatty } = require("node:tty") as typeof import("node:tty");
  if (!Bun.isMainThread || !isatty(1) || !isatty(2)) return console.error;
  openLine = "";
  // When the user has typed a line, the cursor is on a new one: the prompt is finished.
  const lines = console[Symbol.asyncIterator];
  console[Symbol.asyncIterator] = async function* () {
    for await (const line of lines.call(console)) {
      openLine = "";
      yield line;
    }
  };
  return (line) => {
    const begun = openLine ?? "";
    const fits = Bun.stringWidth(begun) < (process.stdout.columns || 80); // 0: not known
    if (!fits) openLine = "";
    require("node:fs").writeSync(2, fits ? `\r\x1b[K${line}\n${begun}` : `\n${line}\n`);
  };
}

// If threads wrote to stdout themselves, their lines would mix whenever a pipe is full. The main thread answers on
// the port when the text is written.
async function writeInMainThread(text: string | Uint8Array): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  require("node:worker_threads").parentPort.postMessage({ write: text, done: port2 }, [port2]);
  await new Promise((resolve) => (port1.onmessage = resolve));
  port1.close();
}

/** Makes the main thread write what its threads print, and collect their warnings. Other messages are not touched. */
export function answerThreads(): void {
  process.on("worker", (worker: Worker) =>
    worker.on("message", (message: unknown) => {
      const { write: text, done, warning } = Object(message);
      if (typeof warning === "string") addWarning(warning);
      if (done instanceof MessagePort) write(text).then(() => done.postMessage("done"));
    }),
  );
}

let onTerminal: boolean | undefined;

/**
 * Prepares text that came from the peer for printing. On a terminal it gets a colour, unlike our own text
 * (unless `NO_COLOR` is set), and control characters become U+FFFD, so that the peer cannot send commands
 * to the terminal; CRLF stays, as the end of a line. For a pipe or a file the text is not changed.
 */
export function peerText(text: string): string {
  onTerminal ??= require("node:tty").isatty(1) as boolean;
  if (!onTerminal) return text;
  const harmless = text.replace(/(?!\r\n)[\0-\x08\x0b-\x1f\x7f-\x9f]/g, "\ufffd");
  return !process.env.NO_COLOR ? `\x1b[36m${harmless}\x1b[39m` : harmless;
}

/** Prints an error about the flags, in one line on stderr, and exits with 2. */
export function refuse(message: string): never {
  console.error(`error: ${oneLine(message)}`);
  process.exit(2);
}
