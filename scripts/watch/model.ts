// Reconstructs what happened from the traced calls of all scripts: which two ends are one connection, and which
// receive got the bytes of which send. Nothing is drawn here.

import type { TracedCall } from "../../lib/trace.ts";

/** A call, and which of the scripts made it. The first is drawn on the left, all others on the right. */
export interface Call extends TracedCall {
  script: number;
}

/** 0 is left, 1 is right. */
export type Side = 0 | 1;

export interface End {
  side: Side;
  /** The call that returned it: accept, connect. */
  origin: Call;
  /** Its own calls, in the order in which they returned. */
  calls: Call[];
  /** Its bytes are encrypted on the wire. */
  tls?: boolean;
  /** The end of its process, which closes what was left open. */
  exit?: Call;
}

/** The two ends of a connection; one is missing if its process is not watched. */
export interface Connection {
  number: number;
  kind: "stream" | "datagram";
  ends: [left?: End, right?: End];
  links: Link[];
}

/** `to` received bytes, a FIN, a reset or the connection itself, which `from` had sent. */
export interface Link {
  kind: "bytes" | "fin" | "rst" | "connect";
  from: Call;
  to: Call;
  bytes: number;
}

/** All that is known about a run. */
export interface Story {
  connections: Connection[];
  /** Calls that belong to no connection: listen, select, what a server does, a refused connect. */
  others: Call[];
  calls: Call[];
}

/** The connections of these calls, and what went through them. */
export function tell(all: Call[]): Story {
  const calls = all.toSorted((a, b) => a.time - b.time);
  const ends = endsOf(calls);
  const connections = [...pairStreams(ends), ...pairDatagrams(calls)]
    .toSorted((a, b) => startOf(a) - startOf(b))
    .map((pair, i) => ({ ...pair, number: i + 1, links: linksOf(pair) }));
  const known = new Set(connections.flatMap(({ ends }) => ends.flatMap(callsOf)));
  return { connections, others: calls.filter((call) => !known.has(call)), calls };
}

/** The calls of an end, with the call that returned it. */
export function callsOf(end: End | undefined): Call[] {
  return end === undefined ? [] : [end.origin, ...end.calls];
}

/** Which process and thread. */
export function actorOf({ pid, thread = 0 }: Call): string {
  return `${pid}/${thread}`;
}

/** A connect counts, too, if it sends something first: the header of a proxy. */
export function isSend({ call, bytes }: Call): boolean {
  return bytes !== undefined && /^(send|trySend|connect)/.test(call);
}

export function isReceive({ call, bytes }: Call): boolean {
  return bytes !== undefined && /^(recv|tryRecv|unrecv)/.test(call);
}

// ---- which ends belong together

function endsOf(calls: Call[]): End[] {
  const ends = new Map<string, End>();
  const secure = new Set<string>(); // the servers that speak TLS
  for (const call of calls) {
    const { made, on, pid } = call;
    const own = `${actorOf(call)}/${on}`;
    if (call.call === "exit") {
      for (const end of ends.values()) if (end.origin.pid === pid) end.exit ??= call;
    }
    const speaksTls = call.args.endsWith(", tls");
    if (made !== undefined && speaksTls) secure.add(`${actorOf(call)}/${made.name}`);
    if (made?.remote !== undefined) {
      const side = call.script === 0 ? 0 : 1;
      const tls = speaksTls || secure.has(own);
      ends.set(`${actorOf(call)}/${made.name}`, { side, origin: call, calls: [], tls });
    }
    ends.get(own)?.calls.push(call);
  }
  return [...ends.values()].filter(({ origin }) => /accept|connect/i.test(origin.call));
}

type Pair = Pick<Connection, "kind" | "ends">;

// Ends are matched by their addresses. The connections of a Unix socket all have one address: they are matched in the
// order in which they connected, which is the order of the backlog.
function pairStreams(ends: End[]): Pair[] {
  const accepted = ends.filter(({ origin }) => origin.call !== "connect");
  const pairs = ends
    .filter(({ origin }) => origin.call === "connect")
    .map((near): Pair => {
      const { local, remote } = near.origin.made!;
      const i = accepted.findIndex(
        ({ origin: { made } }) => made!.local === remote && made!.remote === local,
      );
      const [far] = i < 0 ? [] : accepted.splice(i, 1);
      return { kind: "stream", ends: sides(far, near) };
    });
  return [...pairs, ...accepted.map((far): Pair => ({ kind: "stream", ends: sides(far) }))];
}

// If both ends are in one script, the accepted one is on the left.
function sides(far?: End, near?: End): [End?, End?] {
  const [one, other] = [far, near].filter((end) => end !== undefined);
  if (other === undefined) return one!.side === 0 ? [one] : [undefined, one];
  if (one!.side === other.side)
    return [
      { ...one!, side: 0 },
      { ...other, side: 1 },
    ];
  return one!.side === 0 ? [one, other] : [other, one];
}

/** An end of datagrams: one socket, and one of the addresses it exchanges datagrams with. */
type Talk = End & { local: string; peer: string };

// A datagram socket has an end for each address it exchanges datagrams with.
function pairDatagrams(calls: Call[]): Pair[] {
  const left = talksOf(calls);
  const pairs: Pair[] = [];
  for (let near = left.shift(); near !== undefined; near = left.shift()) {
    const { local, peer } = near;
    const i = left.findIndex((far) => sameEnd(far.local, peer) && sameEnd(local, far.peer));
    const [far] = i < 0 ? [] : left.splice(i, 1);
    // The end that was connected to the other one is the client.
    const asks = near.origin.made!.remote !== undefined;
    pairs.push({ kind: "datagram", ends: asks ? sides(far, near) : sides(near, far) });
  }
  return pairs;
}

function talksOf(calls: Call[]): Talk[] {
  const sockets = new Map<string, Call>();
  const talks = new Map<string, Talk>();
  const senders = new Map<string, string>(); // by address: who sent there last
  for (const call of calls) {
    const { made, on, bytes } = call;
    if (made !== undefined && call.call === "datagram") {
      sockets.set(`${actorOf(call)}/${made.name}`, call);
    }
    const name = `${actorOf(call)}/${on}`;
    const over = (talk: Talk) =>
      call.call === "exit" ? talk.origin.pid === call.pid : talk.origin === sockets.get(name);
    if (/^(close|exit)$/.test(call.call)) {
      for (const talk of talks.values()) if (over(talk)) talk.exit ??= call;
    }
    const origin = sockets.get(name);
    if (origin === undefined || bytes === undefined) continue;
    const { local, remote } = origin.made!;
    const peer = call.peer ?? remote ?? senders.get(local);
    if (peer === undefined) continue;
    if (isSend(call)) senders.set(peer, local);
    const side = call.script === 0 ? 0 : 1;
    const talk = talks.get(`${name} ${peer}`) ?? { side, origin, calls: [], local, peer };
    talk.calls.push(call);
    talks.set(`${name} ${peer}`, talk);
  }
  return [...talks.values()];
}

// A socket bound to 0.0.0.0 or [::] is reached at any address of the machine with its port.
function sameEnd(local: string, address: string): boolean {
  const [, port] = /:(\d+)$/.exec(local) ?? [];
  return local === address || (/^(0\.0\.0\.0|\[::\]):/.test(local) && address.endsWith(`:${port}`));
}

// When connect was called; if that end is not watched, when accept was called.
function startOf({ ends }: Pair): number {
  const origins = ends.flatMap((end) => (end ? [end.origin] : []));
  const asked = origins.filter(({ call }) => !/accept/i.test(call));
  return Math.min(...(asked.length > 0 ? asked : origins).map(({ began }) => began));
}

// ---- what went through

function linksOf({ kind, ends: [left, right] }: Pair): Link[] {
  if (left === undefined || right === undefined) return [];
  if (kind === "datagram") return [...datagrams(left, right), ...datagrams(right, left)];
  // If only one of them speaks TLS, the other one sees encrypted bytes, which do not match.
  const same = left.tls === right.tls;
  return [
    ...opening(left, right),
    ...(same ? [...stream(left, right), ...stream(right, left)] : []),
    ...ending(left, right),
    ...ending(right, left),
  ];
}

function opening(left: End, right: End): Link[] {
  const [near, far] = left.origin.call === "connect" ? [left, right] : [right, left];
  return [{ kind: "connect", from: near.origin, to: far.origin, bytes: 0 }];
}

// Sends and receives are matched by their positions in the stream: bytes are received in the order they were sent.
function stream(from: End, to: End): Link[] {
  const sends = callsOf(from)
    .filter(isSend)
    .toSorted((a, b) => a.began - b.began);
  const links: Link[] = [];
  let [sending, left] = [0, sends[0]?.bytes ?? 0]; // how much of the send is still to be received
  let given = 0; // unrecv: bytes that were given back, and will be received again
  for (const receive of to.calls.filter(isReceive)) {
    const again = Math.min(given, Math.max(receive.bytes!, 0));
    given -= receive.bytes! < 0 ? receive.bytes! : again;
    for (let bytes = receive.bytes! - again; bytes > 0 && sending < sends.length;) {
      const part = Math.min(bytes, left);
      if (part > 0) links.push({ kind: "bytes", from: sends[sending]!, to: receive, bytes: part });
      bytes -= part;
      left -= part;
      if (left === 0) left = sends[++sending]?.bytes ?? 0;
    }
  }
  return links;
}

// Datagrams arrive whole or not at all, in any order: they are matched by their bytes. A datagram may
// have been cut to the size that recv asked for.
function datagrams(from: End, to: End): Link[] {
  const received = callsOf(to).filter(isReceive);
  return callsOf(from)
    .filter(isSend)
    .flatMap((send): Link[] => {
      const i = received.findIndex(
        ({ bytes, data, args }) =>
          data === send.data && (bytes === send.bytes || args === String(bytes)),
      );
      const [to] = i < 0 ? [] : received.splice(i, 1);
      return to === undefined ? [] : [{ kind: "bytes", from: send, to, bytes: send.bytes! }];
    });
}

/** The call that ended the sending direction of an end: shutdown, close, the end of the process. */
export function endOf({ calls, exit }: End): Call | undefined {
  const ends = ({ call, args }: Call) => call !== "shutdown" || args !== "read";
  return calls.find((call) => /^(close|reset|shutdown)$/.test(call.call) && ends(call)) ?? exit;
}

/** The call that closed an end. */
export function closeOf({ calls, exit }: End): Call | undefined {
  return calls.find(({ call }) => /^(close|reset)$/.test(call)) ?? exit;
}

/** The call that failed because the connection had been reset. */
export function breakOf(end: End | undefined): Call | undefined {
  return end?.calls.find(({ error }) => error === "ECONNRESET");
}

function ending(from: End, to: End): Link[] {
  const end = endOf(from);
  const heard = to.calls.find(
    ({ call, result, error = "" }) =>
      result === "EOF" || (/ECONNRESET|EPIPE/.test(error) && !/shutdown/.test(call)),
  );
  if (end === undefined || heard === undefined) return [];
  const kind = end.call === "reset" || heard.error === "ECONNRESET" ? "rst" : "fin";
  return [{ kind, from: end, to: heard, bytes: 0 }];
}
