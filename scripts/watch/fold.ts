// Repeated calls are folded: of 1,000 round trips the picture shows two, a count of the others, and the last.

import { type Call, isReceive, isSend, type Story } from "./model.ts";

/** More repetitions than this are folded; the first two and the last one stay. */
const MOST = 8;
const LONGEST = 6; // calls in one repetition (a round)
const KEPT = { before: 2, after: 1 };

/** More connections than this are counted only. */
export const MOST_CONNECTIONS = 8;

/** Calls that are left out, all between `began` and `time`. */
export interface Fold {
  began: number;
  time: number;
  calls: Call[];
}

/** A part of a list: from the first index up to, not including, the last. */
interface Stretch {
  from: number;
  to: number;
}

/** The repeated calls of all ends of a story. Folds that overlap in time become one. */
export function foldsOf({ connections, others }: Story): Fold[] {
  const lists = connections.flatMap(({ ends }) => ends.flatMap((end) => (end ? [end.calls] : [])));
  const alike = ({ pid, thread, on, call }: Call) => [pid, thread, on ?? call].join("/");
  lists.push(...Map.groupBy(others, alike).values());
  return merge(
    lists.flatMap((calls) =>
      repeats(calls).map(({ from, to }) => {
        const inside = calls.slice(from, to);
        return { began: inside[0]!.began, time: inside.at(-1)!.time, calls: inside };
      }),
    ),
  );
}

/** Where a list of calls repeats itself, without the rounds that are kept. */
export function repeats(calls: Call[]): Stretch[] {
  const looks = calls.map(lookOf);
  const found: Stretch[] = [];
  for (let i = 0; i < looks.length;) {
    let best = { to: i, period: 1 };
    for (let period = 1; period <= LONGEST; period++) {
      let end = i + period;
      while (end < looks.length && looks[end] === looks[end - period]) end++;
      const rounds = Math.floor((end - i) / period);
      const to = i + rounds * period;
      if (rounds > MOST && to > best.to) best = { to, period };
    }
    const { to, period } = best;
    if (to > i) found.push({ from: i + KEPT.before * period, to: to - KEPT.after * period });
    i = Math.max(to, i + 1);
  }
  return found;
}

// Two calls are alike if they differ only in their bytes and the number of bytes.
function lookOf({ call, result, error = "", bytes }: Call): string {
  const [end = ""] = /^(EOF|closed|aborted|would block)|time is up/.exec(result) ?? [];
  return [call, error, end, bytes === undefined ? "" : Math.sign(bytes)].join(" ");
}

// Both ends of a connection repeat together: folds that overlap become one, which begins where the last begins.
function merge(folds: Fold[]): Fold[] {
  const merged: Fold[] = [];
  for (const fold of folds.toSorted((a, b) => a.began - b.began)) {
    const last = merged.at(-1);
    if (last === undefined || fold.began > last.time) {
      merged.push({ ...fold });
      continue;
    }
    last.began = fold.began;
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
