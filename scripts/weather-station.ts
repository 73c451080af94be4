const help = `
Weather station, carried on: stores the readings of any number of sensors in a database, and shows them on a
page as they come.
In tutorial 001, "Server", they are only printed, as weather-receiver.ts does it.

  terminal 1:  bun run scripts/weather-station.ts
  terminal 2:  bun run scripts/weather-sender.ts --sensor garden

A sensor sends lines: "temperature: 21.5", and before them, if it has a name, "sensor: NAME" (otherwise its host
is its name). After its FIN it gets "stored N", when all N readings are committed. A FIN alone is no such answer: the
kernel also sends one for a program that is killed. A line that is no reading, or a store that fails, resets the
connection: readings without an answer may be stored or not.

For people:     the page, in Korean and English
For programs:   /readings (JSON), /readings.csv, with ?sensor=NAME ?since=MS ?limit=N

Many stations, one store:  --store postgres://user:password@host/database
`;

import { formatAddress } from "../lib/address.ts";
import { cli, fail, print, refuse, serverFlags, serverTls, tlsFlags, warn } from "../lib/cli.ts";
import { SocketError } from "../lib/errors.ts";
import { lines } from "../lib/framing.ts";
import { ownAddress } from "../lib/host.ts";
import { limitFlags, logFlags, proxyFlags, serve } from "../lib/serve.ts";
import { listen, type Socket } from "../lib/socket.ts";
import { NotStored, Store } from "./weather-station/store.ts";
import { serveWeb } from "./weather-station/web.ts";

/** A sensor that sends more than this without a newline is not sending readings. */
const MAX_LINE = 1024;
/** A name has 1 to 64 printable characters, and no space at its ends. */
const NAME = /^sensor: ?([^\p{C}\p{Z}](?:[^\p{C}]{0,62}[^\p{C}\p{Z}])?)$/u;
const ABSOLUTE_ZERO = -273.15;
const DAY_MS = 86_400_000;
const MINUTE_MS = 60_000;

const {
  host,
  port,
  webPort,
  store: url,
  keep,
  signal,
  ...flags
} = cli(help, {
  ...serverFlags(23456),
  ...tlsFlags,
  ...limitFlags,
  ...logFlags,
  ...proxyFlags,
  host: {
    type: "string",
    env: "HOST",
    about: "address to listen on (default: this machine's own)",
  },
  webPort: { type: "port", default: 8090, min: 0, about: "the page's port, 0 for any free one" },
  store: {
    type: "string",
    env: "STORE",
    default: "sqlite://weather.db",
    about: "sqlite://FILE, or postgres://… for many stations",
  },
  keep: { type: "count", default: 0, min: 0, about: "days to keep readings, 0 for ever" },
});
if (!/^(sqlite:(?!(\/\/)?$)|postgres(ql)?:)/.test(url)) {
  refuse(`--store must be sqlite://FILE or postgres://…, not "${url}"`);
}
const tls = serverTls(flags);
const ip = host ?? (await ownAddress());
const store = await Store.open(url).catch((error: Error) =>
  fail(`cannot open the store ${withoutPassword(url)}: ${error.message}`),
);
store.onTrouble = (trouble) => {
  if (trouble === null) print("storing again");
  else warn(`cannot store: ${trouble.message}; sensors are reset until it works again`);
};

using server = listen({ host: ip, port, signal, tls });
let web = serveWeb(store, ip, webPort, tls);
print(`listening on ${formatAddress(server.address)}`);
const pagePort = web.port!;
const scheme = tls === undefined ? "http" : "https";
print(`page at ${scheme}://${formatAddress({ host: ip, port: pagePort })}/`);
if (tls !== undefined) process.on("SIGHUP", renewWeb);
if (keep > 0) forgetOld();
await serve(server, receive, { ...flags, signal, onError });
await web.stop(true);
await store.close();

async function receive(conn: Socket): Promise<void> {
  let sensor = conn.remoteAddress.host;
  let count = 0;
  let stored: Promise<void> | undefined;
  for await (const line of lines(conn, { maxBytes: MAX_LINE })) {
    if (signal.aborted) break; // the line may be cut off: it would look like a last line without newline
    const [, name] = line.match(NAME) ?? [];
    if (name !== undefined) {
      sensor = name;
      continue;
    }
    const next = store.add({ sensor, celsius: celsiusOf(line, conn), at: Date.now() });
    count++;
    if (next !== stored) {
      await stored; // the earlier ones have been stored by now, or have failed
      stored = next;
      stored.catch(() => conn.reset()); // at once, also when this sensor sends nothing more
    }
    if (store.isFull) await stored;
  }
  await stored;
  await conn.sendAll(`stored ${count}\n`);
}

function celsiusOf(line: string, conn: Socket): number {
  const [, digits] = line.match(/^temperature: ?([+-]?\d+(?:\.\d+)?)$/) ?? [];
  const celsius = Number(digits);
  if (celsius >= ABSOLUTE_ZERO && celsius < Infinity) return celsius;
  const reason = `${JSON.stringify(line.slice(0, 40))} is no reading`;
  throw new SocketError("EBADMSG", "recv", conn.remoteAddress, { reason });
}

// onTrouble reports once, for all sensors, that readings cannot be stored.
function onError(error: unknown): void {
  if (!(error instanceof NotStored)) warn(error);
}

// A renewed certificate is for new connections; those that are open stay.
function renewWeb(): void {
  web.stop();
  web = serveWeb(store, ip, pagePort, tls);
}

async function forgetOld(): Promise<void> {
  await store.forget(Date.now() - keep * DAY_MS).catch((error: Error) => {
    warn(`cannot delete old readings: ${error.message}`);
  });
  setTimeout(forgetOld, MINUTE_MS).unref();
}

function withoutPassword(url: string): string {
  return url.replace(/(\/\/[^/@:]*):.*@/, "$1@").replace(/([?&]password=)[^&]*/i, "$1…");
}
