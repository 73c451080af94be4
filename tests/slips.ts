const help = `
Puts small slips into a copy of this tree, one at a time, and runs the tests that should notice. Prints
each slip that none of them noticed. The list is tests/slips.txt: a line each, with the file, what stands
there, what is put there, the test files, and if need be a part of the names of the tests in them. It
takes about a quarter of an hour.

  terminal 1:  bun run slips
  terminal 2:  bun run slips --only connection.ts
`;

import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { cli, print } from "../lib/cli.ts";
import { root } from "./helpers.ts";

/** A test run that takes longer counts as hanging: then the slip was noticed, too. */
const PATIENCE_MS = 300_000;

interface Slip {
  file: string;
  before: string;
  after: string;
  tests: string[];
  /** As `bun test -t` takes it. */
  names: string | undefined;
}

const { only, all, jobs, signal } = cli(help, {
  all: {
    type: "boolean",
    about: "print the noticed ones, too, each with the test that has failed",
  },
  jobs: { type: "count", default: 3, min: 1, about: "how many at the same time, each in a copy" },
  only: { type: "string", default: " :: ", about: "the lines of the list that hold this text" },
});

const slips = readFileSync(join(import.meta.dir, "slips.txt"), "utf8")
  .split("\n")
  .filter((line) => line.includes(" :: ") && !line.startsWith("#") && line.includes(only))
  .map((line): Slip => {
    const [file, before, after, tests, names] = line.split(" :: ");
    return { file: file!, before: before!, after: after!, tests: tests!.trim().split(" "), names };
  });

const tracked = Bun.spawnSync(["git", "ls-files", "-co", "--exclude-standard"], { cwd: root });

function makeCopy(): string {
  const copy = mkdtempSync(join(tmpdir(), "slips-"));
  process.on("exit", () => rmSync(copy, { recursive: true, force: true }));
  for (const file of tracked.stdout.toString().trim().split("\n")) {
    cpSync(join(root, file), join(copy, file), { recursive: true });
  }
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
  return copy;
}

let [noticed, wrong] = [0, 0];
const left = slips.values();
const work = async () => {
  const copy = makeCopy();
  for (const slip of left) {
    if (signal.aborted) break;
    const [isNoticed, outcome] = await tryOut(slip, copy);
    if (isNoticed) noticed++;
    else wrong++;
    if (all || !isNoticed) await print(`${outcome}: ${slip.file}: ${slip.before} -> ${slip.after}`);
  }
};
await Promise.all(Array.from({ length: jobs }, work));
await print(`${noticed} noticed, ${wrong} not`);
process.exit(wrong > 0 ? 1 : 0);

async function tryOut(slip: Slip, copy: string): Promise<[isNoticed: boolean, outcome: string]> {
  const { file, before, after, tests, names } = slip;
  const path = join(copy, file);
  const text = readFileSync(path, "utf8");
  const times = text.split(before).length - 1;
  if (times !== 1) return [false, times === 0 ? "gone" : "not the only one"];
  writeFileSync(
    path,
    text.replace(before, () => after),
  );
  const files = tests.map((name) => `tests/${name}.test.ts`);
  const some = names === undefined ? [] : ["-t", names];
  const run = Bun.spawn([process.execPath, "test", "--bail", ...files, ...some], {
    cwd: copy,
    stdout: "ignore",
    stderr: "pipe",
    timeout: PATIENCE_MS,
    killSignal: "SIGKILL",
    detached: true, // a process group of its own, so that nothing that it starts outlives it
  });
  const code = await run.exited;
  try {
    process.kill(-run.pid, "SIGKILL");
  } catch {
    // No process is left in the group.
  }
  const [, failed] = (await new Response(run.stderr).text()).match(/^\(fail\) (.*)/m) ?? [];
  writeFileSync(path, text);
  if (code === 0) return [false, `not noticed by ${tests.join(", ")}`];
  if (failed !== undefined) return [true, `noticed by ${tests.join(", ")}: ${failed}`];
  if (run.signalCode === "SIGKILL") return [true, `hangs ${tests.join(", ")}`];
  // The slip is not a valid one (such as a syntax error), or no test has that name.
  return [false, "no test has failed, but the run has"];
}
