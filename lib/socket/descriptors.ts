// How many descriptors this process may have open: connections, files, the runtime's own.

let limit: Promise<number> | undefined;

/** RLIMIT_NOFILE of getrlimit(2), read from proc_pid_limits(5). `Infinity` where there is no such file. */
export function descriptorLimit(): Promise<number> {
  return (limit ??= read());
}

async function read(): Promise<number> {
  const limits = await Bun.file("/proc/self/limits")
    .text()
    .catch(() => "");
  const [, files] = limits.match(/^Max open files +(\d+)/m) ?? [];
  return files === undefined ? Infinity : Number(files);
}
