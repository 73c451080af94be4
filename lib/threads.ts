// Real OS threads for a server: a fixed pool of Workers, each with its own accept loop on the same port.
// (A thread for each connection, as in the tutorials, does not scale to many connections.)
//
// On Linux the sockets of one port share it (SO_REUSEPORT) and the kernel spreads the connections.
// Elsewhere, or with `relay`, the main thread accepts and passes the bytes on to the Workers over
// loopback. A PROXY header names the client; a secret in it shows that it comes from the main thread.
//
// One script file holds both sides: see `startThreads`.

import { availableParallelism } from "node:os";
import { parentPort, Worker, workerData } from "node:worker_threads";

import { Failure, SocketError } from "./errors.ts";
import { acceptProxyHeader, encodeProxyHeader, relay, UNIQUE_ID } from "./relay.ts";
import { behindProxy, type Handler, type ServeOptions, serve } from "./serve.ts";
import {
  type Address,
  connect,
  listen,
  type ServerSocket,
  type ServerTls,
  type Socket,
} from "./socket.ts";
import { lockName } from "./socket/lock.ts";

export interface ThreadOptions extends Pick<ServeOptions, "grace" | "maxBuffered"> {
  host?: string;
  port: number;
  /** How many Workers. */
  threads: number;
  /** Accept in the main thread, and relay: always where the kernel does not spread connections. */
  relay?: boolean;
  /** Speaks TLS, as `listen` does: give it to `acceptLoop` as well. The relay ends it in the main thread. */
  tls?: ServerTls;
  /** Stops accepting; each Worker ends with its last connection. */
  signal: AbortSignal;
  /** Told of what went wrong and did not end the server: a thread that has died. */
  onError?: (error: unknown) => void;
}

/** `--threads` and `--relay`, for `cli`. */
export const threadFlags = {
  threads: {
    type: "count",
    default: availableParallelism(),
    min: 1,
    max: 1024,
    about: "how many threads",
  },
  relay: { type: "boolean", about: "accept in one thread for all, as on systems other than Linux" },
} as const;

/** What a Worker is told when it starts. With `secret`, it serves the main thread's relay alone. */
interface Job {
  host: string;
  port: number;
  secret: string | null;
  /** The connections of all threads, and those of each: see `serve`. */
  open: Int32Array;
  slot: number;
}

/** A thread is replaced at most once in so many ms. */
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
  // With SO_REUSEPORT a second copy of this program could share the port. So we first listen without it, to see
  // whether the port is free; the lock keeps other copies waiting until our threads listen.
  using _untilStarted = await lockStart(host, port);
  const server = listen({ host, port, signal, tls: options.tls });
  const { address } = server;
  if (!relayed) server.close();
  const secret = relayed ? crypto.randomUUID() : null;
  const where = relayed ? { host: "127.0.0.1", port: 0 } : address;
  const open = new Int32Array(new SharedArrayBuffer(4 * (2 + threads)));

  const start = (slot: number) => {
    const job = { ...where, secret, open, slot: slot + 1 };
    return startThread(script, job, signal, (why) => replace(slot, why));
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
    pool[slot] = Bun.sleep(wait).then(() => start(slot));
  };
  const pool = Array.from({ length: threads }, (_, slot) => start(slot));
  await Promise.race(pool);
  void Promise.all(pool); // if another cannot start, that ends the program
  if (secret !== null) relayAll(server, pool, secret, options);
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
  parentPort!.once("message", () => {
    stop.abort();
    parentPort!.unref(); // then the last connection ends the thread
  });
  parentPort!.postMessage({ listensOn: server.address });
  const handler = options.acceptProxy ? behindProxy(handle) : handle;
  const known: Handler = async (conn, signal) => {
    if (secret !== null) await fromRelay(conn, secret); // before the header of a proxy in front of us
    return handler(conn, signal);
  };
  const ours = { signal: stop.signal, acceptProxy: false };
  await serve(server, known, { ...options, ...ours }, open, slot);
}

// If several copies start at the same moment, only one gets the port.
async function lockStart(host = "127.0.0.1", port: number): Promise<Disposable | null> {
  if (port === 0) return null;
  const { lookup } = await import("node:dns/promises");
  const { address } = await lookup(host).catch(() => ({ address: host }));
  try {
    return lockName(`start ${address}:${port}`);
  } catch (cause) {
    throw new SocketError("EADDRINUSE", "listen", { host: address, port }, { cause });
  }
}

// Resolves with the Worker's address when it listens, rejects if it ends before that.
async function startThread(
  script: string,
  job: Job,
  signal: AbortSignal,
  died: (why: string) => void,
): Promise<Address> {
  const worker = new Worker(new URL(script), { workerData: job, argv: process.argv.slice(2) });
  const stop = () => worker.postMessage("stop");
  let why = "";
  // In one line: the message, and the first line of the stack.
  worker.on("error", ({ message, stack = "" }: Error) => {
    const [, what = message] = message.match(/^error: (.*)/m) ?? [];
    const [, where = "at an unknown place"] = `${stack}\n${message}`.match(/^\s+(at .*)/m) ?? [];
    why = `${what}, ${where}`;
  });
  const ended = new Promise<void>((resolve) => {
    worker.on("exit", (code) => {
      signal.removeEventListener("abort", stop);
      why ||= `exit ${code}`;
      resolve();
    });
  });
  const address = await Promise.race([
    new Promise<Address>((resolve) => {
      worker.on("message", (message: unknown) => {
        // Messages of the program itself come here too.
        const { listensOn } = Object(message) as { listensOn?: Address };
        if (listensOn !== undefined) resolve(listensOn);
      });
    }),
    ended.then(() => Promise.reject(new Failure(`a thread could not start: ${why}`))),
  ]);
  if (signal.aborted) stop();
  else signal.addEventListener("abort", stop, { once: true });
  ended.then(() => died(why));
  return address;
}

// ---- the relay

// Each connection goes to the next Worker in turn; one that is being replaced is waited for. Here,
// a connection takes three descriptors.
async function relayAll(
  server: ServerSocket,
  pool: Promise<Address>[],
  secret: string,
  { signal, grace, maxBuffered, onError }: ThreadOptions,
) {
  let turn = 0;
  const relayNext = (conn: Socket) => {
    const slot = turn++ % pool.length;
    return relayTo(() => pool[slot]!, conn, secret);
  };
  const limits = { maxConnections: Infinity, descriptors: 3, idleTimeout: 0 };
  await serve(server, relayNext, { ...limits, signal, grace, maxBuffered, onError });
}

async function relayTo(slot: () => Promise<Address>, client: Socket, secret: string) {
  const ends = { source: client.remoteAddress, destination: client.localAddress };
  const tlvs = new Map([[UNIQUE_ID, Buffer.from(secret)]]);
  using thread = await reach(slot, encodeProxyHeader({ ...ends, tlvs }));
  await relay(client, thread);
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

async function fromRelay(conn: Socket, secret: string): Promise<void> {
  const peer = conn.remoteAddress;
  const header = await acceptProxyHeader(conn).catch(() => null);
  if (String(header?.tlvs?.get(UNIQUE_ID)) === secret) return;
  const reason = "the relay did not make it";
  throw new SocketError("EACCES", "accept", peer, { reason });
}
