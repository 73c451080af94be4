// Draws one connection: a line for each end, arrows for bytes, FINs and resets, and the bytes that wait.

import { colorOf } from "./labels.ts";
import { INWARD, type Layout, SIZE } from "./layout.ts";
import {
  breakOf,
  type Call,
  callsOf,
  closeOf,
  type Connection,
  type End,
  endOf,
  isSend,
  type Link,
  type Side,
} from "./model.ts";
import { arrow, box, cross, line, type Span, text, widthOf } from "./svg.ts";

/** At `y`, the number of waiting bytes grows or shrinks by `bytes`. */
type Change = [y: number, bytes: number];

export function drawConnection(layout: Layout, connection: Connection): string[] {
  const drawn: string[] = [];
  for (const end of connection.ends) {
    if (end === undefined) continue;
    drawn.push(...drawSends(layout, connection, end), ...drawLine(layout, connection, end));
    if (connection.kind === "stream") drawn.push(...drawEnd(layout, connection, end));
  }
  const opening = connection.links.find(({ kind }) => kind === "connect");
  if (opening !== undefined) drawn.push(...drawOpening(layout, connection, opening));
  return drawn;
}

// The line of an end, from opening to close; dotted after its FIN. A call that waits is a bar on the line.
function drawLine(layout: Layout, connection: Connection, end: End): string[] {
  const color = colorOf(connection.number);
  const x = layout.x(end.side, connection);
  const last = layout.closed(connection, end);
  const drawn: string[] = [];
  if (connection.kind === "stream") {
    const fin = endOf(end);
    const from = layout.has(end.origin) ? layout.ended(end.origin) : layout.top;
    const half = layout.has(fin) ? Math.min(layout.began(fin), last) : last;
    drawn.push(line(`life ${color}`, x, from, x, half));
    if (half < last) drawn.push(line(`half ${color}`, x, half, x, last));
    if (last < layout.floor) drawn.push(cross(color, x, last));
  }
  const waiting = connection.kind === "stream" ? [end.origin, ...end.calls] : end.calls;
  for (const call of waiting) {
    if (!layout.has(call) || layout.isFolded(call)) continue;
    const [from, to] = [layout.began(call), layout.ended(call)];
    if (from < to) drawn.push(box(`wait ${color}`, x - 4, from, 8, to - from, 4));
  }
  return drawn;
}

// An arrow for each send: to the receive that waited for it, or else to the bar of waiting bytes.
function drawSends(layout: Layout, connection: Connection, end: End): string[] {
  const { kind, links } = connection;
  const color = colorOf(connection.number);
  const other = (1 - end.side) as Side;
  const far = connection.ends[other];
  const [x, to] = [layout.x(end.side, connection), inside(layout, connection, other)];
  const drawn: string[] = [];
  const changes: Change[] = [];
  const bytes = links.filter(({ kind }) => kind === "bytes");
  const bySend = Map.groupBy(bytes, ({ from }) => from);
  for (const send of callsOf(end).filter(isSend)) {
    if (!layout.has(send) || (send.bytes === 0 && (kind === "stream" || send.error))) continue;
    const own = bySend.get(send) ?? [];
    const taken = own.flatMap(({ to, bytes }): Change[] =>
      layout.has(to) ? [[layout.ended(to), -bytes]] : [],
    );
    // What connect sends first is drawn right below the arrow of connect itself.
    const y = layout.began(send) + (send === end.origin ? SIZE.line : 0);
    const lost = kind === "datagram" && own.length === 0 && far !== undefined && !!closeOf(far);
    if (layout.isFolded(send)) {
      if (!lost && far?.tls === end.tls) changes.push([y, send.bytes!], ...taken);
      continue;
    }
    const straight = own.length === 1 && isAwaited(layout, connection, own[0]!);
    const arrives = straight ? layout.ended(own[0]!.to) : y + SIZE.hop;
    if (far === undefined || lost) {
      const half = x + (to - x) * 0.7;
      drawn.push(arrow(`${color} faint`, x, y, half, arrives));
      if (lost) drawn.push(cross("bad", half + INWARD[end.side] * 8, arrives));
    } else {
      drawn.push(arrow(color, x, y, to, arrives));
      if (!straight && far.tls === end.tls) changes.push([arrives, send.bytes!], ...taken);
    }
    drawn.push(onTheWay([x, to], y, arrives, [["data", send.data ?? ""]]));
  }
  return far === undefined ? drawn : [...drawBuffer(layout, connection, far, changes), ...drawn];
}

// The waiting bytes, beside the end that will receive them: a bar that is wider for more bytes.
function drawBuffer(layout: Layout, connection: Connection, end: End, changes: Change[]): string[] {
  const x = layout.x(end.side, connection);
  const last = layout.closed(connection, end);
  const sorted = changes.toSorted(([a], [b]) => a - b);
  const drawn: string[] = [];
  let bytes = 0;
  for (const [i, [from, change]] of sorted.entries()) {
    bytes += change;
    const to = Math.min(sorted[i + 1]?.[0] ?? last, last);
    if (bytes <= 0 || to <= from) continue;
    const thick = 3 + Math.log2(1 + bytes);
    const left = end.side === 0 ? x + 5 : x - 5 - thick;
    drawn.push(box(`buffer ${colorOf(connection.number)}`, left, from, thick, to - from));
  }
  return drawn;
}

// The FIN, or the reset.
function drawEnd(layout: Layout, connection: Connection, end: End): string[] {
  const fin = endOf(end);
  const other = (1 - end.side) as Side;
  const broken = breakOf(connection.ends[other]);
  if (fin === undefined && layout.has(broken)) return drawDeath(layout, connection, broken, other);
  const broke = breakOf(end);
  if (!layout.has(fin) || layout.isFolded(fin) || !connection.ends[other]) return [];
  if (broke !== undefined && broke.time <= fin.time) return [];
  const heard = connection.links.find(({ from, kind }) => from === fin && kind !== "bytes");
  const reset = heard?.kind === "rst" || fin.call === "reset";
  const [x, to] = [layout.x(end.side, connection), inside(layout, connection, other)];
  const y = layout.began(fin);
  const arrives =
    heard && isAwaited(layout, connection, heard) ? layout.ended(heard.to) : y + SIZE.hop;
  const { words } = layout;
  return [
    arrow(reset ? "bad" : colorOf(connection.number), x, y, to, arrives),
    onTheWay([x, to], y, arrives, [[reset ? "note bad" : "note", reset ? words.rst : words.fin]]),
  ];
}

// A process that died: its kernel has sent the reset some time before the other end noticed.
function drawDeath(layout: Layout, connection: Connection, heard: Call, side: Side): string[] {
  const [x, to] = [layout.x((1 - side) as Side, connection), inside(layout, connection, side)];
  const arrives = layout.ended(heard);
  const spans: Span[] = [["note bad", layout.words.rst]];
  return [
    arrow("bad", x, arrives - SIZE.hop, to, arrives),
    onTheWay([x, to], arrives - SIZE.hop, arrives, spans),
  ];
}

// From connect to accept. Until the server accepts, the connection waits in the backlog.
function drawOpening(layout: Layout, connection: Connection, opening: Link): string[] {
  const { from, to } = opening;
  if (!layout.has(from) || !layout.has(to)) return [];
  const color = colorOf(connection.number);
  const side: Side = connection.ends[0]?.origin === from ? 0 : 1;
  const other = (1 - side) as Side;
  const [x, far] = [layout.x(side, connection), layout.x(other, connection)];
  const y = layout.began(from);
  const straight = from.bytes === undefined && isAwaited(layout, connection, opening);
  const end = straight ? layout.ended(to) : y + SIZE.hop;
  const { opens, opensTls } = layout.words;
  const drawn = [
    arrow(color, x, y, inside(layout, connection, other), end),
    onTheWay([x, far], y, end, [["note", connection.ends[side]?.tls ? opensTls : opens]]),
  ];
  if (!straight) drawn.push(line(`queue ${color}`, far, end, far, layout.ended(to)));
  return drawn;
}

/** A connection that was refused. */
export function drawRefusal(layout: Layout, call: Call, side: Side): string[] {
  const other = (1 - side) as Side;
  const [x, to] = [layout.x(side), layout.x(other) + INWARD[other] * 24];
  const y = layout.began(call);
  return [
    arrow("bad", x, y, to, y + SIZE.hop),
    cross("bad", to - INWARD[other] * 8, y + SIZE.hop),
    onTheWay([x, to], y, y + SIZE.hop, [["note bad", layout.words.refused]]),
  ];
}

// Whether the receiver was waiting and got it at once. Otherwise the bytes are drawn as waiting, so that arrows
// of later sends do not cross this one.
function isAwaited(layout: Layout, connection: Connection, { from, to }: Link): boolean {
  if (!layout.has(to) || layout.isFolded(to) || to.began > from.began) return false;
  const { rows, begins, ends } = layout.plan;
  const side = rows[begins.get(from)!]!.side;
  const between = rows.slice(begins.get(from)! + 1, ends.get(to)!);
  const drop = layout.ended(to) - layout.began(from);
  return (
    drop > 0 &&
    drop < 2.5 * SIZE.row &&
    !between.some((row) => row.connection === connection && row.side === side && row.part !== "end")
  );
}

function inside(layout: Layout, connection: Connection, side: Side): number {
  return layout.x(side, connection) + INWARD[side] * 5;
}

// Above the middle of an arrow.
function onTheWay([x1, x2]: [number, number], y1: number, y2: number, spans: Span[]): string {
  const columns = Math.floor((SIZE.middle - 30) / SIZE.letter);
  const wide = Math.min(widthOf(spans), columns) * SIZE.letter;
  const lift = 5 + ((y2 - y1) / SIZE.middle) * (wide / 2.6);
  return text((x1 + x2) / 2, (y1 + y2) / 2 - lift, spans, "middle", columns);
}
