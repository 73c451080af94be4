const help = `
Weather sensor: sends six temperatures to the weather station, two seconds apart, and closes. It prints the
station's answer: weather-station says how many readings it has stored, weather-receiver says nothing.
Documented in tutorial 001, "Client".

  terminal 1:  bun run scripts/weather-receiver.ts
  terminal 2:  bun run scripts/weather-sender.ts
`;

import { setTimeout as sleep } from "node:timers/promises";

import { cli, clientFlags, fail, peerText, print, refuse } from "../lib/cli.ts";
import { lines } from "../lib/framing.ts";
import { getfqdn, gethostname, ownAddress } from "../lib/host.ts";
import { connect } from "../lib/socket.ts";

const { host, port, sensor, readings, interval, signal } = cli(help, {
  port: { ...clientFlags(23456).port, about: "the station's port" },
  host: { type: "string", about: "the station's address or name (default: this machine's own)" },
  sensor: { type: "string", about: "the sensor's name, for weather-station (default: its host)" },
  readings: {
    type: "string",
    takes: "N,N,…",
    default: "15,22,21,26,25,19",
    about: "the temperatures to send",
  },
  interval: { type: "seconds", default: 2, min: 0, about: "time after each" },
});
const temperatures = readings.split(",").map((text) => text.trim());
if (!temperatures.every((text) => /^-?\d+(\.\d+)?$/.test(text))) {
  refuse(`--readings must be numbers with commas between them, not "${readings}"`);
}
const ip = host ?? (await ownAddress());
print(`connecting to ${gethostname()} (${await getfqdn()}) with ${ip}`);
using conn = await connect({ host: ip, port, signal });

// The station sends nothing before we have finished. If the socket is readable before that, the station
// has gone. Sending would not show that at once: the next send would succeed although its reading is lost, and
// only the one after it would fail.
let finished = false;
conn.waitReadable().then(
  async () => {
    if (finished) return;
    await tellAnswer().catch(() => {}); // a station that stops says how many it has stored
    await fail("the station has closed the connection");
  },
  () => {}, // we closed first
);

if (sensor !== undefined) await conn.sendAll(`sensor: ${sensor}\n`);
for (const temperature of temperatures) {
  await print(`data: ${temperature}`);
  await conn.sendAll(`temperature: ${temperature}\n`);
  await sleep(interval * 1000, undefined, { signal });
}

// That we have sent everything does not mean that the station has received it. So we send FIN and wait for the
// station to close: it does so when it has read everything. If it dies before, its kernel resets the connection.
//
// But a FIN is no acknowledgement: the kernel also sends one for a process that is killed after it has read
// everything. Only an answer says that the readings are stored.
finished = true;
conn.shutdown("write");
await tellAnswer();

async function tellAnswer(): Promise<void> {
  for await (const answer of lines(conn)) await print(peerText(answer));
}
