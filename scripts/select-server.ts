const help = `
Non-blocking echo server: one thread, one loop, and select() to tell which sockets can go on.
Documented in tutorial 003, "Non-blocking Sockets".

  terminal 1:  bun run scripts/select-server.ts
  terminal 2:  bun run scripts/echo-loop-client.ts --port 5000    (and a third terminal, and a fourth)
`;

import { cli, print, serverFlags, warn } from "../lib/cli.ts";
import { formatAddress } from "../lib/errors.ts";
import { select } from "../lib/select.ts";
import { listen, type ServerSocket, type Socket } from "../lib/socket.ts";

const { host, port, timeout, signal } = cli(help, {
  ...serverFlags(5000),
  timeout: { type: "seconds", default: 60, min: 0.001, about: "time until it says: no activity" },
});
using server = listen({ host, port, signal });
print(`listening on ${formatAddress(server.address)}`);

// Every client, and what it has still to get back. A client that is owed something is not read
// until it has taken that: whoever does not listen is not listened to, and needs no memory.
const owed = new Map<Socket, Buffer>();

while (!signal.aborted || owed.size > 0) {
  const clients = [...owed.keys()];
  const owing = clients.filter((conn) => owed.get(conn)!.length > 0);
  const readers: (ServerSocket | Socket)[] = clients.filter((conn) => owed.get(conn)!.length === 0);
  if (!signal.aborted) readers.push(server);

  try {
    const [readable, writable] = await select(readers, owing, [], timeout * 1000);
    if (readable.length + writable.length === 0) print("no activity");
    for (const socket of readable) socket === server ? welcome() : receive(socket as Socket);
    for (const conn of writable) send(conn);
  } catch (error) {
    if (!signal.aborted) throw error; // the signal closed the server under select()
  }
}

function welcome(): void {
  for (let conn = server.tryAccept(); conn !== null; conn = server.tryAccept()) {
    owed.set(conn, Buffer.alloc(0));
  }
}

function receive(conn: Socket): void {
  attempt(conn, () => {
    const chunk = conn.tryRecv(4096);
    if (chunk === null) return;
    if (chunk.length === 0) return drop(conn); // EOF, and everything has been sent back
    owed.set(conn, chunk);
    send(conn);
  });
}

function send(conn: Socket): void {
  attempt(conn, () => {
    const bytes = owed.get(conn)!;
    owed.set(conn, bytes.subarray(conn.trySend(bytes)));
  });
}

// A client that breaks its connection ends that connection, and nothing else.
function attempt(conn: Socket, step: () => void): void {
  try {
    step();
  } catch (error) {
    warn(error);
    drop(conn);
  }
}

function drop(conn: Socket): void {
  owed.delete(conn);
  conn.close();
}
