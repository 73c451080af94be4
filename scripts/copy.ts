const help = `
Copies scripts as a start for your own: each with the script of the other terminal, the files that both need,
and a test. If the folder already has a copy, only what is missing is added; nothing is overwritten.

  terminal 1:  bun run scripts/copy.ts echo-server ../my-echo
  terminal 2:  bun run ../my-echo/echo-server.ts
`;

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";

import { cli, print, refuse } from "../lib/cli.ts";
import { nearest } from "./copy/nearest.ts";
import { adapt, placeOf, reached, withPartners } from "./copy/reach.ts";
import { testOf } from "./copy/selftest.ts";

const { scripts } = cli(help, {
  scripts: { type: "arguments", about: "their names, as in echo-server; then the folder" },
});
if (scripts.length < 2) refuse("The folder is missing (see --help)");
const folder = scripts.pop()!;
const project = resolve(import.meta.dir, "..");
const target = resolve(folder);

const all = readdirSync(import.meta.dir)
  .filter((file) => file.endsWith(".ts"))
  .map((file) => basename(file, ".ts"));
const names = scripts.map((script) => basename(script, ".ts"));
for (const name of names) {
  if (name === "copy") refuse("copy itself cannot be copied: it needs the whole collection");
  if (!all.includes(name))
    refuse(`no script is called ${name}: did you mean ${nearest(name, all)}`);
}
const hasCopy = existsSync(join(target, "lib/cli.ts"));
if (!hasCopy && existsSync(target) && readdirSync(target).length > 0) {
  refuse(`${folder} is not empty`);
}

const brought: string[] = [];
const kept: string[] = [];
const sources = withPartners(names, read);
for (const file of reached(sources, read)) put(placeOf(file), adapt(file, read(file)));
for (const name of names) put(`${name}.test.ts`, testOf(name, read(`scripts/${name}.ts`)));

// The copy gets a package.json, unless one in the folder or above it already has the types for Bun.
const { engines, devDependencies, compilerOptions } = {
  ...JSON.parse(read("package.json")),
  ...JSON.parse(read("tsconfig.json")),
};
if (!hasTypes()) {
  const types = ["bun-types", "@types/node"].map((type) => [type, devDependencies[type]]);
  const commands = Object.fromEntries(names.map((name) => [name, `bun run ${name}.ts`]));
  const own = { name: basename(target), private: true, type: "module", engines };
  const rest = { scripts: { start: `bun run ${names[0]}.ts`, ...commands, test: "bun test" } };
  addNew("package.json", json({ ...own, ...rest, devDependencies: Object.fromEntries(types) }));
  addNew(".gitignore", "node_modules/\n*.log\n*.pem\n");
}
addNew("tsconfig.json", json({ compilerOptions }));

const ours = brought.filter((file) => !file.startsWith("lib/"));
const lib = brought.length - ours.length;
if (lib > 0) ours.push(lib === 1 ? "1 file of lib" : `${lib} files of lib`);
await print(`brought:  ${ours.join(", ") || "nothing, for all of it is there"}`);
if (kept.length > 0) await print(`kept as they are, for they differ:  ${kept.join(", ")}`);
const path = relative("", target) || ".";
const first = join(path, `${names[0]}.ts`);
await print(`next:  bun run ${/\s/.test(first) ? `"${first}"` : first}`);

function put(file: string, text: string): void {
  const there = join(target, file);
  if (!existsSync(there)) addNew(file, text);
  else if (readFileSync(there, "utf8") !== text) kept.push(file);
}

function addNew(file: string, text: string): void {
  const path = join(target, file);
  if (existsSync(path)) return;
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text, { flag: "wx" }); // fails rather than overwrite
  brought.push(file);
}

// Whether a package.json in the folder or above it has the types.
function hasTypes(): boolean {
  for (let at = target; ; at = dirname(at)) {
    const file = join(at, "package.json");
    const text = existsSync(file) ? readFileSync(file, "utf8") : "";
    if (/"(bun-types|@types\/bun)"/.test(text)) return true;
    if (at === dirname(at)) return false;
  }
}

function read(file: string): string {
  return readFileSync(join(project, file), "utf8");
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
