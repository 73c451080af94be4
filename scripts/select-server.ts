const help = `
Non-blocking echo server: one thread, one loop, and select() to tell which sockets can go on.
Documented in tutorial 003, "Non-blocking Sockets".

  terminal 1:  bun run scripts/select-server.ts
  terminal 2:  bun run scripts/echo-loop-client.ts --port 5000    (and a third terminal, and a fourth)
`;

import { formatAddress } from "../lib/address.ts";
import { cli, print, serverFlags, warn } from "../lib/cli.ts";
import { select } from "../lib/select.ts";
import { affordable, limitBuffered, limitFlags, log, logEnd, logFlags } from "../lib/serve.ts";
import { listen, type ServerSocket, type Socket } from "../lib/socket.ts";

const { host, port, timeout, verbose, grace, signal, ...limits } = cli(help, {
  ...serverFlags(5000),
  ...limitFlags,
  ...logFlags,
  verbose: { type: "boolean", about: "print the three lists of each select()" },
  timeout: { type: "seconds", default: 60, min: 0.001, about: "time until it says: no activity" },
});
const max = await affordable(limits.maxConnections);
limitBuffered(limits.maxBuffered);
using server = listen({ host, port, signal });
server.onRefused = warn;
print(`listening on ${formatAddress(server.address)}`);

// For each client, the bytes that are still to be sent back to it. Until it has taken them, nothing more is
// received from it, so that it has to wait (back-pressure).
const clients = new Map<Socket, Buffer>();
const NOTHING = Buffer.alloc(0);

// For --log: when each connection began, and how many were refused in this minute.
const began = new WeakMap<Socket, number>();
let refused = 0;
if (limits.log) setInterval(logState, 60_000).unref();

// After a signal, what has already come is still sent back; then each client gets EOF.
signal.addEventListener("abort", () => {
  for (const conn of clients.keys()) conn.endReceiving();
  setTimeout(endGrace, grace * 1000).unref();
});

let full = false; // the warning about too many connections has been printed
let turn = 0;
while (!signal.aborted || clients.size > 0) {
  const owing: Socket[] = [];
  const readers: (ServerSocket | Socket)[] = signal.aborted ? [] : [server];
  for (const [conn, owed] of clients) (owed.length > 0 ? owing : readers).push(conn);

  try {
    turn++;
    show("select", readers, owing, []);
    const [readable, writable, inError] = await select(readers, owing, [], timeout * 1000);
    show("ready ", readable as typeof readers, writable, inError);
    if (readable.length + writable.length === 0) print("no activity");
    for (const socket of readable) socket === server ? welcome() : receive(socket as Socket);
    for (const conn of writable) send(conn);
  } catch (error) {
    if (!signal.aborted) throw error; // after the signal, select() fails because the server is closed
  }
}

function show(step: string, ...lists: (ServerSocket | Socket)[][]): void {
  if (!verbose) return;
  const nameOf = (socket: ServerSocket | Socket) =>
    "remoteAddress" in socket ? formatAddress(socket.remoteAddress) : "server";
  const [read, write, error] = lists.map((list) => `[${list.map(nameOf).join(", ")}]`);
  print(`turn ${turn} ${step}  read ${read}  write ${write}  error ${error}`);
}

function welcome(): void {
  for (let conn = server.tryAccept(); conn !== null; conn = server.tryAccept()) {
    if (clients.size < max) {
      full = false;
      // When no byte has moved for too long, every call on the connection fails.
      conn.setIdleTimeout(limits.idleTimeout > 0 ? limits.idleTimeout * 1000 : Infinity);
      clients.set(conn, NOTHING);
      began.set(conn, performance.now());
      continue;
    }
    conn.reset();
    refused++;
    if (!full) warn(`${max} connections are open: more are refused until one ends`);
    full = true;
  }
}

function receive(conn: Socket): void {
  attempt(conn, () => {
    const chunk = conn.tryRecv(65_536);
    if (chunk === null) return;
    if (chunk.length === 0) return drop(conn); // EOF, and everything has been sent back
    clients.set(conn, chunk);
    send(conn);
  });
}

function send(conn: Socket): void {
  attempt(conn, () => {
    const owed = clients.get(conn)!;
    clients.set(conn, owed.subarray(conn.trySend(owed)));
  });
}

// An error on one connection ends that connection and nothing else.
function attempt(conn: Socket, step: () => void): void {
  try {
    step();
  } catch (error) {
    warn(error);
    drop(conn, error);
  }
}

function drop(conn: Socket, why?: unknown): void {
  if (limits.log) logEnd(conn, began.get(conn)!, why);
  clients.delete(conn);
  // close() would reset a client that still sends. So after a signal we send FIN, and it has time to close.
  if (signal.aborted) conn.shutdown("write");
  else conn.close();
}

function logState(): void {
  log(`${clients.size} open, ${refused} refused`);
  refused = 0;
}

// Clients that have not got all of their bytes back by now are reset: a FIN would make a partial reply look
// complete.
function endGrace(): void {
  for (const conn of clients.keys()) conn.reset();
  clients.clear();
}
