// The order from top to bottom: when each call began and returned, and never a receive above its send.

import { type Fold, foldsOf, MOST_CONNECTIONS } from "./fold.ts";
import { actorOf, type Call, callsOf, type Connection, type Side, type Story } from "./model.ts";

/** A line of the picture: a call, the moment that it began or returned, or many calls folded. */
export interface Row {
  at: number;
  /** Which moment of the call: both, if nothing happened in between. */
  part: "begin" | "end" | "both";
  side: Side;
  call?: Call;
  connection?: Connection;
  fold?: Fold;
}

/** What is to be drawn of a story. */
export interface Plan {
  connections: Connection[];
  /** How many more there were. */
  more: number;
  rows: Row[];
  /** The row in which a call begins (or its fold), and the one in which it returns. */
  begins: Map<Call, number>;
  ends: Map<Call, number>;
}

/** The calls that may wait. All others return at once. */
const WAITS = /^(accept|connect|recv|select|send|wait|datagram)/;
/** A call that took less than this, in ms, did not wait: the machine was only busy. */
const SOON = 20;

export function plan(story: Story): Plan {
  const connections = story.connections.slice(0, MOST_CONNECTIONS);
  const rest = new Set(
    story.connections.slice(MOST_CONNECTIONS).flatMap(({ ends }) => ends.flatMap(callsOf)),
  );
  const folds = foldsOf({ ...story, connections });
  const folded = new Set(folds.flatMap(({ calls }) => calls));
  const shown = (call: Call) => !folded.has(call) && !rest.has(call);

  const moments: Row[] = folds.map((fold) => ({ at: fold.began, part: "both", side: 0, fold }));
  const add = (call: Call, side: Side, connection?: Connection) => {
    if (!shown(call)) return;
    const about = { call, side, connection };
    const sent = call.call.startsWith("send") && call.time - call.began < SOON;
    if (!WAITS.test(call.call) || sent) moments.push({ at: call.began, part: "both", ...about });
    else {
      moments.push({ at: call.began, part: "begin", ...about });
      if (!call.waits) moments.push({ at: call.time, part: "end", ...about });
    }
  };
  // A `datagram` call belongs to no single connection: its socket may exchange datagrams with several peers.
  const sides = new Map(story.others.map((call): [Call, Side] => [call, call.script > 0 ? 1 : 0]));
  for (const connection of connections) {
    for (const end of connection.ends) {
      if (end === undefined) continue;
      if (connection.kind === "stream") add(end.origin, end.side, connection);
      else sides.set(end.origin, end.side);
      for (const call of end.calls) add(call, end.side, connection);
    }
  }
  for (const [call, side] of sides) add(call, side);
  const rows = join(inOrder(moments, connections));

  const begins = new Map<Call, number>();
  const ends = new Map<Call, number>();
  for (const [i, { call, fold, part }] of rows.entries()) {
    for (const one of fold?.calls ?? (call ? [call] : [])) {
      if (part !== "end") begins.set(one, i);
      if (part !== "begin") ends.set(one, i);
    }
  }
  // A call that still waits has no end of its own; it ends with its process, if that has ended.
  for (const call of story.calls.filter(({ waits }) => waits)) {
    const exit = story.calls.find((other) => other.call === "exit" && other.pid === call.pid);
    if (begins.has(call)) ends.set(call, ends.get(exit!) ?? rows.length);
  }
  return { connections, more: story.connections.length - connections.length, rows, begins, ends };
}

// Sorted by time; but the clocks of two processes may differ a little, so a receive is moved below its send.
function inOrder(moments: Row[], connections: Connection[]): Row[] {
  const sorted = moments.toSorted((a, b) => a.at - b.at);
  const begin = new Map<Call, Row>();
  for (const row of sorted) if (row.call && row.part !== "end") begin.set(row.call, row);
  const links = connections.flatMap(({ links }) => links);
  const causes = Map.groupBy(links, ({ to }) => to);
  const before = new Map<string, Row>(); // the last row so far of each thread
  const previous = new Map<Row, Row>();
  for (const row of sorted) {
    if (row.call === undefined) continue;
    const actor = actorOf(row.call);
    if (before.has(actor)) previous.set(row, before.get(actor)!);
    before.set(actor, row);
  }
  const order = new Set<Row>();
  const under = new Set<Row>(); // being placed: prevents an endless loop if a clock runs backwards
  const put = (row: Row) => {
    if (order.has(row) || under.has(row)) return;
    under.add(row);
    const own = previous.get(row);
    if (own !== undefined) put(own);
    const caused = row.call && row.part !== "begin" ? (causes.get(row.call) ?? []) : [];
    for (const { from } of caused) {
      const cause = begin.get(from);
      if (cause !== undefined) put(cause);
    }
    order.add(row);
  };
  sorted.forEach(put);
  return [...order];
}

// A call that began and soon returned, with nothing in between, takes one row.
function join(rows: Row[]): Row[] {
  const joined: Row[] = [];
  for (const row of rows) {
    const last = joined.at(-1);
    if (row.part === "end" && last?.call === row.call && row.at - last!.at < SOON)
      last!.part = "both";
    else joined.push({ ...row });
  }
  return joined;
}
