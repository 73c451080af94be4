// Shows the socket calls of a script as they return, for `--trace`. Everything is wrapped from
// outside, when it is asked for: the sockets themselves know nothing of it.

import { type Address, formatAddress } from "./address.ts";
import { ServerSocket, Socket } from "./socket.ts";

export type TraceMode = "text" | "mermaid";

const SOCKET_CALLS = [
  ...["recv", "recvExactly", "tryRecv", "unrecv", "send", "sendAll", "trySend"],
  ...["waitReadable", "waitWritable", "shutdown", "close", "reset"],
  ...["setTimeout", "setNoDelay", "setKeepAlive"],
];
const SERVER_CALLS = ["accept", "tryAccept", "waitReadable", "close"];

/** One call that has returned: `result` is what it gave, or the error it failed with. */
interface Call {
  on: Socket | ServerSocket | null;
  name: string;
  args: unknown[];
  result: unknown;
}

/**
 * From now on, tells of every socket call on stderr: as a line when it returns, or, for `"mermaid"`,
 * as a sequence diagram of them all when the process ends.
 *
 * @example
 * 12 ms  conn#1 127.0.0.1:53122  recv(1024) -> 5 bytes "hello"
 */
export function startTrace(mode: TraceMode): void {
  const diagram = new Diagram();
  const tell = (call: Call) => {
    if (mode === "mermaid") diagram.add(call);
    else console.error(toLine(call));
  };
  if (mode === "mermaid") process.on("exit", () => console.error(diagram.toString()));
  for (const name of SOCKET_CALLS) wrap(Socket.prototype, name, tell);
  for (const name of SERVER_CALLS) wrap(ServerSocket.prototype, name, tell);
  wrapAcceptLoop(tell);
  wrapOpening(tell);
}

// ---- wrapping

type Tell = (call: Call) => void;

// A call made by another call is part of that one.
let inside = false;

function wrap(prototype: any, name: string, tell: Tell): void {
  const original = prototype[name];
  prototype[name] = function (this: Socket | ServerSocket, ...args: unknown[]): unknown {
    if (inside) return original.apply(this, args);
    return watch({ on: this, name, args }, tell, () => {
      inside = true;
      try {
        return original.apply(this, args);
      } finally {
        inside = false;
      }
    });
  };
}

// A step of a `for await` over a server is an accept. (Over a socket it calls recv, as it is.)
function wrapAcceptLoop(tell: Tell): void {
  const original = ServerSocket.prototype[Symbol.asyncIterator];
  const value = ({ result, ...call }: Call) => {
    const step = result as IteratorResult<Socket, void>;
    tell({ ...call, result: result instanceof Error ? result : (step.value ?? END) });
  };
  ServerSocket.prototype[Symbol.asyncIterator] = function (this: ServerSocket) {
    const steps = original.call(this);
    const next = steps.next.bind(steps);
    steps.next = () => watch({ on: this, name: "accept", args: [] }, value, next);
    return steps;
  };
}

// `listen` and `connect` are functions, not methods: what they call of Bun is wrapped.
function wrapOpening(tell: Tell): void {
  const { listen, connect } = Bun as any;
  (Bun as any).listen = (options: any) => {
    const args = [options.unix ?? `${options.hostname}:${options.port}`];
    const listener = watch({ on: null, name: "listen", args }, failuresOnly(tell), () =>
      listen.call(Bun, options),
    );
    // The ServerSocket is complete a moment later.
    queueMicrotask(() => tell({ on: null, name: "listen", args, result: options.data }));
    return listener;
  };
  (Bun as any).connect = (options: any) => {
    const args = [options.unix ?? `${options.hostname}:${options.port}`];
    const opened = (handle: any) => {
      options.data.opened(handle);
      tell({ on: null, name: "connect", args, result: handle.data });
    };
    return watch({ on: null, name: "connect", args }, failuresOnly(tell), () =>
      connect.call(Bun, { ...options, data: { opened } }),
    );
  };
}

function failuresOnly(tell: Tell): Tell {
  return (call) => {
    if (call.result instanceof Error) tell(call);
  };
}

function watch(call: Omit<Call, "result">, tell: Tell, run: () => any): any {
  const returned = (result: unknown) => {
    tell({ ...call, result });
    return result;
  };
  const failed = (error: unknown) => {
    tell({ ...call, result: error instanceof Error ? error : new Error(Bun.inspect(error)) });
    throw error;
  };
  let result: unknown;
  try {
    result = run();
  } catch (error) {
    return failed(error);
  }
  return result instanceof Promise ? result.then(returned, failed) : returned(result);
}

// ---- telling

const END = Symbol("a for-await over a server has ended");

const names = new WeakMap<object, string>();
const counts = { conn: 0, server: 0 };

function nameOf(socket: Socket | ServerSocket): string {
  const known = names.get(socket);
  if (known !== undefined) return known;
  const kind = socket instanceof Socket ? "conn" : "server";
  const name = `${kind}#${++counts[kind]} ${formatAddress(addressOf(socket))}`;
  names.set(socket, name);
  return name;
}

function addressOf(socket: Socket | ServerSocket): Address {
  return socket instanceof Socket ? socket.remoteAddress : socket.address;
}

function toLine({ on, name, args, result }: Call): string {
  const time = `${Math.round(performance.now())} ms`;
  const subject = on === null ? "" : `  ${nameOf(on)}`;
  const isData = /send|unrecv/i.test(name);
  const shown = args
    .filter((arg) => typeof arg !== "object" || arg === null || arg instanceof Uint8Array)
    .map((arg) => (isData ? preview(arg as string) : String(arg)));
  const outcome = result === undefined ? "" : ` -> ${show(result)}`;
  return `${time}${subject}  ${name}(${shown.join(", ")})${outcome}`;
}

function show(value: unknown): string {
  if (value === null) return "would block";
  if (value === END) return "closed";
  if (value instanceof Socket || value instanceof ServerSocket) return nameOf(value);
  if (value instanceof Error) return (value as Error & { code?: string }).code ?? value.message;
  if (value instanceof Uint8Array) return value.length === 0 ? "EOF" : preview(value);
  return String(value);
}

/** How many bytes, and the first of them: as text where they are text. */
function preview(data: unknown): string {
  if (typeof data !== "string" && !(data instanceof Uint8Array)) return String(data);
  const bytes = Buffer.from(data);
  const head = bytes.subarray(0, 32);
  const text = head.toString().replace(/\ufffd+$/, ""); // may be cut within a character
  const more = bytes.length > head.length ? "…" : "";
  const isText = !/[\ufffd\0-\x08\x0e-\x1f\x7f-\x9f]/.test(text) && text !== "";
  const shown = isText ? JSON.stringify(text) : head.toString("hex").replace(/..(?=.)/g, "$& ");
  return `${bytes.length} ${bytes.length === 1 ? "byte" : "bytes"} ${shown}${more}`;
}

/** The calls as a Mermaid sequence diagram: this script's end of each connection, and the peer's. */
class Diagram {
  readonly #lines: string[] = [];
  readonly #ours = new Set<string>();
  readonly #ends = new Map<string, string>();

  add({ on, name, args, result }: Call): void {
    const conn = result instanceof Socket ? result : on;
    if (!(conn instanceof Socket)) {
      if (!(result instanceof ServerSocket)) return;
      this.#ours.add(formatAddress(result.address));
      return this.#note(result.address, "listen");
    }
    const [near, far] = [conn.localAddress, conn.remoteAddress];
    this.#ours.add(formatAddress(near));
    if (result instanceof Error) return this.#note(near, `${name}: ${show(result)}`);
    if (name === "connect") return this.#arrow(near, far, "connect");
    if (name === "accept" || name === "tryAccept") return this.#receive(far, near, "accept");
    if (name === "shutdown" && args[0] === "read") return this.#note(near, "shutdown read");
    if (name === "shutdown") return this.#arrow(near, far, `FIN (shutdown ${args[0]})`);
    if (name === "close" || name === "reset") return this.#arrow(near, far, name);
    if (/send/i.test(name)) {
      const took = typeof result === "number" ? result : Infinity; // sendAll takes all
      const sent = Buffer.from(args[0] as string).subarray(0, took);
      return sent.length > 0 ? this.#arrow(near, far, preview(sent)) : undefined;
    }
    if (/recv/i.test(name) && name !== "unrecv" && result !== null) {
      this.#receive(far, near, show(result));
    }
  }

  toString(): string {
    const ends = [...this.#ends].map(([address, id]) => {
      const ours = this.#ours.has(address) ? "this script" : "the peer";
      return `  participant ${id} as ${ours}, ${address}`;
    });
    return ["sequenceDiagram", ...ends, ...this.#lines].join("\n");
  }

  // Where both ends are ours, the other one's send has drawn the arrow.
  #receive(far: Address, near: Address, text: string): void {
    if (this.#ours.has(formatAddress(far))) this.#note(near, text);
    else this.#arrow(far, near, text);
  }

  #arrow(from: Address, to: Address, text: string): void {
    const head = /^(FIN|EOF|close|reset)/.test(text) ? "--)" : "->>";
    this.#lines.push(`  ${this.#end(from)}${head}${this.#end(to)}: ${escapeText(text)}`);
  }

  #note(at: Address, text: string): void {
    this.#lines.push(`  Note over ${this.#end(at)}: ${escapeText(text)}`);
  }

  #end(address: Address): string {
    const known = this.#ends.get(formatAddress(address));
    if (known !== undefined) return known;
    const id = `end${this.#ends.size + 1}`;
    this.#ends.set(formatAddress(address), id);
    return id;
  }
}

// In Mermaid, # begins a character's code, and ; ends the line.
function escapeText(text: string): string {
  return text.replace(/[#;]/g, (sign) => `#${sign.charCodeAt(0)};`);
}
