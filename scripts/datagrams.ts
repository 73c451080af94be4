const help = `
What UDP does not promise: datagrams that nobody reads in time, one that is too large, one to an address where
nobody listens. And what TCP does in the same cases.
Named in tutorial 000: SOCK_DGRAM, beside SOCK_STREAM.

  terminal 1:  bun run scripts/datagrams.ts
  terminal 2:  bun run scripts/datagrams.ts --trace        (it is both ends itself)
`;

import { cli, print } from "../lib/cli.ts";
import { datagram } from "../lib/datagram.ts";
import type { SocketError } from "../lib/errors.ts";
import { connect, type Socket, socketpair } from "../lib/socket.ts";

const { count, bytes } = cli(help, {
  count: {
    type: "count",
    default: 2000,
    min: 1,
    max: 100_000,
    about: "how many, of which nobody reads any",
  },
  bytes: { type: "count", default: 1000, min: 1, max: 65_507, about: "how long each of them is" },
});
const code = (error: unknown) => (error as SocketError).code;

await nobodyReads();
await tooLarge();
await toNobody();

async function nobodyReads(): Promise<void> {
  using receiver = await datagram();
  using sender = await datagram({ peer: receiver.address });
  // The event loop does not turn during this loop, so nothing is read until it ends. The kernel keeps what fits
  // into its buffer and drops the rest, without an error.
  for (let i = 0; i < count; i++) sender.trySendTo(Buffer.alloc(bytes));
  let came = 0;
  receiver.setTimeout(200); // after that, the others are lost
  while ((await receiver.recv().catch(code)) !== "ETIMEDOUT") came++;
  print(`UDP, nobody reads: ${count} datagrams were sent, ${came} came`);

  // With TCP, the kernel takes no more than fits into the buffers of both sides; then the sender has to wait.
  using ends = await socketpair();
  const sending = sendPieces(ends.near);
  await Bun.sleep(200);
  for await (const _ of ends.far);
  await sending;
  const { bytesReceived } = ends.far;
  print(`TCP, nobody reads: ${ends.near.bytesSent} bytes were sent, ${bytesReceived} came`);
}

async function sendPieces(conn: Socket): Promise<void> {
  for (let i = 0; i < count; i++) await conn.sendAll(Buffer.alloc(bytes));
  conn.shutdown("write");
}

async function tooLarge(): Promise<void> {
  using receiver = await datagram();
  using sender = await datagram({ peer: receiver.address });
  const refused = await sender.send(Buffer.alloc(65_508)).catch(code);
  print(`UDP, too large: 65508 bytes are ${refused}, for 65507 is the most`);
  await sender.send(Buffer.alloc(65_507));
  const head = await receiver.recv(1000);
  print(
    `UDP, too large for the receiver: 65507 bytes, recv(1000) gives ${head.length}, and the rest is gone`,
  );

  using ends = await socketpair();
  await ends.near.sendAll(Buffer.alloc(65_508));
  const first = await ends.far.recv(1000);
  const rest = await ends.far.recvExactly(65_508 - first.length);
  print(
    `TCP: 65508 bytes, recv(1000) gives ${first.length}, and the next ones the other ${rest.length}`,
  );
}

async function toNobody(): Promise<void> {
  const gone = await datagram();
  gone.close();
  const nobody = gone.address;

  using anyone = await datagram();
  await anyone.sendTo("hello?", nobody);
  print("UDP, to nobody: sendTo succeeds, and that is all we hear");

  // Usually the kernel of the other machine answers that nobody listens (ICMP). Then the call that sent has
  // already returned. So a later call reports it, and only on a socket with a peer.
  using one = await datagram({ peer: nobody });
  await one.send("hello?");
  print(
    `UDP, to nobody, with a peer: send succeeds, the next recv is ${await one.recv().catch(code)}`,
  );

  print(
    `TCP, to nobody: connect is ${await connect(nobody).catch(code)}, before anything was sent`,
  );
}
