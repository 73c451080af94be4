// The READMEs and docs/ agree with the files and with each other: quoted code is in its file, links lead to
// files that exist, both languages say the same, and every lesson is linked. (The commands for the reader are
// run in readme.test.ts, and the programs in examples.test.ts.)

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "bun:test";

import { root } from "./helpers.ts";

const textOf = (file: string) => readFileSync(join(root, file), "utf8");
const pagesIn = (folder: string) =>
  readdirSync(join(root, folder)).filter((page) => page.endsWith(".md"));

const pages = pagesIn("docs/en");
/** The documents, each in English and in Korean. */
const documents = [
  ["README.md", "README.ko.md"],
  ...pages.map((page) => [`docs/en/${page}`, `docs/ko/${page}`]),
] as [string, string][];

interface Block {
  /** What follows the three backticks: the language, and for quoted code the file. */
  info: string;
  body: string;
}

function blocksOf(text: string): Block[] {
  return [...text.matchAll(/^```([^\n]*)\n(.*?)^```$/gms)].map(([, info, body]) => ({
    info: info!,
    body: body!,
  }));
}

/** The text without its blocks, whose lines may look like headings or links. */
function proseOf(text: string): string {
  return text.replace(/^```.*?^```$/gms, "");
}

/** The rows of all tables, each a list of cells. */
function rowsOf(text: string): string[][] {
  return text
    .split("\n")
    .filter((line) => line.startsWith("|") && !/^\|[ :|-]+$/.test(line))
    .map((line) => line.slice(1, -1).replaceAll("\\|", "/").split("|"))
    .map((cells) => cells.map((cell) => cell.trim()));
}

function codesOf(text: string): string[] {
  return [...text.matchAll(/`([^`]+)`/g)].map(([, code]) => code!);
}

/** The anchors of a page's headings, as GitHub makes them. */
function anchorsOf(text: string): string[] {
  return [...proseOf(text).matchAll(/^#+ (.*)/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-"),
  );
}

/** The targets of its links, with their anchors, and its pictures. */
function linksOf(text: string): string[] {
  return [...proseOf(text).matchAll(/(?:\]\(|src="|srcset=")([^)"]+)/g)].map(([, link]) => link!);
}

/** Lines without the indentation that all of them have. */
function unindented(lines: string[]): string {
  const indents = lines.filter((line) => line !== "").map((line) => line.search(/\S/));
  return lines.map((line) => `${line.slice(Math.min(...indents))}\n`).join("");
}

describe("the pages", () => {
  test("are there in both languages", () => {
    expect(pagesIn("docs/ko")).toEqual(pages);
  });

  test.each(pages.filter((page) => /^\d/.test(page)))(
    "%s, a lesson, has code of ours, terminals and a picture",
    (page) => {
      const text = textOf(`docs/en/${page}`);
      const infos = blocksOf(text).map(({ info }) => info);
      expect(infos).toContain("console");
      expect(infos.some((info) => info.startsWith("ts scripts/"))).toBe(true);
      expect(linksOf(text).some((link) => link.startsWith("../pictures/"))).toBe(true);
    },
  );

  test.each(["en", "ko"])("are in the index, and linked from the README: %s", (language) => {
    const linked = (file: string) => linksOf(textOf(file)).map((link) => link.split("#")[0]);
    const index = linked(`docs/${language}/README.md`);
    const readme = linked(language === "en" ? "README.md" : "README.ko.md");
    for (const page of pages.filter((page) => page !== "README.md")) {
      expect(index, page).toContain(page);
      expect(readme, page).toContain(`docs/${language}/${page}`);
    }
    expect(readme).toContain(`docs/${language}/README.md`);
  });
});

test("each promise in tests/README.md names tests that are there", () => {
  const [, ...promises] = textOf("tests/README.md").split("\n| promise")[1]!.split("\n| ");
  for (const promise of promises) {
    const cell = promise.split("|")[1]!.replaceAll("\\`", "`");
    for (const [, files, names] of cell.matchAll(/([a-z][a-z, -]*): ("[^;]*)/g)) {
      const sources = files!.split(", ").map((name) => {
        return textOf(name === "kit" ? "tests/conformance.ts" : `tests/${name}.test.ts`);
      });
      // A "…" stands for a part that was left out.
      const parts = [...names!.matchAll(/"(.*?)"/g)].flatMap(([, name]) => name!.split("…"));
      for (const part of parts) {
        expect(
          sources.some((text) => text.replaceAll("\\`", "`").includes(part)),
          part,
        ).toBe(true);
      }
    }
  }
});

describe.each(documents.flat())("%s", (file) => {
  const text = textOf(file);

  test("quotes code that stands in the file", () => {
    for (const { info, body } of blocksOf(text)) {
      const [, source] = info.match(/^ts (.+)/) ?? [];
      if (source === undefined) continue;
      const lines = textOf(source).split("\n");
      const length = body.split("\n").length - 1;
      const stands = lines.some((_, at) => unindented(lines.slice(at, at + length)) === body);
      expect(stands, `not in ${source}:\n${body}`).toBe(true);
    }
  });

  test("links to files and headings that are there", () => {
    for (const link of linksOf(text).filter((link) => !/^https?:/.test(link))) {
      const [path, anchor] = link.split("#") as [string, string?];
      const target = path === "" ? file : join(dirname(file), path);
      expect(existsSync(join(root, target)), link).toBe(true);
      if (anchor !== undefined) expect(anchorsOf(textOf(target)), link).toContain(anchor);
    }
  });
});

describe.each(documents)("the two languages of %s", (one, other) => {
  const [text, translated] = [textOf(one), textOf(other)];

  test("have the same headings, blocks and tables", () => {
    const levels = (of: string) => [...proseOf(of).matchAll(/^(#+) /gm)].map(([, level]) => level);
    expect(levels(translated)).toEqual(levels(text));
    expect(blocksOf(translated)).toEqual(blocksOf(text));
    const number = /^[\d.]+( \w+)?$/;
    const skeleton = (of: string) =>
      rowsOf(of).map((cells) =>
        cells.map((cell) => (number.test(cell) ? cell : codesOf(cell).join(" "))),
      );
    expect(skeleton(translated)).toEqual(skeleton(text));
  });

  test("name the same flags, files and links", () => {
    const links = (of: string) =>
      linksOf(of)
        .map((link) =>
          link
            .replace(/#.*/, "") // a heading's words are those of the language
            .replace(".ko.md", ".md")
            .replace(/\bko\//, "en/")
            .replace(/\.ko\.(svg|webp)$/, ".en.$1"),
        )
        .sort();
    expect(links(translated)).toEqual(links(text));
    const flags = (of: string) => [...new Set(of.match(/--[a-z][\w-]*/g))].sort();
    expect(flags(translated)).toEqual(flags(text));
  });
});
