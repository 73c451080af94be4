// Which files a copy needs, and how they read at their new place: the scripts lie beside lib there, no
// longer beside it in a folder of their own.

import { dirname, join, relative } from "node:path";

type Read = (file: string) => string;

// Static imports, and those that are done when they are needed.
const IMPORT = /((?:\bfrom |\bimport |\bimport\(|\brequire\()")(\.[^"]+)(")/g;

/** The scripts of these names, and those that the terminals in their headers run as well. */
export function withPartners(names: string[], read: Read): string[] {
  const files = new Set(names.map((name) => `scripts/${name}.ts`));
  for (const file of files) {
    for (const [partner] of headerOf(read(file)).matchAll(/scripts\/[\w-]+\.ts/g))
      files.add(partner);
  }
  return [...files];
}

/** A script's `--help`, where its terminals are. */
export function headerOf(text: string): string {
  return text.split("\n`;")[0]!;
}

/** These files, and all that they import, directly or not. */
export function reached(files: string[], read: Read): string[] {
  const found = new Set(files);
  for (const file of found) {
    for (const [, , path] of read(file).matchAll(IMPORT)) found.add(join(dirname(file), path!));
  }
  return [...found];
}

/** Where a file lies in the copy. */
export function placeOf(file: string): string {
  return file.replace(/^scripts\//, "");
}

/** A file's text in the copy: its imports, and the commands in its header. */
export function adapt(file: string, text: string): string {
  const here = dirname(placeOf(file));
  return text
    .replace(IMPORT, (_, before, path, after) => {
      const there = relative(here, placeOf(join(dirname(file), path)));
      return before + (there.startsWith(".") ? there : `./${there}`) + after;
    })
    .replaceAll(/\bscripts\/([\w-]+\.ts)/g, "$1");
}
