// The text beside the lines: a call as it is written in a script, and its result.

import { countCalls } from "./fold.ts";
import { actorOf, type Call, callsOf, type Connection, isSend, type Side } from "./model.ts";
import type { Plan, Row } from "./rows.ts";
import { type Span, widthOf } from "./svg.ts";
import { type Language, WORDS } from "./words.ts";

/** The lines of text of a row, on both sides. */
export type Label = [left: Span[][], right: Span[][]];

export class Labels {
  readonly words: (typeof WORDS)[Language];
  readonly #columns: number;
  readonly #many: boolean;
  readonly #manyServers: boolean;
  readonly #hasOthers: boolean;
  /** The number of each connection, by the name that its thread gives it; and the side of each call. */
  readonly #numbers: Map<string, number>;
  readonly #sides: Map<Call, Side>;

  constructor({ connections, rows }: Plan, language: Language, columns: number) {
    this.words = WORDS[language];
    this.#columns = columns;
    this.#many = connections.length > 1;
    this.#manyServers = rows.some(({ call }) => /^server#[2-9]/.test(call?.made?.name ?? ""));
    this.#hasOthers = rows.some(({ call }) => call !== undefined && call.script > 0);
    this.#numbers = numbersOf(connections);
    const ends = connections.flatMap(({ ends }) => ends.filter((end) => end !== undefined));
    this.#sides = new Map(ends.flatMap((end) => callsOf(end).map((call) => [call, end.side])));
  }

  /** In one line if there is room for it, else in several. */
  of({ side, call, part, fold }: Row): Label {
    if (fold) return [this.#counts(fold.calls, 0), this.#counts(fold.calls, 1)];
    const [what, result] = this.#spans(call!, part);
    // The other end of a connection within the first script is on the side of the others.
    if (side === 1 && call!.script === 0 && this.#hasOthers)
      what.unshift(["soft", this.words.left]);
    const whole = [...what, ...result];
    const fits = widthOf(whole) <= this.#columns;
    const own = fits ? [whole] : [...this.#wrap(what), result].filter((line) => line.length > 0);
    return side === 0 ? [own, []] : [[], own];
  }

  // Long arguments go on in a second line.
  #wrap(line: Span[]): Span[][] {
    const [kind, args] = line.at(-1)!;
    const before = line.slice(0, -1);
    const cut = args.lastIndexOf(", ", this.#columns - widthOf(before) - 2);
    if (widthOf(line) <= this.#columns || cut < 0) return [line];
    return [[...before, [kind, args.slice(0, cut + 1)]], [[kind, args.slice(cut + 1)]]];
  }

  #spans(call: Call, part: Row["part"]): [what: Span[], result: Span[]] {
    const { words } = this;
    if (call.call === "exit") return [[["word", words.exit(call.args)]], []];
    if (call.call === "signal") return [[["word", words.signal(call.args)]], []];
    const what: Span[] = [];
    if (call.thread) what.push(["soft", `${words.thread} ${call.thread} `]);
    const number = this.#numbers.get(`${actorOf(call)}/${call.on ?? call.made?.name}`);
    if (call.on !== undefined) {
      const kind = number && this.#many ? colorOf(number) : "soft";
      what.push([kind, this.#renamed(call, call.on)], ["soft", "."]);
    }
    if (part === "end") return [[...what, ["soft", call.call]], this.#result(call, part)];
    what.push(["call", call.call], ["args", `(${this.#args(call)})`]);
    return [what, part === "begin" ? [] : this.#result(call, part)];
  }

  #args(call: Call): string {
    if (call.call === "select") return this.#renamed(call, call.args);
    // The bytes themselves are written at the arrow.
    const sent = /^(\d+) bytes?\b/.exec(call.args);
    return isSend(call) && sent ? this.words.bytes(Number(sent[1])) : call.args;
  }

  #result(call: Call, part: Row["part"]): Span[] {
    const { words } = this;
    const { made, result, error } = call;
    if (made) {
      const number = this.#numbers.get(`${actorOf(call)}/${made.name}`);
      const kind = number === undefined ? "soft" : colorOf(number);
      const name = this.#renamed(call, made.name);
      return [
        ["soft", " → "],
        [kind, name],
        ["address", ` ${made.remote ?? made.local}`],
      ];
    }
    if (result === "") return part === "end" ? [["soft", ` ${words.returns}`]] : [];
    if (result === "EOF") return [["eof", " → EOF"]];
    if (call.call === "select") return [["result", ` → ${this.#renamed(call, result)}`]];
    const counted = result.replace(/^(\d+) bytes?(?= |$)/, (_, n) => words.bytes(Number(n)));
    const spans: Span[] = [[error ? "bad" : "result", ` → ${counted}`]];
    // On the wire, a message has its length or its delimiter, too.
    if (call.call === "recvMessage" && call.bytes && !result.startsWith(`${call.bytes} `)) {
      spans.push(["soft", ` ${words.ofAll(call.bytes)}`]);
    }
    return spans;
  }

  // Every thread and process numbers its own connections; in the picture each connection has one number. If there
  // is only one, it is shown without a number.
  #renamed(call: Call, list: string): string {
    return list.replace(/\b(conn|datagram|server)#\d+/g, (name, kind) => {
      if (kind === "server") return this.#manyServers ? name : kind;
      const number = this.#numbers.get(`${actorOf(call)}/${name}`);
      if (number === undefined) return name;
      return this.#many ? `${kind}#${number}` : kind;
    });
  }

  #counts(calls: Call[], side: Side): Span[][] {
    const sideOf = (call: Call) => this.#sides.get(call) ?? (call.script > 0 ? 1 : 0);
    return countCalls(calls.filter((call) => sideOf(call) === side)).map(
      ({ call, times, bytes }): Span[] => {
        const moved = bytes === undefined ? "" : `: ${this.words.bytes(bytes)}`;
        return [
          ["count", `${times.toLocaleString("en")} × `],
          ["call", call],
          ["count", moved],
        ];
      },
    );
  }
}

/** The class that colours a connection. */
export function colorOf(number: number): string {
  return `c${((number - 1) % 8) + 1}`;
}

function numbersOf(connections: Connection[]): Map<string, number> {
  const numbers = new Map<string, number>();
  for (const { ends, number } of connections) {
    for (const end of ends) {
      if (end) numbers.set(`${actorOf(end.origin)}/${end.origin.made!.name}`, number);
    }
  }
  return numbers;
}
