const help = `
A peer that goes silent without closing: which calls hang, and what detects it. It starts a second process
as the peer, and then suspends that process with SIGSTOP.
Documented in tutorial 003, "When Sockets Die".

  terminal 1:  bun run scripts/silent-peer.ts
  terminal 2:  bun run scripts/silent-peer.ts --trace      (it starts its peer itself)
`;

import { cli, print } from "../lib/cli.ts";
import { SocketError } from "../lib/errors.ts";
import { connect, listen } from "../lib/socket.ts";

const { wait, port, signal } = cli(help, {
  wait: { type: "seconds", default: 1, min: 0.01, about: "how long to look at each step" },
  port: { type: "port", default: 0, min: 0, about: "be the peer, at this port" },
});
const ms = wait * 1000;

if (port !== 0) await beThePeer();
else await watchOne();

async function beThePeer(): Promise<void> {
  using conn = await connect({ port, signal });
  await conn.sendAll("I am here");
  await conn.recv(1); // never returns: we are suspended
}

async function watchOne(): Promise<void> {
  using server = listen({ port: 0, signal });
  const program = Bun.main.startsWith("/$bunfs/") ? [] : [Bun.main];
  const flags = ["--port", String(server.address.port)];
  const peer = Bun.spawn([process.execPath, ...program, ...flags], { stderr: "inherit" });
  process.on("exit", () => peer.kill("SIGKILL")); // a suspended process would never end
  using conn = await server.accept();
  print(`the peer says "${await conn.recv(100)}"`);
  peer.kill("SIGSTOP");
  print("the peer is stopped: it sends nothing, and closes nothing");

  // A recv without a timeout waits as long as the peer is silent. For TCP that is no error: a connection
  // without traffic stays open without limit.
  const tired = AbortSignal.timeout(ms);
  await conn.recv(100, { signal: tired }).catch(() => {});
  print(`recv: nothing after ${wait} s, and it would wait for ever; an AbortSignal called it off`);

  // Sending does not detect it either: the peer's kernel takes the bytes, though the program does not read.
  await conn.sendAll("are you there?");
  print("send: no error, for the peer's kernel has acknowledged it");

  // Keep-alive probes the peer's kernel, not the program. It detects a machine without power or cable, here
  // 11 s after the last data. It does not detect a program that hangs.
  conn.setKeepAlive(true, 1000);
  const probing = AbortSignal.timeout(1000 + ms);
  const kept = await conn.recv(100, { signal: probing }).then(String, () => "still open");
  print(`keep-alive: ${kept}, for the peer's kernel answers the probes`);

  // So the application has to set a timeout: only it knows how long is too long.
  conn.setTimeout(ms);
  const error: unknown = await conn.recv(100).catch((reason: unknown) => reason);
  if (error instanceof SocketError) print(`setTimeout: ${error.code} after ${wait} s`);

  // When a process dies, its kernel closes the connection, and we get that at once.
  conn.setTimeout(null);
  peer.kill("SIGKILL");
  const end = await conn.recv(100).then(
    () => "EOF",
    ({ code }: SocketError) => code,
  );
  print(`the peer has died: recv gives ${end} at once`);
  await peer.exited;
}
