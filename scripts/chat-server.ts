const help = `
Chat server with one room. It asks each client for a name; from then on every line goes to all others.
From where the tutorials stop: in them, what a client sends comes back to that client only.

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

const MAX_LINE = 1024; // bytes
const MAX_BEHIND = 1 << 20; // bytes that one client has not taken yet
const CATCH_UP_MS = 1_000; // how long the room waits for a client that is further behind

const { host, port, redis, signal, ...flags } = cli(help, {
  ...serverFlags(5002),
  ...tlsFlags,
  ...limitFlags,
  ...logFlags,
  ...proxyFlags,
  idleTimeout: { ...limitFlags.idleTimeout, default: 3600 }, // a room may be quiet
  redis: { type: "string", about: "the URL of a Redis: many servers, one room" },
});

interface Person {
  name: string;
  conn: Socket;
  /** The lines to send when the send under way has ended, and the number of their bytes. */
  owed: Buffer[];
  owedBytes: number;
  isSending: boolean;
  /** More than `MAX_BEHIND` behind: the room is waiting for this client. */
  isLate: boolean;
}
const room = new Map<string, Person>();
let waiting: Promise<unknown> = Promise.resolve(); // until no client is late

using others = redis === undefined ? null : openOthers(redis);
await others?.ready;
using server = listen({ host, port, signal, tls: serverTls(flags) });
print(`listening on ${formatAddress(server.address)}`);
await serve(server, chat, { ...flags, signal, onError: warn });

async function chat(conn: Socket): Promise<void> {
  conn.setKeepAlive(true, 60_000); // finds clients that have lost their network
  const input = lines(conn, { maxBytes: MAX_LINE });
  const person = await welcome(conn, input);
  if (person !== null) await talk(person, input);
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
    if (room.has(name)) continue; // taken while we asked
    const person = { name, conn, owed: [], owedBytes: 0, isSending: false, isLate: false };
    room.set(name, person);
    send(person, bytesOf(`Welcome, ${name}`));
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
      if (text === "/who") send(person, bytesOf(`* here: ${await everybody()}`));
      else await say(`${name}: ${text}`, person);
      await waiting; // no further line is read from this client while the room waits
    }
  } catch (error) {
    if (person.isLate) why = " (too slow)";
    else if ((error as SocketError).code === "EMSGSIZE") why = " (line too long)";
    else throw error;
    send(person, bytesOf(`* you have to go${why}`));
  } finally {
    room.delete(name);
    const released = others?.release(name); // before the others read that the name is free
    const left = `* ${name} left${why}`;
    await (signal.aborted ? others?.say(left) : say(left)); // at a stop, all people here leave
    await released;
  }
}

/** Sends a line to everybody but one, also on the other servers. */
async function say(line: string, but?: Person): Promise<void> {
  hear(line, but);
  await others?.say(line);
}

function hear(line: string, but?: Person): void {
  const bytes = bytesOf(line); // one copy for all
  for (const person of room.values()) if (person !== but) send(person, bytes);
}

// Does not wait for a slow client: its lines are kept, up to `MAX_BEHIND` bytes.
function send(person: Person, bytes: Buffer): void {
  person.owed.push(bytes);
  person.owedBytes += bytes.length;
  if (!person.isSending) sendOwed(person).catch(() => {}); // when the client has gone, receiving fails too
  if (person.isLate || behind(person) <= MAX_BEHIND) return;
  person.isLate = true;
  waiting = Promise.all([waiting, catchUp(person)]);
}

async function sendOwed(person: Person): Promise<void> {
  person.isSending = true;
  while (person.owedBytes > 0) {
    person.owedBytes = 0;
    await person.conn.sendAll(Buffer.concat(person.owed.splice(0)));
  }
  person.isSending = false;
}

async function catchUp(person: Person): Promise<void> {
  const until = performance.now() + CATCH_UP_MS;
  while (behind(person) > MAX_BEHIND) {
    if (performance.now() > until) return person.conn.reset(); // still late: `talk` says why
    await Bun.sleep(20);
    person.conn.trySend(""); // the kernel reports room late, so we ask
  }
  person.isLate = false;
}

function behind({ owedBytes, conn }: Person): number {
  return owedBytes + conn.bufferedAmount;
}

async function everybody(): Promise<string> {
  const names = new Set([...room.keys(), ...((await others?.names()) ?? [])]);
  return [...names].sort().join(", ");
}

function bytesOf(line: string): Buffer {
  return Buffer.from(`${line}\n`);
}

// Removes control characters, which are commands to a terminal, and those that reverse the reading direction.
function harmless(text: string): string {
  return text.replace(/[\p{Cc}\u2028-\u202e\u2066-\u2069]/gu, "");
}

function openOthers(url: string): Others {
  try {
    return new Others(url, hear, warn);
  } catch (error) {
    return refuse(`--redis: ${(error as Error).message}`);
  }
}
