const help = `
Threaded echo server: many clients at once, each served by one of a fixed number of threads.
Documented in tutorial 000, "변형 : 다중 접속 에코 서버".

  terminal 1:  bun run scripts/echo-threaded-server.ts
  terminal 2:  bun run scripts/echo-loop-client.ts        (and a third terminal, and a fourth)
`;

import { formatAddress } from "../lib/address.ts";
import { cli, print, serverFlags, serverTls, tlsFlags, warn } from "../lib/cli.ts";
import { limitFlags, logFlags, proxyFlags } from "../lib/serve.ts";
import type { Socket } from "../lib/socket.ts";
import { acceptLoop, startThreads, threadFlags } from "../lib/threads.ts";

const flags = cli(help, {
  ...serverFlags(4000),
  ...tlsFlags,
  ...limitFlags,
  ...logFlags,
  ...proxyFlags,
  ...threadFlags,
});
const tls = serverTls(flags);

async function echo(conn: Socket): Promise<void> {
  for await (const chunk of conn) await conn.sendAll(chunk);
}

// This file runs once in the main thread, and once more in each of the threads.
if (Bun.isMainThread) {
  const address = await startThreads(import.meta.url, { ...flags, tls, onError: warn });
  print(`listening on ${formatAddress(address)}`);
} else {
  await acceptLoop(echo, { ...flags, tls, onError: warn });
}
