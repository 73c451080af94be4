// A lock between processes of one machine. The kernel frees it when its process ends, even by a crash.

/**
 * Takes a name that only one process of this machine can hold at a time: a Unix socket in Linux's
 * abstract namespace, unix(7). Throws `EADDRINUSE` while another process holds it. Null on other systems.
 */
export function lockName(name: string): Disposable | null {
  if (process.platform !== "linux") return null;
  const short = Bun.hash(name).toString(36); // such a name has at most 107 bytes
  return Bun.listen({ unix: `\0socket scripts ${short}`, socket: { data() {} } });
}
