const help = `
Threaded reply server: answers everything it receives with "Received: " and the same bytes, for many
clients at once, each served by one of a fixed number of threads.
Documented in tutorial 004, "소켓 프로그래밍에서의 스레드 활용".

  terminal 1:  bun run scripts/reply-threaded-server.ts
  terminal 2:  bun run scripts/netcat.ts --port 8080       (and a third terminal, and a fourth)
`;

import { formatAddress } from "../lib/address.ts";
import { cli, print, serverFlags, warn } from "../lib/cli.ts";
import { limitFlags, logFlags } from "../lib/serve.ts";
import type { Socket } from "../lib/socket.ts";
import { acceptLoop, startThreads, threadFlags } from "../lib/threads.ts";

const flags = cli(help, { ...serverFlags(8080), ...limitFlags, ...logFlags, ...threadFlags });

async function reply(conn: Socket): Promise<void> {
  await print(`Client connected: ${formatAddress(conn.remoteAddress)}`);
  for (;;) {
    const data = await conn.recv(1024);
    if (data.length === 0) break; // the client will send no more
    // As bytes, not as text: the data may end in the middle of a character.
    await conn.sendAll(Buffer.concat([Buffer.from("Received: "), data]));
  }
}

// This file runs once in the main thread, and once more in each of the threads.
if (Bun.isMainThread) {
  const address = await startThreads(import.meta.url, { ...flags, onError: warn });
  print("Server is running...");
  print(`listening on ${formatAddress(address)}`);
} else {
  await acceptLoop(reply, { ...flags, onError: warn });
}
