// Printing to stdout: in whole lines, also from threads, and noticing when nobody reads any more.

import type { MessagePort, Worker } from "node:worker_threads";

import { reason } from "./describe.ts";
import { addWarning } from "./warnings.ts";

/** Writes a line to stdout. Resolves when it is out: a reader who is slow slows down who awaits it. */
export function print(line: string): Promise<void> {
  return write(`${line}\n`);
}

let stdout: Bun.FileSink | undefined;

/** Writes text, or bytes, to stdout as they are. When nobody reads it any more (`| head`), the process ends. */
export async function write(text: string | Uint8Array): Promise<void> {
  if (!Bun.isMainThread) return writeInMainThread(text);
  try {
    stdout ??= Bun.stdout.writer();
    stdout.write(text);
    await stdout.flush();
    if (openLine !== null) openLine = (openLine + text).slice(-MAX_OPEN).replace(/^.*\n/s, "");
  } catch (error) {
    const { code = "" } = error as { code?: string };
    if (code === "EPIPE") process.exit(0);
    console.error(`error: cannot write to stdout: ${reason(code)}`);
    process.exit(1);
  }
}

/** What stdout has begun and not ended, where notes share the terminal with it. */
let openLine: string | null = null;
const MAX_OPEN = 1_000; // characters

/**
 * Gives what writes a line to stderr for `--trace`. Where that is the terminal on which stdout is, too,
 * a line that stdout has begun (`>`) moves down below it, instead of running into it.
 */
export function noteWriter(): (line: string) => void {
  const { isatty } = require("node:tty") as typeof import("node:tty");
  if (!Bun.isMainThread || !isatty(1) || !isatty(2)) return console.error;
  openLine = "";
  // Who types a line ends the one that asked for it.
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

/** What a thread asks of the main thread: to write for it, and to say when that is done. */
interface WriteRequest {
  write: string | Uint8Array;
  done: MessagePort;
}

// Threads that wrote by themselves would cut into each other's lines when a pipe is full.
function writeInMainThread(text: string | Uint8Array): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  require("node:worker_threads").parentPort.postMessage({ write: text, done: port2 }, [port2]);
  return new Promise((resolve) => {
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
  });
}

/** Has the main thread write what its threads print. Their other messages are none of its business. */
export function answerWrites(): void {
  process.on("worker", (worker: Worker) =>
    worker.on("message", (message: unknown) => {
      const {
        write: text,
        done,
        warning,
      } = Object(message) as WriteRequest & { warning?: unknown };
      if (typeof warning === "string") addWarning(warning);
      if (done instanceof globalThis.MessagePort) write(text).then(() => done.postMessage("done"));
    }),
  );
}

let onTerminal: boolean | undefined;

/**
 * Text that the peer sent, to be printed. On a terminal it has a colour of its own, so that one sees
 * who speaks (unless `NO_COLOR` is set), and characters that would command the terminal are shown as
 * unknown. In a pipe or a file it is as it came.
 */
export function peerText(text: string): string {
  onTerminal ??= require("node:tty").isatty(1) as boolean;
  if (!onTerminal) return text;
  const harmless = text.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, "\ufffd");
  return !process.env.NO_COLOR ? `\x1b[36m${harmless}\x1b[39m` : harmless;
}
