// The files of Unix-domain sockets, unix(7). A process that is killed leaves its file behind, and then
// no server can listen at that path. A file is stale if connecting to it is refused. A server that is
// alive would see that connection, so Linux's list of Unix sockets, proc_pid_net(5), is read first.

import { existsSync, lstatSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";

import { lockName } from "./lock.ts";

export { resolve as absolute } from "node:path";

/**
 * Removes a stale socket file, if there is one at `path`, so that a server can listen there. If several
 * processes find the file, only the lock holder removes it. Returns the lock, which the caller has to
 * keep until it listens. The others get `EADDRINUSE`.
 */
export function takeOver(path: string): Disposable | null {
  if (!statSync(path, { throwIfNoEntry: false })?.isSocket()) return null;
  const list = "/proc/net/unix";
  if (existsSync(list) && readFileSync(list, "utf8").includes(` ${path}\n`)) return null;
  const lock = lockName(`take over ${path}`);
  const probe = Bun.connect({ unix: path, socket: { data() {} } });
  probe.then((alive) => alive.terminate()).catch(() => {});
  // Connecting to a Unix socket does not wait: a refusal is there at once.
  if (Object(Bun.peek(probe)).code === "ECONNREFUSED") rmSync(path, { force: true });
  return lock;
}

/**
 * To be called right after binding to `path`. `stop` closes that socket, and Bun then removes whatever
 * file is at `path`. Gives a `stop` that keeps the file if another server has put its own there since.
 */
export function removing(path: string, stop: () => void): () => void {
  const made = lstatSync(path).ino; // no other file has this inode while the socket lives
  return () => {
    const isOurs = lstatSync(path, { throwIfNoEntry: false })?.ino === made;
    if (isOurs) return stop();
    const aside = `${path}.${process.pid}`;
    try {
      renameSync(path, aside);
      stop();
      renameSync(aside, path);
    } catch {
      stop(); // there is no file, or we may not move it, and so may not remove it
    }
  };
}
