// How many descriptors this process may have open: connections, files, the runtime's own.

let limit: Promise<number> | undefined;

/** getrlimit(2), as Linux shows it in proc_pid_limits(5). `Infinity` where it gives no limit. */
export function descriptorLimit(): Promise<number> {
  const read = (limits: string) => Number(limits.match(/^Max open files +(\d+)/m)?.[1] ?? Infinity);
  return (limit ??= Bun.file("/proc/self/limits")
    .text()
    .then(read, () => Infinity));
}
