const help = `
Runs scripts and draws both ends of their connections in one picture: each call, the bytes on their way,
FINs and resets. The picture is a page that grows while the scripts run, or a file. The first script is on the
left; when it listens, the others start, one after the other. What you type goes to the second script.

  terminal 1:  bun run scripts/watch.ts "echo-server" "echo-client --message 안녕"
  terminal 2:  a browser, at http://127.0.0.1:8070/

  as a file:   bun run scripts/watch.ts --svg echo.svg scripts/echo-server.ts scripts/echo-client.ts

Give the name of a script in this folder, or the path of any other that reads its flags in the same way.
In the flags of the others, {port} stands for the port that the first one listens on.
`;

import { cli, print, refuse } from "../lib/cli.ts";
import { draw } from "./watch/draw.ts";
import { tell } from "./watch/model.ts";
import { servePage } from "./watch/page.ts";
import { plan } from "./watch/rows.ts";
import { fileOf, Recording, run, wordsOf } from "./watch/run.ts";
import { type Language, LANGUAGES } from "./watch/words.ts";

const { commands, svg, lang, host, port, signal } = cli(help, {
  svg: {
    type: "string",
    takes: "FILE",
    about: "draw into this file at the end; {lang} in it: one for each language",
  },
  lang: { type: "choice", choices: LANGUAGES, default: "en", about: "the picture's language" },
  // HOST and PORT in the environment are for the scripts that are watched.
  host: { type: "string", default: "127.0.0.1", about: "address of the page" },
  port: { type: "port", default: 8070, min: 0, about: "port of the page, 0 for any free one" },
  commands: { type: "arguments", about: "the scripts with their flags, each in quotes" },
});
for (const command of commands) {
  const [name = ""] = wordsOf(command);
  if (fileOf(name) === undefined) refuse(`no script is called ${name}`);
}

const recording = new Recording();
const picture = (language: Language) => {
  const { calls, dropped } = recording;
  return draw(plan(tell(calls)), { language, commands, dropped });
};

if (svg !== undefined) {
  await run(commands, recording, false, signal);
  for (const language of svg.includes("{lang}") ? LANGUAGES : [lang]) {
    const file = svg.replaceAll("{lang}", language);
    await Bun.write(file, picture(language));
    await print(`${file}: ${recording.calls.length + recording.dropped} calls`);
  }
} else {
  const page = servePage({ host, port, language: lang, title: commands.join(" ⇄ ") }, picture);
  print(`page at ${page.url}`);
  recording.onChange = page.changed;
  signal.addEventListener("abort", page.stop);
  await run(commands, recording, true, signal);
  if (!signal.aborted) await print("all have ended; Ctrl-C closes the page");
}
