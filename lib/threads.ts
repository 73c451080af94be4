// Real OS threads for a server: a fixed pool of Workers, each with its own accept loop on the same port.
// (A thread for each connection, as in the tutorials, does not scale to many connections.)
//
// On Linux the Workers share the port (SO_REUSEPORT) and the kernel spreads the connections.
// Elsewhere, or with `relay`, the main thread accepts and passes the bytes on to the Workers over
// loopback. A PROXY header names the client; a secret in it shows that it comes from the main thread.
//
// One script file holds both sides: see `startThreads`.

import { availableParallelism } from "node:os";
import { parentPort, Worker, workerData } from "node:worker_threads";

import { Failure, SocketError } from "./errors.ts";
import { acceptProxyHeader, encodeProxyHeader, relay, UNIQUE_ID } from "./relay.ts";
import { type Handler, type ServeOptions, serve } from "./serve.ts";
import type { Address, HostAndPort, ServerTls, Socket } from "./socket.ts";
import { connect, listen } from "./socket.ts";
import { lockName } from "./socket/lock.ts";
import { onAbort } from "./socket/readiness.ts";

export interface ThreadOptions
  extends HostAndPort, Pick<ServeOptions, "grace" | "maxBuffered" | "onError"> {
  /** How many Workers. */
  threads: number;
  /** Accept in the main thread, and relay. Always true on systems other than Linux. */
  relay?: boolean;
  /** Speaks TLS, as `listen` does: give it to `acceptLoop`, too. With a relay, the main thread decrypts. */
  tls?: ServerTls;
  /** Stops accepting; each Worker ends with its last connection. */
  signal: AbortSignal;
}

const CORES = availableParallelism();

/** `--threads` and `--relay`, for `cli`. */
export const threadFlags = {
  threads: { type: "count", default: CORES, min: 1, max: 1024, about: "how many threads" },
  relay: { type: "boolean", about: "accept in one thread for all, as on systems other than Linux" },
} as const;

/** What a Worker is told when it starts. With `secret`, it serves only the main thread's relay. */
interface Job extends Address {
  secret: string | null;
  /** The connections of all threads, and those of each: see `serve`. */
  open: Int32Array;
  slot: number;
  /** The current certificate, for `serverTls`. */
  tls: ServerTls | undefined;
}

/** A thread is replaced at most once in this many ms. */
const RESTART_MS = 1_000;

/**
 * Starts the Workers, each running `script` (an `import.meta.url`), and resolves with the address
 * when the first of them accepts; the others join. When a Worker dies its connections are lost; it is
 * replaced, and `onError` gets a warning. If one cannot start, the program ends with an error.
 *
 * Rejects with the errors of `listen`, also with `EADDRINUSE` for a port on which other threads listen.
 *
 * @example
 * async function echo(conn: Socket): Promise<void> {
 *   for await (const chunk of conn) await conn.sendAll(chunk);
 * }
 * // This file runs in the main thread and in each Worker.
 * if (Bun.isMainThread) await startThreads(import.meta.url, { port: 4000, threads: 2, signal });
 * else await acceptLoop(echo, { maxConnections: 1_000, idleTimeout: 60 });
 */
export async function startThreads(script: string, options: ThreadOptions): Promise<Address> {
  const { host, port, threads, signal, onError = console.error } = options;
  const relayed = options.relay || process.platform !== "linux";
  // With SO_REUSEPORT a second copy of this program could share the port. So we first listen without it, to
  // see whether the port is free; the lock keeps other copies waiting until our threads listen. If the kernel
  // chose the port, we keep it until a thread listens, since the kernel may give it to another program.
  const reusePort = port === 0 && !relayed;
  using _untilStarted = await lockStart(port);
  const server = listen({ host, port, signal, tls: options.tls, reusePort });
  const { address } = server;
  if (!relayed && !reusePort) server.close();
  const secret = relayed ? crypto.randomUUID() : null;
  const where = relayed ? { host: "127.0.0.1", port: 0 } : address;
  const open = new Int32Array(new SharedArrayBuffer(4 * (2 + threads)));

  const start = async (slot: number) => {
    const job = { ...where, secret, open, slot: slot + 1, tls: options.tls };
    const { listensOn, ended } = await startThread(script, job, signal);
    ended.then((why) => replace(slot, why));
    return listensOn;
  };
  // A thread that dies at once would die again and again, so it is replaced at most once a second.
  const restarted: number[] = [];
  const replace = (slot: number, why: string) => {
    if (signal.aborted && why === "exit 0") return;
    if (signal.aborted) throw new Failure(`a thread has died (${why})`);
    Atomics.sub(open, 0, Atomics.exchange(open, slot + 1, 0)); // its connections died with it
    onError(`a thread has died (${why}); another takes its place`);
    const wait = Math.max(0, (restarted[slot] ?? -Infinity) + RESTART_MS - performance.now());
    restarted[slot] = performance.now() + wait;
    // If it cannot start, `then` makes that end the program, also when a client waits for it.
    void (pool[slot] = Bun.sleep(wait).then(() => start(slot))).then();
  };
  const pool = Array.from({ length: threads }, (_, slot) => start(slot));
  await Promise.race(pool);
  if (!relayed) server.close();
  void Promise.all(pool); // if another cannot start, that ends the program
  if (secret !== null) {
    const { grace, maxBuffered } = options;
    const limits = { maxConnections: Infinity, descriptors: 3, idleTimeout: 0, maxBuffered };
    serve(server, relayTo(pool, secret), { ...limits, signal, grace, onError });
  }
  return address;
}

/**
 * The Worker's side: accepts connections and runs `handle` for each, as `serve` does, until the main thread stops
 * it. The limits are for all threads together.
 */
export async function acceptLoop(
  handle: Handler,
  options: ServeOptions & { tls?: ServerTls },
): Promise<void> {
  const { host, port, secret, open, slot } = workerData as Job;
  const tls = secret === null ? options.tls : undefined; // the relay has decrypted it already
  const server = listen({ host, port, reusePort: secret === null, tls });
  const stop = new AbortController();
  parentPort!.once("message", () => stop.abort()); // the thread ends with its last connection
  parentPort!.postMessage({ listensOn: server.address });
  const first = secret === null ? undefined : (conn: Socket) => fromRelay(conn, secret);
  await serve(server, handle, { ...options, signal: stop.signal, first }, open, slot);
}

// Copies that start at the same moment on one port wait for each other here, so only the first finds it free.
async function lockStart(port: number): Promise<Disposable | null> {
  for (;;) {
    try {
      return port === 0 ? null : lockName(`start ${port}`);
    } catch {
      await Bun.sleep(10);
    }
  }
}

// Resolves with the Worker's address when it listens, and a promise of the reason why it ends. Rejects if it
// ends before it listens.
async function startThread(script: string, job: Job, signal: AbortSignal) {
  const worker = new Worker(new URL(script), { workerData: job, argv: process.argv.slice(2) });
  let error = "";
  worker.on("error", (thrown: unknown) => {
    // In one line: the message, and the first line of the stack.
    const { message = Bun.inspect(thrown), stack } = Object(thrown) as Partial<Error>;
    const [, where = "at an unknown place"] = stack?.match(/^\s+(at .*)/m) ?? [];
    error = `${message.replace(/^error: /, "")}, ${where}`;
  });
  const ended = new Promise<string>((resolve) => {
    worker.on("exit", (code) => resolve(error || `exit ${code}`));
  });
  const listens = new Promise<Address>((resolve) => {
    // Messages of the program itself come here too.
    worker.on("message", (message) => Object(message).listensOn && resolve(message.listensOn));
  });
  const listensOn = await Promise.race([listens, ended]);
  if (typeof listensOn === "string") throw new Failure(`a thread could not start: ${listensOn}`);
  const listening = onAbort(signal, () => worker.postMessage("stop"));
  ended.then(() => listening[Symbol.dispose]());
  return { listensOn, ended };
}

// ---- the relay

// The relay's handler: passes each connection to the next Worker in turn, and waits for a Worker that is
// being replaced. A connection takes three descriptors.
function relayTo(pool: Promise<Address>[], secret: string): Handler {
  const tlvs = new Map([[UNIQUE_ID, Buffer.from(secret)]]);
  let turn = 0;
  return async (client) => {
    const slot = turn++ % pool.length;
    const ends = { source: client.remoteAddress, destination: client.localAddress };
    using thread = await reach(() => pool[slot]!, encodeProxyHeader({ ...ends, tlvs }));
    await relay(client, thread);
  };
}

// While a thread is being replaced, connecting to it is refused, and tried again.
async function reach(slot: () => Promise<Address>, preface: Uint8Array): Promise<Socket> {
  for (;;) {
    const conn = await connect({ ...(await slot()), preface }).catch((error: SocketError) => {
      if (error.code !== "ECONNREFUSED") throw error;
    });
    if (conn !== undefined) return conn;
    await Bun.sleep(10);
  }
}

async function fromRelay(conn: Socket, secret: string): Promise<number> {
  const peer = conn.remoteAddress;
  const header = await acceptProxyHeader(conn).catch(() => null);
  if (String(header?.tlvs?.get(UNIQUE_ID)) === secret) return header!.length;
  const reason = "the relay did not make it";
  throw new SocketError("EACCES", "accept", peer, { reason });
}
