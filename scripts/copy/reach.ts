// Which files a copy needs, and how their imports change: in a copy the scripts are beside lib/, not in
// scripts/.

import { dirname, join, relative } from "node:path";

type Read = (file: string) => string;

// Static imports, import() and require().
const IMPORT = /((?:\bfrom |\bimport |\bimport\(|\brequire\()")(\.[^"]+)(")/g;

/** The scripts with these names, and all scripts that the commands in their headers run. */
export function withPartners(names: string[], read: Read): string[] {
  const files = new Set(names.map((name) => `scripts/${name}.ts`));
  for (const file of files) {
    for (const [partner] of headerOf(read(file)).matchAll(/scripts\/[\w-]+\.ts/g))
      files.add(partner);
  }
  return [...files];
}

/** The text before the end of `const help`: it has the commands of the two terminals. */
export function headerOf(text: string): string {
  return text.split("\n`;")[0]!;
}

/** These files, and all files that they import, directly or indirectly. */
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

/** A file's text in the copy, with the paths in its imports and in its header changed. */
export function adapt(file: string, text: string): string {
  const here = dirname(placeOf(file));
  return text
    .replace(IMPORT, (_, before, path, after) => {
      const there = relative(here, placeOf(join(dirname(file), path)));
      return before + (there.startsWith(".") ? there : `./${there}`) + after;
    })
    .replaceAll(/\bscripts\/([\w-]+\.ts)/g, "$1");
}
