const help = `
A peer that goes quiet without closing: what hangs, and what finds out. It starts a second process as
the peer, and then stops that process in its tracks.
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
  await conn.recv(1); // we are not heard of again
}

async function watchOne(): Promise<void> {
  using server = listen({ port: 0, signal });
  const program = Bun.main.startsWith("/$bunfs/") ? [] : [Bun.main];
  const flags = ["--port", String(server.address.port)];
  const peer = Bun.spawn([process.execPath, ...program, ...flags], { stderr: "inherit" });
  process.on("exit", () => peer.kill("SIGKILL")); // a stopped process would stay for ever
  using conn = await server.accept();
  print(`the peer says "${await conn.recv(100)}"`);
  peer.kill("SIGSTOP");
  print("the peer is stopped: it sends nothing, and closes nothing");

  // A recv without a limit hangs, as long as the peer is silent. TCP does not mind: a connection on
  // which nobody sends is as good after a year as on the first day.
  const tired = AbortSignal.timeout(ms);
  await conn.recv(100, { signal: tired }).catch(() => {});
  print(`recv: nothing after ${wait} s, and it would wait for ever; an AbortSignal called it off`);

  // Sending does not tell either. The peer's kernel takes the bytes, though nobody reads them.
  await conn.sendAll("are you there?");
  print("send: no error, for the peer's kernel has acknowledged it");

  // Keep-alive asks that kernel, not the program. It finds a machine that has lost its power or its
  // cable, here 11 s after the last word; a program that hangs it does not find.
  conn.setKeepAlive(true, 1000);
  const probing = AbortSignal.timeout(1000 + ms);
  const kept = await conn.recv(100, { signal: probing }).then(String, () => "still open");
  print(`keep-alive: ${kept}, for the peer's kernel answers the probes`);

  // So the limit is ours to set: how long is too long, only the application knows.
  conn.setTimeout(ms);
  const error: unknown = await conn.recv(100).catch((reason: unknown) => reason);
  if (error instanceof SocketError) print(`setTimeout: ${error.code} after ${wait} s`);

  // A process that dies is another matter: its kernel closes for it, and that comes at once.
  conn.setTimeout(null);
  peer.kill("SIGKILL");
  const end = await conn.recv(100).then(
    () => "EOF",
    ({ code }: SocketError) => code,
  );
  print(`the peer has died: recv gives ${end} at once`);
  await peer.exited;
}
