// How many descriptors this process may have open: connections, files, the runtime's own.

let limit: Promise<number> | undefined;

/** getrlimit(2), as Linux shows it in proc_pid_limits(5). `Infinity` where nobody says. */
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
