const help = `
Puts small slips into a copy of this tree, one at a time, and runs the tests that should notice. Prints
each slip that none of them noticed. The list is tests/slips.txt: a line each, with the file, what stands
there, what is put there, and the test files. It takes several minutes.

  terminal 1:  bun run slips
  terminal 2:  bun run slips --only connection.ts
`;

import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { cli, print } from "../lib/cli.ts";
import { root } from "./helpers.ts";

/** A test run that takes longer hangs, which is noticed, too. */
const PATIENCE_MS = 120_000;

interface Slip {
  file: string;
  before: string;
  after: string;
  tests: string[];
}

const { only, signal } = cli(help, {
  only: { type: "string", default: " :: ", about: "the lines of the list that hold this text" },
});

const slips = readFileSync(join(import.meta.dir, "slips.txt"), "utf8")
  .split("\n")
  .filter((line) => line.includes(" :: ") && !line.startsWith("#") && line.includes(only))
  .map((line): Slip => {
    const [file, before, after, tests] = line.split(" :: ");
    return { file: file!, before: before!, after: after!, tests: tests!.trim().split(" ") };
  });

const copy = mkdtempSync(join(tmpdir(), "slips-"));
process.on("exit", () => rmSync(copy, { recursive: true, force: true }));
const tracked = Bun.spawnSync(["git", "ls-files", "-co", "--exclude-standard"], { cwd: root });
for (const file of tracked.stdout.toString().trim().split("\n")) {
  cpSync(join(root, file), join(copy, file), { recursive: true });
}
symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));

let [noticed, missed, gone] = [0, 0, 0];
for (const slip of slips) {
  if (signal.aborted) break;
  const path = join(copy, slip.file);
  const text = readFileSync(path, "utf8");
  const at = text.indexOf(slip.before);
  if (at < 0 || text.indexOf(slip.before, at + 1) >= 0) {
    gone++;
    await print(`${at < 0 ? "gone" : "not the only one"}: ${slip.file}: ${slip.before}`);
    continue;
  }
  writeFileSync(
    path,
    text.replace(slip.before, () => slip.after),
  );
  const isNoticed = await fails(slip.tests);
  writeFileSync(path, text);
  if (isNoticed) noticed++;
  else {
    missed++;
    await print(
      `not noticed by ${slip.tests.join(", ")}: ${slip.file}: ${slip.before} -> ${slip.after}`,
    );
  }
}
await print(`${noticed} noticed, ${missed} not, ${gone} whose line is not there`);
process.exit(missed + gone > 0 ? 1 : 0);

async function fails(tests: string[]): Promise<boolean> {
  const files = tests.map((name) => `tests/${name}.test.ts`);
  const run = Bun.spawn([process.execPath, "test", "--bail", ...files], {
    cwd: copy,
    stdout: "ignore",
    stderr: "ignore",
    timeout: PATIENCE_MS,
    killSignal: "SIGKILL",
  });
  return (await run.exited) !== 0;
}
