// The picture: time runs down, the first script is on the left, and each connection is a pair of lines, with
// its bytes as arrows between them.

import { drawConnection, drawRefusal } from "./connection.ts";
import { Layout, SIZE } from "./layout.ts";
import type { Side } from "./model.ts";
import type { Plan } from "./rows.ts";
import { box, cross, escape, line, STYLE, text } from "./svg.ts";
import { type Language, WORDS } from "./words.ts";

/** What is drawn besides the plan. */
export interface Frame {
  language: Language;
  /** What was run, as it was typed. */
  commands: string[];
  /** How many calls were not kept. */
  dropped: number;
}

/** The picture as the text of an SVG file. */
export function draw(plan: Plan, { language, commands, dropped }: Frame): string {
  const others = commands.length > 1 ? commands.slice(1) : [WORDS[language].other];
  const layout = new Layout(plan, language, others.length);
  const notes: string[] = [];
  if (plan.rows.length === 0) notes.push(layout.words.waiting);
  if (plan.more > 0) notes.push(layout.words.more(plan.more));
  if (dropped > 0) notes.push(layout.words.cut(dropped));
  const middle = (layout.line[0] + layout.line[1]) / 2;
  const bottom = layout.floor + (notes.length > 0 ? 26 : 0);
  const note = text(middle, layout.floor + 18, [["word", notes.join("; ")]], "middle");

  const [width, height] = [layout.width, Math.round(bottom + 52)];
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" class="watch" viewBox="0 0 ${width} ${height}"`,
    ` width="${width}" height="${height}" role="img" aria-label="${escape(commands.join(" ⇄ "))}">`,
    `\n<style>${STYLE}</style>\n`,
    [
      box("back", 0, 0, width, height, 8),
      ...drawFolds(layout),
      ...drawProcess(layout, 0, commands.slice(0, 1)),
      ...drawProcess(layout, 1, others),
      ...plan.connections.flatMap((connection) => drawConnection(layout, connection)),
      ...plan.rows.flatMap(({ call, side }) =>
        call?.call === "connect" && call.error === "ECONNREFUSED"
          ? drawRefusal(layout, call, side)
          : [],
      ),
      ...drawLabels(layout),
      note,
      ...drawLegend(layout, bottom),
    ].join("\n"),
    "\n</svg>\n",
  ].join("");
}

// A script's line, from its name to its exit, with the waiting calls that belong to no connection.
function drawProcess(layout: Layout, side: Side, commands: string[]): string[] {
  const x = layout.x(side);
  const { rows } = layout.plan;
  const own = rows.filter((row) => row.side === side && row.call !== undefined);
  const exits = own
    .filter(({ call }) => call!.call === "exit")
    .map(({ call }) => layout.ended(call!));
  const last = exits.length === commands.length ? Math.max(...exits) : layout.floor;
  const drawn = [line("process", x, 24, x, last)];
  for (const { call, part, connection } of own) {
    if (part !== "begin" || connection !== undefined || !layout.has(call)) continue;
    drawn.push(
      box("wait", x - 4, layout.began(call), 8, layout.ended(call) - layout.began(call), 4),
    );
  }
  // The box with the names may grow outwards, and inwards up to the middle.
  const longest = Math.max(...commands.map((command) => Bun.stringWidth(command)));
  const middle = (layout.line[0] + layout.line[1]) / 2;
  const room = (side === 0 ? middle : layout.width - middle) - 18;
  const wide = Math.min(Math.max(120, longest * 8.6 + 28), room);
  const left =
    side === 0 ? Math.min(x - wide / 2, middle - 8 - wide) : Math.max(x - wide / 2, middle + 8);
  drawn.push(box("name", left, 12, wide, 12 + SIZE.line * commands.length, 6));
  const columns = Math.floor((wide - 20) / 8.4);
  commands.forEach((command, n) => {
    const y = 30 + n * SIZE.line;
    drawn.push(text(left + wide / 2, y, [["title", command]], "middle", columns));
  });
  return drawn;
}

function drawLabels(layout: Layout): string[] {
  const { plan, labels, y, columns } = layout;
  return plan.rows.flatMap(({ at }, i) => {
    const since = at - plan.rows[0]!.at;
    const ms = since < 100 ? since.toFixed(1) : Math.round(since).toLocaleString("en");
    const time = text(SIZE.time - 14, y[i]! + 4, [["time", ms]], "end");
    const sides = labels[i]!.flatMap((lines, side) =>
      lines.map((spans, n) => {
        const anchor = side === 0 ? "end" : "start";
        return text(layout.text[side as Side], y[i]! + 4 + n * SIZE.line, spans, anchor, columns);
      }),
    );
    return [time, ...sides];
  });
}

// A band for calls that are left out, with their numbers on both sides.
function drawFolds(layout: Layout): string[] {
  return layout.plan.rows.flatMap(({ fold }, i) => {
    if (fold === undefined) return [];
    const lines = Math.max(...layout.labels[i]!.map((side) => side.length));
    const tall = lines * SIZE.line + 12;
    const y = layout.y[i]! - 15;
    const about = `⋮ ${layout.words.again(fold.calls.length)}`;
    const middle = (layout.line[0] + layout.line[1]) / 2;
    return [
      box("band", 8, y, layout.width - 16, tall, 6),
      text(middle, y + tall / 2 + 4, [["word", about]], "middle"),
    ];
  });
}

function drawLegend({ words, width }: Layout, y: number): string[] {
  const { legend } = words;
  const entries: [about: string, shape: (x: number, y: number) => string][] = [
    [legend.wait, (x, y) => box("wait c1", x - 4, y - 7, 8, 14, 4)],
    [legend.buffer, (x, y) => box("buffer c1", x - 8, y - 5, 14, 10)],
    [legend.queue, (x, y) => line("queue c1", x, y - 8, x, y + 8)],
    [legend.half, (x, y) => line("half c1", x, y - 8, x, y + 8)],
    [legend.closed, (x, y) => cross("c1", x, y)],
  ];
  let x = 28;
  const drawn = [line("process", 14, y + 14, width - 14, y + 14)];
  for (const [about, shape] of entries) {
    drawn.push(shape(x, y + 32), text(x + 14, y + 36, [["note", about]]));
    x += Bun.stringWidth(about) * 6.2 + 44;
  }
  return drawn;
}
