const help = `
One connection, used in three ways: one side sends (simplex), both in turns (half duplex), both at the
same time (full duplex).
Documented in tutorial 002, "통신방식".

  terminal 1:  bun run scripts/duplex.ts
  terminal 2:  bun run scripts/duplex.ts --trace           (it is both ends itself)

The tutorials say that the two sides of a socket take turns and depend on each other. They do not: TCP is
full duplex, and taking turns is a rule of the program. They also swap what send and sendall return: send
returns the number of bytes it took, sendall returns nothing.
`;

import { cli, print } from "../lib/cli.ts";
import { type Socket, socketpair } from "../lib/socket.ts";

const { bytes } = cli(help, {
  bytes: {
    type: "count",
    default: 8_000_000,
    min: 1,
    max: 1 << 28,
    about: "how much each side sends at once",
  },
});
using ends = await socketpair();
const { near, far } = ends;

// Simplex: near sends, far receives.
for (const word of ["one", "two", "three"]) await near.sendAll(`${word} `);
print(`simplex: far received "${await far.recvExactly(14)}"`);

// Half duplex: each side waits until the other has finished.
for (const question of ["ping", "pong"]) {
  await near.sendAll(question);
  const heard = await far.recvExactly(4);
  await far.sendAll(heard.reverse());
  print(`half duplex: near sent "${question}", far answered "${await near.recvExactly(4)}"`);
}

// Full duplex: the two directions are independent. Both sides send far more than fits in the kernel's
// buffers. That works because both receive while they send; otherwise each would wait for the other
// to receive, for ever.
const [toFar, toNear] = await Promise.all([talk(near, far), talk(far, near)]);
print(`full duplex: ${toFar} bytes one way and ${toNear} the other, at the same time`);

// One direction may end before the other: that is a half-close.
near.shutdown("write");
await far.recv(1); // EOF
await far.sendAll("far may still talk");
print(`half-close: near has ended its side, and received "${await near.recv(100)}"`);

async function talk(from: Socket, to: Socket): Promise<number> {
  const [received] = await Promise.all([
    to.recvExactly(bytes),
    from.sendAll(Buffer.alloc(bytes, "talk ")),
  ]);
  return received.length;
}
