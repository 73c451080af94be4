// The positions of everything: rows, the lines of the two sides, and the lane of each connection.

import { type Label, Labels } from "./labels.ts";
import { breakOf, type Call, closeOf, type Connection, type End, type Side } from "./model.ts";
import type { Plan } from "./rows.ts";
import type { Language } from "./words.ts";

/** All in pixels. */
export const SIZE = {
  time: 62, // the column of times
  column: 300, // the calls of a side
  middle: 310, // what is on its way
  lane: 14, // from the line of one connection to that of the next
  letter: 7.25,
  line: 17, // of text
  row: 23,
  hop: 11, // how far an arrow drops if nobody waits for it
} as const;

/** The sign of x from each side towards the other. */
export const INWARD = [1, -1] as const;

export class Layout {
  readonly labels: Label[];
  readonly words: Labels["words"];
  readonly columns = Math.floor(SIZE.column / SIZE.letter) - 1;
  readonly top: number;
  /** Below the last row. */
  readonly floor: number;
  readonly width: number;
  /** The lines of the two sides, and where their text begins. */
  readonly line: readonly [left: number, right: number];
  readonly text: readonly [left: number, right: number];
  /** The middle of each row. */
  readonly y: number[] = [];
  readonly #lanes: Map<Connection, number>;

  constructor(
    readonly plan: Plan,
    language: Language,
    headLines: number,
  ) {
    const labels = new Labels(plan, language, this.columns);
    this.words = labels.words;
    this.labels = plan.rows.map((row) => labels.of(row));
    this.#lanes = lanesOf(plan);
    const lanes = Math.max(1, ...[...this.#lanes.values()].map((lane) => lane + 1)) * SIZE.lane;
    const left = SIZE.time + SIZE.column + lanes;
    this.line = [left, left + SIZE.middle];
    this.text = [left - lanes - 2, left + SIZE.middle + lanes + 2];
    this.width = this.text[1] + SIZE.column;
    this.top = 30 + SIZE.line * headLines;
    this.floor = this.#placeRows() + 18;
  }

  // A pause makes room: the longer the pause, the more.
  #placeRows(): number {
    let y = this.top + 8;
    const { rows } = this.plan;
    for (const [i, { at, fold }] of rows.entries()) {
      const pause = i === 0 ? 0 : Math.max(0, at - rows[i - 1]!.at);
      const around = fold ? 12 : 0;
      y += SIZE.row + Math.min(24, 6 * Math.log10(1 + pause)) + around;
      this.y.push(y);
      y += (Math.max(1, ...this.labels[i]!.map((lines) => lines.length)) - 1) * SIZE.line + around;
    }
    return y;
  }

  x(side: Side, connection?: Connection): number {
    const lane = connection === undefined ? 0 : this.#lanes.get(connection)!;
    return this.line[side] - INWARD[side] * lane * SIZE.lane;
  }

  /** Whether it is drawn, by itself or in a fold. */
  has(call: Call | undefined): call is Call {
    return call !== undefined && this.plan.ends.has(call);
  }

  isFolded(call: Call): boolean {
    return this.plan.rows[this.plan.ends.get(call)!]?.fold !== undefined;
  }

  began(call: Call): number {
    return this.y[this.plan.begins.get(call)!]!;
  }

  ended(call: Call): number {
    return this.y[this.plan.ends.get(call)!] ?? this.floor;
  }

  /** Where the line of an end stops: at its close, or where the other end noticed that it has gone. */
  closed({ ends }: Connection, end: End): number {
    const gone = closeOf(end) ?? breakOf(ends[1 - end.side]);
    return this.has(gone) ? this.ended(gone) : this.floor;
  }
}

// Connections that are open at the same time have lines beside each other.
function lanesOf({ connections, begins, ends, rows }: Plan): Map<Connection, number> {
  const lanes = new Map<Connection, number>();
  const until: number[] = []; // the last row that each lane uses
  for (const connection of connections) {
    const both = connection.ends.filter((end) => end !== undefined);
    const isStream = connection.kind === "stream";
    const first = both.map(({ origin, calls }) => (isStream ? origin : calls[0]!));
    const from = Math.min(...first.map((call) => begins.get(call) ?? 0));
    const last = both.map((end) => (isStream ? closeOf(end) : end.calls.at(-1)));
    const to = last.map((call) => ends.get(call!) ?? rows.length);
    const free = until.findIndex((row) => row < from);
    const lane = free < 0 ? until.length : free;
    until[lane] = Math.max(...to);
    lanes.set(connection, lane);
  }
  return lanes;
}
