// For a mistyped script name: the names that are most like it.

/** The three nearest names (names that contain it come first), and then all names. */
export function nearest(name: string, all: string[]): string {
  const far = (other: string) => distance(name, other) + (other.includes(name) ? 0 : 100);
  const near = all.toSorted((a, b) => far(a) - far(b)).slice(0, 3);
  return `${near.join(", ")}? All: ${all.toSorted().join(", ")}`;
}

// The Levenshtein distance: the number of letters to change, insert or delete.
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
