const help = `
Chat server with one room. It asks each client for a name; from then on every line goes to all others.
It starts where the tutorials stop: in them, what a client sends goes back to that client only.

  terminal 1:  bun run scripts/chat-server.ts
  terminal 2:  bun run scripts/netcat.ts --port 5002        (and a third terminal, and a fourth)

/who lists the people, /quit leaves. It runs in one thread, because threads share no memory, and the room is in
memory. Several servers can be one room, with --redis redis://HOST between them.
`;

import { formatAddress } from "../lib/address.ts";
import { cli, print, refuse, serverFlags, serverTls, tlsFlags, warn } from "../lib/cli.ts";
import { SocketError } from "../lib/errors.ts";
import { lines } from "../lib/framing.ts";
import { limitFlags, logFlags, proxyFlags, serve } from "../lib/serve.ts";
import { listen, type Socket } from "../lib/socket.ts";
import { Others } from "./chat-server/others.ts";
import { catchUp, Person } from "./chat-server/person.ts";

const MAX_LINE = 1024; // bytes

const { host, port, redis, signal, ...flags } = cli(help, {
  ...serverFlags(5002),
  ...tlsFlags,
  ...limitFlags,
  ...logFlags,
  ...proxyFlags,
  idleTimeout: { ...limitFlags.idleTimeout, default: 3600 }, // a room may be quiet
  redis: { type: "string", about: "the URL of a Redis: many servers, one room" },
});

const room = new Map<string, Person>();
/** While clients catch up, no new lines are taken from anybody. */
let catchingUp: Promise<void> | null = null;

await using others = redis === undefined ? null : openOthers(redis);
await others?.ready;
using server = listen({ host, port, signal, tls: serverTls(flags) });
print(`listening on ${formatAddress(server.address)}`);
await serve(server, chat, { ...flags, signal, onError: warn });

async function chat(conn: Socket): Promise<void> {
  conn.setKeepAlive(true, 60_000); // finds clients that have lost their network
  const input = lines(conn, { maxBytes: MAX_LINE });
  const person = await welcome(conn, input);
  if (person !== null) {
    await talk(person, input);
    await person.flush(); // what is still to be sent to them
  }
  if (signal.aborted) await conn.sendAll("* goodbye: this server stops\n").catch(() => {});
}

async function welcome(conn: Socket, input: AsyncIterator<string>): Promise<Person | null> {
  for (;;) {
    await conn.sendAll("What is your name?\n");
    const { done, value: line } = await input.next();
    if (done) return null;
    const name = line.normalize(); // some keyboards send 가 as ㄱ and ㅏ
    const isName = /^[^\s\p{C}]{1,32}$/u.test(name);
    if (!isName || room.has(name) || (await others?.claim(name)) === false) continue;
    if (room.has(name)) continue; // taken while Redis was asked
    const person = new Person(name, conn, onLate);
    room.set(name, person);
    person.send(`Welcome, ${name}\n`);
    await say(`* ${name} joined`, person);
    return person;
  }
}

async function talk(person: Person, input: AsyncIterable<string>): Promise<void> {
  const { name } = person;
  let why = "";
  try {
    for await (const line of input) {
      const text = harmless(line);
      if (text === "/quit") break;
      await catchingUp;
      if (text === "/who") person.send(`* here: ${await everybody()}\n`);
      else await say(`${name}: ${text}`, person);
    }
  } catch (error) {
    const { code } = error as SocketError;
    if (person.isTooSlow) why = " (too slow)";
    else if (code === "EMSGSIZE") why = " (line too long)";
    else throw error;
    person.send(`* you have to go${why}\n`);
  } finally {
    room.delete(name);
    const released = others?.release(name); // before the others read that this person left
    const left = `* ${name} left${why}`;
    // At a stop, all people here leave, and nobody waits for Redis.
    if (signal.aborted) others?.say(left);
    else await Promise.all([say(left), released]);
  }
}

/** Sends a line to everybody but one, also on the other servers. */
async function say(line: string, but?: Person): Promise<void> {
  hear(line, but);
  await others?.say(line);
}

function hear(line: string, but?: Person): void {
  const text = `${line}\n`; // one copy for all
  for (const person of room.values()) if (person !== but) person.send(text);
}

function onLate(): void {
  catchingUp ??= catchUp(room).finally(() => (catchingUp = null));
}

async function everybody(): Promise<string> {
  const names = new Set([...room.keys(), ...((await others?.names()) ?? [])]);
  return [...names].sort().join(", ");
}

// Removes control characters, which are commands to a terminal, and those that reverse the reading direction.
function harmless(text: string): string {
  return text.replace(/[\p{Cc}\u2028-\u202e\u2066-\u2069]/gu, "");
}

function openOthers(url: string): Others {
  try {
    return new Others(url, (line) => hear(harmless(line)), warn);
  } catch (error) {
    return refuse(`--redis: ${(error as Error).message}`);
  }
}
