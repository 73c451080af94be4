// The flags of a script: their types, their values, and their lines in --help. `parseArgs` of node:util
// splits the command line into words; this file checks the words and converts them.

import { parseArgs } from "node:util";

/** One flag: what it takes, and its line in `--help`. The flag `maxSize` is typed as `--max-size`. */
export type Flag =
  | { type: "boolean"; about: string }
  | { type: "arguments"; about: string } // the words without a flag, at least one
  | { type: "string"; about: string; default?: string; env?: string; takes?: string }
  | { type: "numbers"; about: string; default: string; env?: string }
  | { type: "choice"; about: string; default: string; choices: readonly string[]; env?: string }
  | NumberFlag;

type NumberFlag = {
  type: "port" | "count" | "seconds";
  about: string;
  default: number;
  min: number;
  max?: number;
  env?: string;
};

export type Flags = Record<string, Flag>;

/** The type of a flag's value. */
export type Value<F extends Flag> = F extends { type: "boolean" }
  ? boolean
  : F extends { type: "arguments" | "numbers" }
    ? string[]
    : F extends { type: "string" }
      ? string | (F extends { default: string } ? never : undefined)
      : F extends { choices: readonly (infer Choice)[] }
        ? Choice
        : number;

/** The flags of a script that listens; `HOST` and `PORT` in the environment count too. */
export function serverFlags(port: number) {
  return {
    host: {
      type: "string",
      env: "HOST",
      default: "127.0.0.1",
      about: "address to listen on, 0.0.0.0 for all",
    },
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
    host: { type: "string", default: "127.0.0.1", about: "the server's address or name" },
    port: { type: "port", default: port, min: 1, about: "the server's port" },
  } as const;
}

const file = { type: "string", takes: "FILE" } as const;

/** `--tls-cert` and `--tls-key` of a script that listens: see `serverTls`. */
export const tlsFlags = {
  tlsCert: { ...file, env: "TLS_CERT", about: "speak TLS, with this certificate (PEM)" },
  tlsKey: { ...file, env: "TLS_KEY", about: "the certificate's private key (PEM)" },
} as const;

/** `--tls` and `--tls-ca` of a script that connects: see `clientTls`. */
export const tlsClientFlags = {
  tls: { type: "boolean", about: "speak TLS" },
  tlsCa: { ...file, about: "speak TLS, and trust this authority or self-signed certificate (PEM)" },
} as const;

/**
 * The values of the flags: from `args`, else from the environment, else the default. Throws an
 * `Error` whose message names the wrong flag. With `--help`, `help` is true and values are not checked.
 */
export function readFlags(flags: Flags, args: string[]): Record<string, unknown> {
  const given = parse(flags, args);
  const values: Record<string, unknown> = {};
  for (const [name, flag] of Object.entries(flags)) {
    const text = given[kebab(name)];
    if (given.help) values[name] = text;
    else if (flag.type === "arguments") values[name] = text;
    else if (flag.type === "boolean") values[name] = text ?? false;
    else values[name] = valueOf(flag, kebab(name), text);
  }
  return values;
}

/** The text of `--help`: the script's own, and a line for each flag. */
export function helpText(help: string, flags: Flags): string {
  const rows = Object.entries(flags).map(([name, flag]): [string, string] => {
    if (flag.type === "arguments") return [`${name.toUpperCase()}…`, flag.about];
    if (flag.type === "boolean") return [`--${kebab(name)}`, flag.about];
    if (name === "trace") return ["--trace", flag.about];
    const named = "takes" in flag ? flag.takes : undefined;
    const takes = named ?? (flag.type === "choice" ? flag.choices.join("|") : TAKES[flag.type]);
    const notes = [];
    if (flag.default !== undefined) notes.push(`default: ${flag.default}`);
    if (flag.env !== undefined) notes.push(`environment: ${flag.env}`);
    const note = notes.length > 0 ? ` (${notes.join(", ")})` : "";
    return [`--${kebab(name)} ${takes}`, flag.about + note];
  });
  const width = Math.max(...rows.map(([left]) => left.length));
  const lines = rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`);
  return `${help.trim()}\n\nFlags:\n${lines.join("\n")}`;
}

const TAKES = { string: "TEXT", numbers: "N,N,…", port: "N", count: "N", seconds: "SECONDS" };

function parse(flags: Flags, args: string[]): Record<string, unknown> {
  const options: Record<string, { type: "boolean" | "string" }> = {};
  let words: string | undefined;
  for (const [name, { type }] of Object.entries(flags)) {
    if (type === "arguments") words = name;
    else options[kebab(name)] = { type: type === "boolean" ? "boolean" : "string" };
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
    throw new Error(`${line.replace(/\.$/, "")} (see --help)`);
  }
}

// As in getopt(3), a flag that takes a value takes the next word, also one that begins with a dash, as -5
// does. `--trace` alone is `--trace=text`.
function joinValues(args: string[], options: Record<string, { type: string }>): string[] {
  const joined: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    const takesValue = arg.startsWith("--") && options[arg.slice(2)]?.type === "string";
    if (arg === "--trace") joined.push("--trace=text");
    else if (takesValue && i + 1 < args.length) joined.push(`${arg}=${args[++i]}`);
    else joined.push(arg);
  }
  return joined;
}

/** maxSize -> max-size */
function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (capital) => `-${capital.toLowerCase()}`);
}

type Valued = Exclude<Flag, { type: "boolean" | "arguments" }>;

function valueOf(flag: Valued, name: string, typed: unknown): unknown {
  const env = (flag.env !== undefined && process.env[flag.env]) || undefined;
  const text = typed ?? env ?? flag.default;
  if (text === undefined) return undefined;
  const label = typed === undefined && env !== undefined ? flag.env! : `--${name}`;
  return convert(flag, label, String(text));
}

function convert(flag: Valued, label: string, text: string): unknown {
  switch (flag.type) {
    case "string":
      if (text !== "") return text;
      throw new Error(`${label} must not be empty`);
    case "choice":
      if (flag.choices.includes(text)) return text;
      throw new Error(`${label} must be one of ${flag.choices.join(", ")}, not "${text}"`);
    case "numbers": {
      const numbers = text.split(",").map((number) => number.trim());
      if (numbers.every((number) => /^-?\d+(\.\d+)?$/.test(number))) return numbers;
      throw new Error(`${label} must be numbers with commas between them, not "${text}"`);
    }
    default:
      return toNumber(flag, label, text);
  }
}

function toNumber({ type, min, max }: NumberFlag, label: string, text: string): number {
  const limits = { port: 65_535, count: Number.MAX_SAFE_INTEGER, seconds: 2_147_483 }; // as timers
  const most = max ?? limits[type];
  const plain = type === "seconds" ? /^(\d+\.?\d*|\.\d+)$/ : /^\d+$/;
  if (plain.test(text) && Number(text) >= min && Number(text) <= most) return Number(text);
  const kind = type === "seconds" ? "a number of seconds" : "a whole number";
  const open = most === Number.MAX_SAFE_INTEGER;
  const range = open ? `of at least ${min}` : `from ${min} to ${most}`;
  throw new Error(`${label} must be ${kind} ${range}, not "${text}"`);
}
