// A lock between processes of one machine, which no crash can leave behind.

/**
 * A name that one process of this machine can have at a time: in Linux's abstract namespace, unix(7).
 * Goes with its process at the latest. Throws `EADDRINUSE`; elsewhere it is null.
 */
export function lockName(name: string): Disposable | null {
  if (process.platform !== "linux") return null;
  const short = Bun.hash(name).toString(36); // a name has room for 107 bytes, and a path alone may fill it
  return Bun.listen({ unix: `\0socket scripts ${short}`, socket: { data() {} } });
}
