// Makes the pictures of README and docs anew, in both languages: `bun run pictures`. What is run here is what
// a reader runs, at the default ports. With a folder as its argument they go there.

import { join } from "node:path";

interface Picture {
  commands: string[];
  /** What is typed into the second of them. */
  typed?: string;
  /** Waits before it is typed, in ms: until then the others stand in line. */
  pause?: number;
}

const LATER = { typed: "하나\n", pause: 700 };

export const PICTURES: Record<string, Picture> = {
  echo: { commands: ["echo-server", "echo-client --message 안녕"] },
  loop: { commands: ["echo-loop-server", "echo-loop-client"], typed: "안녕\n소켓\n\n" },
  // The first client connects and says nothing yet: does the second have to wait for it?
  backlog: {
    commands: ["echo-server --forever", "echo-client", "echo-client --message 둘"],
    ...LATER,
  },
  threads: {
    commands: ["echo-threaded-server --threads 2", "echo-client", "echo-client --message 둘"],
    ...LATER,
  },
  select: {
    commands: [
      "select-server",
      ...["", " --message 둘"].map((what) => `echo-client --port 5000${what}`),
    ],
    ...LATER,
  },
  duplex: { commands: ["duplex"] },
  messages: { commands: ["message-server", "message-client"] },
  "half-close": { commands: ["http-server", "http-client --path /안녕"] },
  silent: { commands: ["silent-peer --wait 0.2"] },
  ipc: { commands: ["ipc"] },
  datagrams: { commands: ["udp-echo-server", "udp-echo-client --message 안녕"] },
  websocket: { commands: ["websocket-server", "websocket-client --message 안녕"] },
  refused: { commands: ["echo-client --message 안녕"] },
};

if (import.meta.main) {
  const folder = process.argv[2] ?? import.meta.dir;
  const root = join(import.meta.dir, "../..");
  for (const [name, { commands, typed = "", pause = 0 }] of Object.entries(PICTURES)) {
    const file = join(folder, `${name}.{lang}.svg`);
    const words = ["run", "scripts/watch.ts", "--svg", file, ...commands];
    const watching = Bun.spawn([process.execPath, ...words], {
      cwd: root,
      stdin: "pipe",
      stdout: "ignore",
      stderr: "inherit",
    });
    await Bun.sleep(pause);
    watching.stdin.write(typed);
    await watching.stdin.end();
    if ((await watching.exited) !== 0) throw new Error(`${name} could not be drawn`);
    const drawn = await Bun.file(file.replace("{lang}", "en")).text();
    if (drawn.includes("EADDRINUSE")) throw new Error(`${name}: its port is in use`);
    console.log(name);
  }
}
