const help = `
Non-blocking echo server: one thread, one loop, and select() to tell which sockets can go on.
Documented in tutorial 003, "Non-blocking Sockets".

  terminal 1:  bun run scripts/select-server.ts
  terminal 2:  bun run scripts/echo-loop-client.ts --port 5000    (and a third terminal, and a fourth)
`;

import { formatAddress } from "../lib/address.ts";
import { cli, print, serverFlags, warn } from "../lib/cli.ts";
import { select } from "../lib/select.ts";
import { affordable, limitFlags } from "../lib/serve.ts";
import { listen, type ServerSocket, type Socket } from "../lib/socket.ts";

const { host, port, timeout, maxConnections, idleTimeout, signal } = cli(help, {
  ...serverFlags(5000),
  ...limitFlags,
  timeout: { type: "seconds", default: 60, min: 0.001, about: "time until it says: no activity" },
});
const max = await affordable(maxConnections);
const lookAround = Math.min(timeout, idleTimeout || timeout) * 1000; // ms
using server = listen({ host, port, signal });
print(`listening on ${formatAddress(server.address)}`);

// For each client the bytes that it has still to get back, and when it was last active, in the order of
// that time. While a client has not taken its reply, nothing is received from it: so it cannot send on.
const clients = new Map<Socket, { owed: Buffer; active: number }>();

let quiet = 0; // ms
let full = false; // the warning about too many connections is printed
while (!signal.aborted || clients.size > 0) {
  const owing: Socket[] = [];
  const readers: (ServerSocket | Socket)[] = signal.aborted ? [] : [server];
  for (const [conn, { owed }] of clients) (owed.length > 0 ? owing : readers).push(conn);

  try {
    const [readable, writable] = await select(readers, owing, [], lookAround);
    quiet = readable.length + writable.length > 0 ? 0 : quiet + lookAround;
    if (quiet >= timeout * 1000) {
      print("no activity");
      quiet = 0;
    }
    for (const socket of readable) socket === server ? welcome() : receive(socket as Socket);
    for (const conn of writable) send(conn);
    dropIdle();
  } catch (error) {
    if (!signal.aborted) throw error; // after the signal, select() fails because the server is closed
  }
}

function welcome(): void {
  for (let conn = server.tryAccept(); conn !== null; conn = server.tryAccept()) {
    if (clients.size < max) {
      full = false;
      remember(conn, Buffer.alloc(0));
      continue;
    }
    conn.reset();
    if (!full) warn(`${max} connections are open: more are refused until one ends`);
    full = true;
  }
}

function receive(conn: Socket): void {
  attempt(conn, () => {
    const chunk = conn.tryRecv(1 << 20); // usually all there is
    if (chunk === null) return;
    if (chunk.length === 0) return drop(conn); // EOF, and everything has been sent back
    remember(conn, chunk);
    send(conn);
  });
}

function send(conn: Socket): void {
  attempt(conn, () => {
    const { owed } = clients.get(conn)!;
    const sent = conn.trySend(owed);
    if (sent > 0) remember(conn, owed.subarray(sent));
  });
}

function remember(conn: Socket, owed: Buffer): void {
  clients.delete(conn);
  clients.set(conn, { owed, active: performance.now() });
}

// An error on one connection ends that connection and nothing else.
function attempt(conn: Socket, step: () => void): void {
  try {
    step();
  } catch (error) {
    warn(error);
    drop(conn);
  }
}

function dropIdle(): void {
  if (idleTimeout === 0) return;
  const limit = performance.now() - idleTimeout * 1000;
  for (const [conn, { active }] of clients) {
    if (active >= limit) break; // those after it were active later
    drop(conn);
  }
}

function drop(conn: Socket): void {
  clients.delete(conn);
  conn.close();
}
