// The calls that are functions and no methods. A method can be wrapped from outside; a function that
// a module exports cannot be replaced. So these run here, where `--trace` puts its own `run` in the
// place of this one. Without it, that is one step more for a connection, and nothing else.

export const calls = {
  run<A extends unknown[], T>(_name: string, call: (...args: A) => T, ...args: A): T {
    return call(...args);
  },
};
