// A lock between processes of one machine, which no crash can leave behind.

/**
 * A name that one process of this machine can have at a time: in Linux's abstract namespace, unix(7).
 * Goes with its process at the latest. Throws `EADDRINUSE`; elsewhere it is null.
 */
export function lockName(name: string): Disposable | null {
  if (process.platform !== "linux") return null;
  return Bun.listen({ unix: `\0${name}`, socket: { data() {} } });
}
