// The shapes of the picture, as SVG. Text is escaped.

/** Escapes text for XML, and replaces characters that XML does not allow. */
export function escape(text: string): string {
  const allowed = text
    .toWellFormed()
    .replace(/[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]/g, "\ufffd");
  return Bun.escapeHTML(allowed);
}

/** A part of a line of text, and its CSS class. */
export type Span = [kind: string, text: string];

/** A line of text; what is too long for `columns` (a Korean letter takes two) is cut. */
export function text(
  x: number,
  y: number,
  spans: Span[],
  anchor = "start",
  columns = Infinity,
): string {
  let room = columns;
  const parts = spans.map(([kind, value]) => {
    const shown = fit(value, room);
    room -= Bun.stringWidth(shown);
    return `<tspan class="${kind}">${escape(shown)}</tspan>`;
  });
  return `<text x="${round(x)}" y="${round(y)}" text-anchor="${anchor}">${parts.join("")}</text>`;
}

export function widthOf(spans: Span[]): number {
  return spans.reduce((sum, [, value]) => sum + Bun.stringWidth(value), 0);
}

export function fit(value: string, columns: number): string {
  if (Bun.stringWidth(value) <= columns) return value;
  let shown = "";
  for (const letter of value) {
    if (Bun.stringWidth(shown + letter) > columns - 1) break;
    shown += letter;
  }
  return columns < 1 ? "" : `${shown}…`;
}

export function line(kind: string, x1: number, y1: number, x2: number, y2: number): string {
  return `<line class="${kind}" x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}"/>`;
}

export function box(
  kind: string,
  x: number,
  y: number,
  width: number,
  height: number,
  r = 0,
): string {
  const size = `width="${round(width)}" height="${round(height)}"`;
  return `<rect class="${kind}" x="${round(x)}" y="${round(y)}" ${size} rx="${r}"/>`;
}

export function arrow(kind: string, x1: number, y1: number, x2: number, y2: number): string {
  const length = Math.hypot(x2 - x1, y2 - y1) || 1;
  const [dx, dy] = [(x2 - x1) / length, (y2 - y1) / length];
  const corner = (side: number) =>
    `${round(x2 - 8 * dx - side * 4 * dy)},${round(y2 - 8 * dy + side * 4 * dx)}`;
  const head = `${round(x2)},${round(y2)} ${corner(1)} ${corner(-1)}`;
  return `${line(kind, x1, y1, x2 - 4 * dx, y2 - 4 * dy)}<polygon class="${kind} head" points="${head}"/>`;
}

/** A small cross, for an end. */
export function cross(kind: string, x: number, y: number): string {
  return line(kind, x - 5, y - 5, x + 5, y + 5) + line(kind, x - 5, y + 5, x + 5, y - 5);
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

const COLORS = {
  light: ["#0969da", "#8250df", "#1a7f37", "#bf3989", "#9a6700", "#0a7ea4", "#bc4c00", "#57606a"],
  dark: ["#58a6ff", "#bc8cff", "#3fb950", "#f778ba", "#d29922", "#39c5cf", "#ff9b5e", "#9198a1"],
};

/** How a picture looks, in light and dark. The class of the n-th connection is `c1` to `c8`. */
export const STYLE = `
.watch { --back: #fff; --ink: #1f2328; --soft: #59636e; --rule: #d1d9e0; --pale: #f3f5f7; --bad: #cf222e; --good: #1a7f37;
  ${variables(COLORS.light)} }
@media (prefers-color-scheme: dark) {
  .watch { --back: #0d1117; --ink: #e6edf3; --soft: #9198a1; --rule: #3d444d; --pale: #171d25; --bad: #ff7b72; --good: #3fb950;
  ${variables(COLORS.dark)} } }
.watch text { font: 12px ui-monospace, monospace; fill: var(--ink); stroke: var(--back); stroke-width: 4px;
  stroke-linejoin: round; paint-order: stroke; white-space: pre; }
.watch .word, .watch .note { font-family: system-ui, sans-serif; }
.watch .title { font-weight: 600; font-size: 14px; stroke: none; }
.watch .soft, .watch .time, .watch .address, .watch .note { fill: var(--soft); }
.watch .time, .watch .note { font-size: 11px; }
.watch .call { font-weight: 600; }
.watch .eof { fill: var(--good); font-weight: 600; }
.watch .back { fill: var(--back); }
.watch .name { fill: var(--pale); stroke: var(--rule); }
.watch .band { fill: var(--pale); }
.watch line { stroke: var(--soft); stroke-width: 1.5; }
.watch .process { stroke: var(--rule); }
.watch .life { stroke-width: 3; }
.watch .half { stroke-width: 3; stroke-dasharray: 2 3; }
.watch .queue { stroke-width: 4; stroke-dasharray: 0 7; stroke-linecap: round; }
.watch .faint { opacity: .45; }
.watch .wait, .watch .buffer { fill: var(--soft); opacity: .35; }
${COLORS.light.map((_, i) => coloured(`c${i + 1}`)).join("\n")}
${coloured("bad")}
`;

function variables(colors: string[]): string {
  return colors.map((color, i) => `--c${i + 1}: ${color};`).join(" ");
}

function coloured(name: string): string {
  return `.watch .${name} { fill: var(--${name}); } .watch line.${name} { stroke: var(--${name}); }`;
}
