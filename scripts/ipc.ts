const help = `
Two processes on one machine: over the loopback interface, and over a Unix-domain socket, which has a
file instead of a port. The calls are the same.
Documented in tutorial 003, "IPC".

  terminal 1:  bun run scripts/ipc.ts
  terminal 2:  bun run scripts/ipc.ts --trace              (it starts its partner itself)
`;

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { formatAddress } from "../lib/address.ts";
import { cli, print } from "../lib/cli.ts";
import { Failure } from "../lib/errors.ts";
import { connect, listen, type ServerSocket } from "../lib/socket.ts";

const { path, port, signal } = cli(help, {
  path: { type: "string", about: "be the partner, at this file" },
  port: { type: "port", default: 0, min: 0, about: "be the partner, at this port" },
});
const ROUND_TRIPS = 1_000;

if (path !== undefined) await answer({ path });
else if (port !== 0) await answer({ port });
else await ask();

// The second process.
async function answer(where: { path: string } | { port: number }): Promise<void> {
  using conn = await connect({ ...where, signal });
  await conn.sendAll(`hello from process ${process.pid}`);
  for await (const chunk of conn) await conn.sendAll(chunk);
}

async function ask(): Promise<void> {
  // The loopback address cannot be reached from another machine.
  using loopback = listen({ host: "127.0.0.1", port: 0, signal });
  await converse(loopback, "--port", String(loopback.address.port));

  // A file in a folder that only we can enter cannot be reached by other users of this machine either.
  const folder = mkdtempSync(join(tmpdir(), "ipc-"));
  process.on("exit", () => rmSync(folder, { recursive: true })); // however this process ends
  const file = join(folder, "socket");
  using local = listen({ path: file, signal });
  await converse(local, "--path", file);
}

async function converse(server: ServerSocket, ...where: string[]): Promise<void> {
  // A compiled script is started by itself; otherwise Bun is started with this file.
  const program = Bun.main.startsWith("/$bunfs/") ? [] : [Bun.main];
  const partner = Bun.spawn([process.execPath, ...program, ...where], { stderr: "inherit" });
  const gone = new AbortController();
  partner.exited.then(() => gone.abort(new Failure("the partner has ended before it connected")));
  using conn = await server.accept({ signal: gone.signal });
  const greeting = await conn.recv(100);
  print(`${formatAddress(server.address)}: "${greeting}" to process ${process.pid}`);

  const started = performance.now();
  for (let i = 0; i < ROUND_TRIPS; i++) {
    await conn.sendAll("ping");
    await conn.recvExactly(4);
  }
  const each = ((performance.now() - started) / ROUND_TRIPS) * 1000;
  print(`${formatAddress(server.address)}: ${ROUND_TRIPS} round trips, ${each.toFixed(0)} µs each`);
  conn.close();
  await partner.exited;
}
