// The picture of the READMEs, drawn from the saved results of a run: a bar for each server, in a light and
// a dark version. `bun run bench --save` draws it at its end; `bun run bench/picture.ts` draws it again.

import { join } from "node:path";

/** What a run has measured: for each title and server, the numbers in the order of `columns`. */
export interface Results {
  machine: string;
  columns: string[];
  tables: Record<string, Record<string, number[]>>;
}

const RESULTS = join(import.meta.dir, "results.json");
const PICTURES = join(import.meta.dir, "../docs/pictures");

/** The loads that the picture shows, and their headings. */
const SHOWN = {
  "echo, 50 connections x 1000 bytes":
    "50 connections × 1,000 bytes, one message under way on each",
  "messages of 100 bytes, 16 under way on each of 20 connections":
    "20 connections × 100 bytes, 16 messages under way on each",
};

const THEMES = {
  light: { text: "#1f2328", ours: "#0969da", bare: "#1f2328", others: "#afb8c1" },
  dark: { text: "#f0f6fc", ours: "#4493f8", bare: "#f0f6fc", others: "#656c76" },
} as const;

/** Keeps the results in `bench/results.json` and draws the pictures. */
export async function save(results: Results): Promise<void> {
  await Bun.write(RESULTS, JSON.stringify(results));
  Bun.spawnSync([process.execPath, "fmt", RESULTS]);
  await draw(results);
}

async function draw(results: Results): Promise<void> {
  for (const theme of ["light", "dark"] as const) {
    const path = join(PICTURES, `speed-${theme}.svg`);
    await Bun.write(path, picture(results, theme));
  }
}

const ROW = 22;
const BARS_AT = 190;
const WIDTH = 720;

/** The SVG: a group of bars for each load, one bar a server, the cheapest first; those of the lib in colour. */
export function picture(results: Results, theme: keyof typeof THEMES): string {
  const title = "CPU time for an echoed message, bare Bun.listen = 1";
  const lines = [`<text x="8" y="18" font-weight="600">${title}</text>`];
  let y = 22;
  for (const [table, heading] of Object.entries(SHOWN)) {
    if (results.tables[table] === undefined) continue; // not measured in this run
    const { svg, height } = group(results, table, heading, y, THEMES[theme]);
    lines.push(svg);
    y += height;
  }
  if (lines.length === 1) throw new Error(`the results have none of ${Object.keys(SHOWN)}`);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y + 6}" role="img" fill="${THEMES[theme].text}" font-family="system-ui, sans-serif" font-size="13">
<title>${title}</title>
${lines.join("\n")}
</svg>
`;
}

function group(
  { columns, tables }: Results,
  table: string,
  heading: string,
  top: number,
  { ours, bare, others }: (typeof THEMES)[keyof typeof THEMES],
) {
  const ratio = columns.indexOf("ratio");
  const bars = Object.entries(tables[table]!)
    .map(([name, numbers]) => ({ name, ratio: numbers[ratio]! }))
    .sort((a, b) => a.ratio - b.ratio);
  const scale = (WIDTH - BARS_AT - 50) / Math.max(...bars.map((bar) => bar.ratio));
  const colour = (name: string) =>
    name.startsWith("lib") ? ours : name.startsWith("bare") ? bare : others;
  const rows = bars.map(({ name, ratio }, i) => {
    const y = top + 28 + i * ROW;
    const end = BARS_AT + ratio * scale;
    return [
      `<text x="${BARS_AT - 8}" y="${y + 13}" text-anchor="end">${name}</text>`,
      `<rect x="${BARS_AT}" y="${y}" width="${(end - BARS_AT).toFixed(1)}" height="${ROW - 5}" rx="2" fill="${colour(name)}"/>`,
      `<text x="${(end + 6).toFixed(1)}" y="${y + 13}">${ratio.toFixed(2)}</text>`,
    ].join("");
  });
  const svg = [`<text x="8" y="${top + 19}">${heading}</text>`, ...rows].join("\n");
  return { svg, height: 34 + bars.length * ROW };
}

if (import.meta.main) await draw(await Bun.file(RESULTS).json());
