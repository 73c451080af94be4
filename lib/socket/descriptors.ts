// How many descriptors this process may have open: connections, files, the runtime's own.

/** getrlimit(2), as Linux shows it in proc_pid_limits(5). `Infinity` where nobody says. */
export async function descriptorLimit(): Promise<number> {
  const limits = Bun.file("/proc/self/limits").text();
  const text = await limits.catch(() => "");
  return Number(text.match(/^Max open files +(\d+)/m)?.[1] ?? Infinity);
}
