// The files that name Unix-domain sockets, unix(7). A process that is killed leaves its file behind,
// and nobody could listen there again. Such a file refuses connections; but one that is in use would
// have to accept ours, so Linux's list of Unix sockets, proc_pid_net(5), is asked first. To connect
// and wait takes a process of its own.

import { existsSync, readFileSync, statSync, unlinkSync } from "node:fs";

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
