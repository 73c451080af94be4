// The servers that are compared, and how each is started. Each prints the port that it listens on.

import { join } from "node:path";

export interface Peer {
  name: string;
  /** The command it needs; without it, the peer is reported as missing. */
  needs: string;
  run: string[];
  build?: string[];
  /** A command that exits with 0 if the peer can run. */
  check?: string[];
}

const bun = process.execPath;
const source = (name: string) => join(import.meta.dir, "peers", name);

function ours(name: string, ...way: string[]): Peer {
  return { name, needs: bun, run: [bun, source("lib.ts"), ...way] };
}

function script(name: string, file: string, ...flags: string[]): Peer {
  const path = join(import.meta.dir, "../scripts", file);
  return { name, needs: bun, run: [bun, path, "--port=0", "--max-connections=20000", ...flags] };
}

function node(name: string, program: string, ...way: string[]): Peer {
  return { name, needs: program, run: [program, source("node.mjs"), ...way] };
}

// Debian's package of uvloop works with Debian's own Python only.
function asyncio(way: string, loop = "asyncio"): Peer {
  const program = loop === "uvloop" ? "/usr/bin/python3" : "python3";
  return {
    name: `Python, ${loop}, ${way}`,
    needs: program,
    run: [program, source("asyncio_echo.py"), way, loop],
    check: [program, "-c", `import ${loop}`],
  };
}

// Compiled into the folder `built`.
function go(built: string, program: string, ...backend: string[]): Peer {
  const build = ["go", "build", "-o", join(built, program), source(`${program}.go`)];
  return { name: "Go", needs: "go", build, run: [join(built, program), ...backend] };
}

function c(built: string): Peer {
  const build = ["cc", "-O2", "-o", join(built, "c"), source("epoll.c")];
  return { name: "C, epoll", needs: "cc", build, run: [join(built, "c")] };
}

export const bare: Peer = { name: "bare Bun.listen", needs: bun, run: [bun, source("bare.ts")] };

export const selectServer = script("lib, select", "select-server.ts");

/** With its store in `file`. */
export const weatherStation = (file: string): Peer =>
  script(
    "station",
    "weather-station.ts",
    "--host=127.0.0.1",
    "--web-port=0",
    `--store=sqlite://${file}`,
  );

export const echoPeers = (built: string): Peer[] => [
  bare,
  ours("lib, recv loop", "recv"),
  ours("lib, for await", "iterate"),
  ours("lib, signal and timeout", "limited"),
  selectServer,
  script("lib, two threads", "echo-threaded-server.ts", "--threads=2"),
  node("Bun, node:net, pipe", bun, "pipe"),
  node("Bun, node:net, for await", bun, "iterate"),
  node("Node, pipe", "node", "pipe"),
  node("Node, for await", "node", "iterate"),
  { name: "Deno, pipeTo", needs: "deno", run: ["deno", "run", "-A", source("deno.mjs")] },
  { name: "Python, threads", needs: "python3", run: ["python3", source("threads_echo.py")] },
  asyncio("streams"),
  asyncio("protocol"),
  asyncio("streams", "uvloop"),
  asyncio("protocol", "uvloop"),
  go(built, "echo"),
  c(built),
];

/** Proxies to the server on port `backend`. */
export const proxyPeers = (built: string, backend: string): Peer[] => [
  { ...bare, run: [...bare.run, backend] },
  ours("lib, for await", "proxy", backend),
  node("Bun, node:net, pipe", bun, "proxy", backend),
  node("Node, pipe", "node", "proxy", backend),
  go(built, "echo", backend),
];

/** The same echo servers over TLS, with the certificate and the key in these files. */
export const tlsPeers = (built: string, cert: string, key: string): Peer[] =>
  [
    bare,
    ours("lib, for await", "iterate"),
    node("Bun, node:tls, pipe", bun, "pipe"),
    node("Node, pipe", "node", "pipe"),
    asyncio("streams"),
    go(built, "echo"),
  ].map((peer) => ({ ...peer, run: ["env", `TLS_CERT=${cert}`, `TLS_KEY=${key}`, ...peer.run] }));

const bun100 = (name: string, way: string): Peer => ({
  name,
  needs: bun,
  run: [bun, source("messages.ts"), way],
});

const node100 = (name: string, ...way: string[]): Peer => ({
  name,
  needs: "node",
  run: ["node", source("messages.mjs"), ...way],
});

/** Servers that send back messages of 100 bytes. The first one uses a write for each message. */
export const messagePeers = (built: string): Peer[] => [
  bun100("bare, each by itself", "each"),
  bun100("bare, all of a turn together", "turn"),
  script("lib, message-server", "message-server.ts", "--framing=fixed", "--bytes=100"),
  { ...go(built, "messages"), name: "Go" },
  { ...go(built, "messages", "bufio"), name: "Go, bufio" },
  node100("Node"),
  node100("Node, cork", "cork"),
  { ...c(built), run: [join(built, "c"), "100"] },
  { name: "Python, asyncio", needs: "python3", run: ["python3", source("messages.py")] },
];

/** WebSocket echo servers. */
export const websocketPeers = (built: string): Peer[] => [
  { name: "Bun.serve", needs: bun, run: [bun, source("websocket-bun.ts")] },
  script("lib, websocket-server.ts", "websocket-server.ts"),
  { name: "ws on Node", needs: "node", run: ["node", source("websocket-ws.mjs")] },
  { name: "ws on Bun", needs: bun, run: [bun, source("websocket-ws.mjs")] },
  { ...go(built, "websocket"), name: "Go, by hand" },
];

const datagrams = (name: string, way: string): Peer => ({
  name,
  needs: bun,
  run: [bun, source("udp.ts"), way],
});

/** Echo servers for datagrams. */
export const udpPeers = (built: string): Peer[] => [
  datagrams("bare Bun.udpSocket", "bare"),
  datagrams("lib, recvFrom loop", "recvFrom"),
  datagrams("lib, for await", "iterate"),
  { name: "Bun, node:dgram", needs: bun, run: [bun, source("udp.mjs")] },
  { name: "Node, node:dgram", needs: "node", run: ["node", source("udp.mjs")] },
  { name: "Python, a loop", needs: "python3", run: ["python3", source("udp.py")] },
  { name: "Python, asyncio", needs: "python3", run: ["python3", source("udp.py"), "asyncio"] },
  {
    name: "Go",
    needs: "go",
    build: ["go", "build", "-o", join(built, "udp-go"), source("udp.go")],
    run: [join(built, "udp-go")],
  },
  {
    name: "C",
    needs: "cc",
    build: ["cc", "-O2", "-o", join(built, "udp-c"), source("udp.c")],
    run: [join(built, "udp-c")],
  },
];
