// `listen`, `connect`, `select` are functions, not methods. `--trace` can replace a method on its
// prototype, but not a function that a module exports. So these functions are called through `calls.run`,
// and `--trace` replaces that. Without `--trace`, it costs only one more function call.

export const calls = {
  run<A extends unknown[], T>(_name: string, call: (...args: A) => T, ...args: A): T {
    return call(...args);
  },
};
