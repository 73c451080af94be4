// The files that name Unix-domain sockets, unix(7). A process that is killed leaves its file behind,
// and nobody could listen there again. Such a file refuses connections; but one that is in use would
// have to accept ours, so Linux's list of Unix sockets, proc_pid_net(5), is asked first. To connect
// and wait takes a process of its own.

import { existsSync, lstatSync, readFileSync, renameSync, statSync, unlinkSync } from "node:fs";

import { lockName } from "./lock.ts";

export { resolve as absolute } from "node:path";

/**
 * Removes a socket file that nobody listens on any more, if there is one, so that one can listen
 * there again. Of several that find it, one may do so: who has the lock that it gives, until it
 * listens there itself. Throws `EADDRINUSE` to the others.
 */
export function takeOver(path: string): Disposable | null {
  if (!existsSync(path) || !statSync(path).isSocket()) return null;
  const list = "/proc/net/unix";
  if (existsSync(list) && readFileSync(list, "utf8").includes(` ${path}\n`)) return null;
  const lock = lockName(`take over ${path}`);
  const probe = `Bun.connect({ unix: ${JSON.stringify(path)}, socket: { data() {} } }).then(
    () => process.exit(0), (error) => process.exit(error.code === "ECONNREFUSED" ? 1 : 0))`;
  const env = { ...process.env, BUN_BE_BUN: "1" }; // in a compiled script, too, it is Bun
  const { exitCode } = Bun.spawnSync([process.execPath, "-e", probe], { env });
  if (exitCode === 1) unlinkSync(path);
  return lock;
}

/**
 * A socket has just been bound to `path`, and `stop` removes what has that name. Gives a `stop` that
 * lets the file of another server be, which has taken the name since then.
 */
export function removing(path: string, stop: () => void): () => void {
  const made = lstatSync(path).ino; // nobody else's, as long as the socket lives
  return () => {
    const isOurs = lstatSync(path, { throwIfNoEntry: false })?.ino === made;
    const aside = `${path}.${process.pid}`;
    if (!isOurs) move(path, aside);
    stop();
    if (!isOurs) move(aside, path);
  };
}

function move(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch {
    // Nothing has that name, or it is not ours to move, and so not ours to remove.
  }
}
