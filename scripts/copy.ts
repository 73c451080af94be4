const help = `
Copies a script as the start of your own: the script, and the files of lib that it needs, into a new
folder. What is there already is never overwritten.

  terminal 1:  bun run scripts/copy.ts echo-server ../my-echo
  terminal 2:  bun run ../my-echo/echo-server.ts
`;

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";

import { cli, print, refuse } from "../lib/cli.ts";

const { script, folder } = cli(help, {
  script: { type: "argument", about: "the script's name, as in echo-server" },
  folder: { type: "argument", about: "the new folder" },
});
const project = resolve(import.meta.dir, "..");

const name = basename(script, ".ts");
const names = readdirSync(join(project, "scripts")).map((file) => basename(file, ".ts"));
if (!names.includes(name)) {
  const near = names.sort((a, b) => distance(name, a) - distance(name, b)).slice(0, 3);
  refuse(
    `no script is called ${name}: did you mean ${near.join(", ")}? All: ${names.sort().join(", ")}`,
  );
}
const target = resolve(folder);
if (existsSync(target) && readdirSync(target).length > 0) refuse(`${folder} is not empty`);

// The script lies beside lib in its new folder, no longer beside its siblings.
const source = `scripts/${name}.ts`;
write(
  `${name}.ts`,
  read(source).replaceAll('"../lib/', '"./lib/').replaceAll(source, `${name}.ts`),
);
for (const file of needed(source)) write(file, read(file));

// A project of its own, unless it is to be part of one.
if (!inside("package.json")) {
  const { engines, devDependencies } = JSON.parse(read("package.json"));
  const types = ["bun-types", "@types/node"].map((type) => [type, devDependencies[type]]);
  const own = { name: basename(target), private: true, type: "module", engines };
  write("package.json", json({ ...own, devDependencies: Object.fromEntries(types) }));
}
if (!inside("tsconfig.json")) {
  const { compilerOptions } = JSON.parse(read("tsconfig.json"));
  write("tsconfig.json", json({ compilerOptions }));
}
await print(`next:  bun run ${relative("", join(target, `${name}.ts`))}`);

// What a file imports from lib, and what that imports.
function needed(file: string, found = new Set<string>()): Set<string> {
  for (const [, path] of read(file).matchAll(/(?: from |require\()"(\.[^"]+)"/g)) {
    const other = join(dirname(file), path!);
    if (!found.has(other)) needed(other, found.add(other));
  }
  return found;
}

function inside(file: string): boolean {
  for (let at = target; ; at = dirname(at)) {
    if (existsSync(join(at, file))) return true;
    if (at === dirname(at)) return false;
  }
}

function read(file: string): string {
  return readFileSync(join(project, file), "utf8");
}

function write(file: string, text: string): void {
  const path = join(target, file);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text, { flag: "wx" }); // fails rather than overwrite
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
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
