// The floors of lib/: which file may import which. An import ("arrow") leads down only; `FLOORS` is the order.

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test } from "bun:test";

import { root } from "./helpers.ts";

/** The public files of lib/. Each may import only files below it in this list. */
const FLOORS = [
  "cli",
  "trace",
  "threads",
  "serve",
  "relay",
  "websocket",
  "framing",
  "select",
  "datagram",
  "byteorder",
  "host",
  "socket",
  "errors",
  "address",
];

const files = [...new Bun.Glob("{lib,scripts}/**/*.ts").scanSync({ cwd: root })].sort();

/** The paths of the project's files that a file imports; imports of types only count as well. */
function importsOf(file: string): string[] {
  const text = readFileSync(join(root, file), "utf8");
  return [...text.matchAll(/(?:from |import |import\(|require\()"(\.[^"]+)"/g)].map(([, path]) =>
    join(dirname(file), path!),
  );
}

/** The public file to which a file of lib/ belongs: socket.ts -> socket, socket/dial.ts -> socket. */
function publicRoom(file: string): string {
  return file.replace(/^lib\//, "").replace(/(\/.*)?\.ts$|\/.*$/, "");
}

const arrows = files.flatMap((from) => importsOf(from).map((to) => [from, to] as const));
const within = (folder: string) => (path: string) => path.startsWith(`${folder}/`);
const inLib = within("lib");

test("every file of lib has its floor", () => {
  expect(arrows.length).toBeGreaterThan(200); // the imports are found
  for (const file of files.filter(inLib)) expect(FLOORS).toContain(publicRoom(file));
});

test("there are no circles", () => {
  const path: string[] = [];
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (file: string) => {
    if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(" -> "));
    if (path.includes(file) || done.has(file)) return;
    path.push(file);
    for (const [, to] of arrows.filter(([from]) => from === file)) visit(to);
    path.pop();
    done.add(file);
  };
  for (const file of files) visit(file);
  expect(circles).toEqual([]);
});

test("arrows run down only", () => {
  const floor = (file: string) => FLOORS.indexOf(publicRoom(file));
  const upward = arrows.filter(([from, to]) => inLib(from) && floor(to) < floor(from));
  expect(upward).toEqual([]);
});

test("an inner room does not import the file that it belongs to", () => {
  const back = arrows.filter(([from, to]) => from.startsWith(to.replace(/\.ts$/, "/")));
  expect(back).toEqual([]);
});

test("scripts import the public files of lib and the folder with their own name, nothing else", () => {
  const own = (file: string) => within(file.replace(/^(scripts\/[\w-]+).*/, "$1"));
  const inward = arrows.filter(
    ([from, to]) => !inLib(from) && !/^lib\/[a-z]+\.ts$/.test(to) && !own(from)(to),
  );
  expect(inward).toEqual([]);
});

test("every import names a file that is there", () => {
  expect(arrows.filter(([, to]) => !existsSync(join(root, to)))).toEqual([]); // HTML pages are imported, too
});

test("lib does not grow, and no file of it has more than about 400 lines of code", () => {
  const count = (file: string) =>
    readFileSync(join(root, file), "utf8")
      .split("\n")
      .filter((line) => !/^\s*(\/\/|\*|\/\*|$)/.test(line)).length;
  const sizes = files.filter(inLib).map((file) => [file, count(file)] as const);
  expect(sizes.filter(([, lines]) => lines > 420)).toEqual([]);
  expect(sizes.reduce((sum, [, lines]) => sum + lines, 0)).toBeLessThanOrEqual(3_335);
});
