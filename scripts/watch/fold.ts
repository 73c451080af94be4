// What repeats itself is told once: of 1,000 round trips the first, the last, and how many there were.

import { type Call, type Connection, isReceive, isSend, type Story } from "./model.ts";

/** More of the same than this is folded; two rounds before it and one behind stay. */
const MOST = 8;
const LONGEST = 6; // calls in a round
const KEPT = { before: 2, after: 1 };

/** More connections than this are counted only. */
export const MOST_CONNECTIONS = 8;

/** Calls that are left out, all between `began` and `time`. */
export interface Fold {
  began: number;
  time: number;
  calls: Call[];
}

/** A stretch of a list: from the first place to before the last. */
interface Stretch {
  from: number;
  to: number;
  period: number;
}

/** The repeated calls of a story, put together where they overlap in time. */
export function foldsOf({ connections, others }: Story): Fold[] {
  const folds = connections.flatMap(foldConnection);
  for (const calls of Map.groupBy(others, ({ pid, thread, on, call }) =>
    [pid, thread, on ?? call].join("/"),
  ).values()) {
    folds.push(...repeats(calls).map((stretch) => cut(calls, stretch)));
  }
  return merge(folds);
}

// Both ends are cut at the same round, though a round begins with another call there.
function foldConnection({ ends }: Connection): Fold[] {
  const [left = [], right = []] = ends.map((end) => end?.calls);
  const pairs = (mine: Call[], theirs: Call[]) =>
    repeats(mine).map((stretch) => {
      const own = cut(mine, stretch);
      const other = repeats(theirs)
        .map((stretch) => cut(theirs, stretch))
        .find(({ began, time }) => began < own.time && time > own.began);
      return other === undefined ? own : cut(mine, narrow(mine, stretch, other));
    });
  return [...pairs(left, right), ...pairs(right, left)].filter(({ calls }) => calls.length > 0);
}

/** Where a list of calls repeats itself, without the rounds that are kept. */
export function repeats(calls: Call[]): Stretch[] {
  const looks = calls.map(lookOf);
  const found: Stretch[] = [];
  for (let i = 0; i < looks.length;) {
    let best: Stretch = { from: i, to: i, period: 1 };
    for (let period = 1; period <= LONGEST; period++) {
      let end = i + period;
      while (end < looks.length && looks[end] === looks[end - period]) end++;
      const rounds = Math.floor((end - i) / period);
      const to = i + rounds * period;
      if (rounds > MOST && to > best.to) best = { from: i, to, period };
    }
    const { from, to, period } = best;
    const [before, after] = [KEPT.before * period, KEPT.after * period];
    if (to > from) found.push({ from: from + before, to: to - after, period });
    i = Math.max(to, i + 1);
  }
  return found;
}

// Calls that look alike may move other bytes, and another number of them.
function lookOf({ call, result, error = "", bytes }: Call): string {
  const [end = ""] = /^(EOF|closed|aborted|would block)|time is up/.exec(result) ?? [];
  return [call, error, end, bytes === undefined ? "" : Math.sign(bytes)].join(" ");
}

// By less than a round at either end.
function narrow(calls: Call[], { from, to, period }: Stretch, other: Fold): Stretch {
  let [first, last] = [from, to];
  while (first < from + period && calls[first]!.time < other.began) first++;
  while (last > to - period && calls[last - 1]!.began > other.time) last--;
  return { from: first, to: last, period };
}

function cut(calls: Call[], { from, to }: Stretch): Fold {
  const inside = calls.slice(from, to);
  return { began: inside[0]?.began ?? 0, time: inside.at(-1)?.time ?? 0, calls: inside };
}

function merge(folds: Fold[]): Fold[] {
  const merged: Fold[] = [];
  for (const fold of folds.toSorted((a, b) => a.began - b.began)) {
    const last = merged.at(-1);
    if (last === undefined || fold.began > last.time) {
      merged.push({ ...fold });
      continue;
    }
    last.time = Math.max(last.time, fold.time);
    last.calls = [...last.calls, ...fold.calls];
  }
  return merged;
}

/** How often each call was made, and the bytes that it moved. */
export function countCalls(calls: Call[]): { call: string; times: number; bytes?: number }[] {
  return [...Map.groupBy(calls, ({ call }) => call)].map(([call, all]) => {
    const moved = all.some((one) => isSend(one) || isReceive(one));
    const bytes = moved ? all.reduce((sum, { bytes = 0 }) => sum + bytes, 0) : undefined;
    return { call, times: all.length, bytes };
  });
}
