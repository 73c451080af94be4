// For a name that no script has: those that it may have meant.

/** The three nearest names, and all of them. */
export function nearest(name: string, all: string[]): string {
  const near = all.toSorted((a, b) => distance(name, a) - distance(name, b)).slice(0, 3);
  return `${near.join(", ")}? All: ${all.toSorted().join(", ")}`;
}

// Levenshtein's: how many letters to change, add or take away.
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = row[j - 1]! + Number(a[i - 1] !== b[j - 1]);
      next.push(Math.min(swap, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
