// The flags of a script: their types, their values, and their lines in --help. `parseArgs` of node:util
// splits the command line into words; this file checks the words and converts them.

import { parseArgs } from "node:util";

import { refuse } from "./output.ts";

/** One flag: its line in `--help`, and what it takes. The flag `maxSize` is typed as `--max-size`. */
export type Flag = { about: string; env?: string; takes?: string } & (
  | { type: "boolean" }
  | { type: "arguments" } // the words without a flag, at least one
  | { type: "string"; default?: string }
  | { type: "choice"; default: string; choices: readonly string[] }
  | { type: "port" | "count" | "seconds"; default: number; min: number; max?: number }
);

export type Flags = Record<string, Flag>;

/** The type of a flag's value. */
export type Value<F extends Flag> = F extends { type: "boolean" }
  ? boolean
  : F extends { type: "arguments" }
    ? string[]
    : F extends { type: "string" }
      ? string | (F extends { default: string } ? never : undefined)
      : F extends { choices: readonly (infer Choice)[] }
        ? Choice
        : number;

const HOST = { type: "string", default: "127.0.0.1" } as const;
const FILE = { type: "string", takes: "FILE" } as const;

/** The flags of a script that listens; `HOST` and `PORT` in the environment count too. */
export function serverFlags(port: number) {
  return {
    host: { ...HOST, env: "HOST", about: "address to listen on, 0.0.0.0 for all" },
    port: { type: "port", env: "PORT", default: port, min: 0, about: "port, 0 for any free one" },
    grace: {
      type: "seconds",
      default: 1,
      min: 0,
      about: "after SIGINT or SIGTERM, how long open connections have to finish",
    },
  } as const;
}

/** `--host` and `--port` of a script that connects. */
export function clientFlags(port: number) {
  return {
    host: { ...HOST, about: "the server's address or name" },
    port: { type: "port", default: port, min: 1, about: "the server's port" },
  } as const;
}

/** `--tls-cert` and `--tls-key` of a script that listens: see `serverTls`. */
export const tlsFlags = {
  tlsCert: { ...FILE, env: "TLS_CERT", about: "speak TLS, with this certificate (PEM)" },
  tlsKey: { ...FILE, env: "TLS_KEY", about: "the certificate's private key (PEM)" },
} as const;

/** `--tls` and `--tls-ca` of a script that connects: see `clientTls`. */
export const tlsClientFlags = {
  tls: { type: "boolean", about: "speak TLS" },
  tlsCa: { ...FILE, about: "speak TLS, and trust this authority or self-signed certificate (PEM)" },
} as const;

/**
 * The values of the flags: from `args`, else from the environment, else the default. For a wrong flag it
 * prints the error and exits with 2. With `--help`, `help` is true and values are not checked.
 */
export function readFlags(flags: Flags, args: string[]): Record<string, unknown> {
  const typed = parse(flags, args);
  const values: Record<string, unknown> = {};
  for (const [name, flag] of Object.entries(flags)) {
    const isText = flag.type !== "boolean" && flag.type !== "arguments";
    const value = typed[kebab(name)];
    values[name] = isText && !typed.help ? valueOf(flag, `--${kebab(name)}`, value) : value;
  }
  return values;
}

const TAKES = { string: "TEXT", port: "N", count: "N", seconds: "SECONDS" };

/** The text of `--help`: the script's own, and a line for each flag. */
export function helpText(help: string, flags: Flags): string {
  const rows = Object.entries(flags).map(([name, flag]): [string, string] => {
    if (flag.type === "arguments") return [`${name.toUpperCase()}…`, flag.about];
    if (flag.type === "boolean" || name === "trace") return [`--${kebab(name)}`, flag.about];
    const usual = flag.type === "choice" ? flag.choices.join("|") : TAKES[flag.type];
    const notes = Object.entries({ default: flag.default, environment: flag.env })
      .filter(([, value]) => value !== undefined)
      .map((note) => note.join(": "));
    const note = notes.length > 0 ? ` (${notes.join(", ")})` : "";
    return [`--${kebab(name)} ${flag.takes ?? usual}`, flag.about + note];
  });
  const width = Math.max(...rows.map(([left]) => left.length));
  const lines = rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`);
  return `${help.trim()}\n\nFlags:\n${lines.join("\n")}`;
}

function parse(flags: Flags, args: string[]): Record<string, unknown> {
  const options: Options = {};
  let words: string | undefined;
  for (const [name, { type }] of Object.entries(flags)) {
    if (type === "arguments") words = name;
    else if (type === "boolean") options[kebab(name)] = { type, default: false };
    else options[kebab(name)] = { type: "string" };
  }
  try {
    const allowPositionals = words !== undefined;
    const parsed = parseArgs({ args: joinValues(args, options), options, allowPositionals });
    const { values, positionals } = parsed;
    if (words === undefined) return values;
    if (positionals.length === 0 && !values.help) throw new Error(`The ${words} are missing`);
    return { ...values, [words]: positionals };
  } catch (error) {
    // After the first sentence, parseArgs explains `--`, which no script here needs.
    const [line = ""] = (error as Error).message.split(/\. |\n/);
    return refuse(`${line.replace(/\.$/, "")} (see --help)`);
  }
}

type Options = Record<string, { type: "boolean" | "string"; default?: boolean }>;

// As in getopt(3), a flag that takes a value takes the next word, even one that begins with a dash, such
// as -5. `--trace` alone is `--trace=text`.
function joinValues(args: string[], options: Options): string[] {
  const joined: string[] = [];
  for (const arg of args) {
    const [, before = ""] = joined.at(-1)?.match(/^--(.*)/s) ?? [];
    if (options[before]?.type === "string") joined[joined.length - 1] += `=${arg}`;
    else joined.push(arg === "--trace" ? "--trace=text" : arg);
  }
  return joined;
}

/** maxSize -> max-size */
function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (capital) => `-${capital.toLowerCase()}`);
}

type Valued = Exclude<Flag, { type: "boolean" | "arguments" }>;

function valueOf(flag: Valued, name: string, typed: unknown): unknown {
  const env = flag.env && process.env[flag.env];
  const text = typed ?? (env || flag.default);
  const label = typed === undefined && env ? flag.env! : name;
  return text === undefined ? undefined : convert(flag, label, String(text));
}

const MOST = { port: 65_535, count: Number.MAX_SAFE_INTEGER, seconds: 2_147_483 }; // of a timer

function convert(flag: Valued, label: string, text: string): unknown {
  const wrong = (rule: string) => refuse(`${label} must be ${rule}, not "${text}"`);
  if (flag.type === "string") return text || refuse(`${label} must not be empty`);
  if (flag.type === "choice") {
    return flag.choices.includes(text) ? text : wrong(`one of ${flag.choices.join(", ")}`);
  }
  const { type, min, max = MOST[type] } = flag;
  const plain = type === "seconds" ? /^(\d+\.?\d*|\.\d+)$/ : /^\d+$/;
  if (plain.test(text) && Number(text) >= min && Number(text) <= max) return Number(text);
  const kind = type === "seconds" ? "a number of seconds" : "a whole number";
  const range = max < Number.MAX_SAFE_INTEGER ? `from ${min} to ${max}` : `of at least ${min}`;
  return wrong(`${kind} ${range}`);
}
