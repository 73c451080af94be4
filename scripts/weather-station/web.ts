// The station's web server: the page, its live data, and the readings as JSON and CSV.

import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import { SocketError } from "../../lib/errors.ts";
import type { ServerTls } from "../../lib/socket.ts";
import pageFile from "./page.html" with { type: "text" };
import type { Store, Stored } from "./store.ts";

const page = pageFile as unknown as string;

/** The periods that the page can show. */
const SPANS = new Map([
  ["10m", 600_000],
  ["1h", 3_600_000],
  ["1d", 86_400_000],
  ["7d", 604_800_000],
]);
/** Charts are made at the same moments for all pages, so that one query serves them all. */
const TICK_MS = 500;
/** A page gets an event at least this often. After 12 s without one, it shows that the connection is lost. */
const ALIVE_MS = 5_000;
/** Pages and downloads at once. */
const MAX_REQUESTS = 1_000;

const PAGE_HEADERS = {
  "Content-Type": "text/html; charset=utf-8",
  // The content security policy allows the page's own script only: a sensor's name cannot run as one.
  "Content-Security-Policy": `default-src 'none'; connect-src 'self'; img-src data:; script-src ${hashOf("script")}; style-src ${hashOf("style")}`,
  "Cache-Control": "no-cache",
  "X-Content-Type-Options": "nosniff",
};

/** Serves the page, and what it needs. Throws `SocketError`, as `listen` does. */
export function serveWeb(
  store: Store,
  hostname: string,
  port: number,
  tls?: ServerTls,
): Bun.Server<undefined> {
  type Get = (request: Request) => Response | Promise<Response>;
  const get = (answer: Get) => ({
    GET: (request: Request, server: Bun.Server<undefined>) =>
      server.pendingRequests > MAX_REQUESTS ? refuse(503, "too many requests") : answer(request),
  });
  try {
    return Bun.serve({
      hostname,
      port,
      tls,
      development: false,
      reusePort: false, // otherwise Bun, in production, shares the port with other processes
      idleTimeout: 30, // seconds; a page gets events more often
      routes: {
        "/": get(() => new Response(page, { headers: PAGE_HEADERS })),
        "/live": get((request) => live(store, queryOf(request))),
        "/readings": get((request) => download(store, request, JSON_FORMAT)),
        "/readings.csv": get((request) => download(store, request, CSV_FORMAT)),
      },
      fetch: () => refuse(404, "not found"),
    });
  } catch (cause) {
    const { code = "" } = cause as { code?: string };
    throw new SocketError(code, "listen", { host: hostname, port }, { cause });
  }
}

// Without a Host field, or with a wrong one, `request.url` is no URL.
function queryOf({ url }: Request): URLSearchParams {
  return new URLSearchParams(url.replace(/^[^?]*/, ""));
}

function refuse(status: number, why: string): Response {
  return new Response(`${why}\n`, { status });
}

// ---- the page

function hashOf(tag: string): string {
  const [, text = ""] = page.match(new RegExp(`<${tag}>(.*)</${tag}>`, "s")) ?? [];
  return `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
}

// For an open page. This timer does not keep the process running.
const pause = (ms: number) => sleep(ms, undefined, { ref: false });

// Server-sent events. Each has the whole chart, so that a page that reconnects has missed nothing.
function live(store: Store, query: URLSearchParams): Response {
  const span = SPANS.get(query.get("span") ?? "10m");
  if (span === undefined) return refuse(400, `span must be one of ${[...SPANS.keys()].join(", ")}`);
  async function* events() {
    let sent = "";
    for (;;) {
      const changed = store.changed();
      const data = await store.chart(span!).then(JSON.stringify, () => '{"trouble":true}');
      yield `event: alive\ndata: ${Date.now()}\n\n${data === sent ? "" : `data: ${data}\n\n`}`;
      sent = data;
      await Promise.race([changed, pause(ALIVE_MS)]);
      await pause(TICK_MS - (Date.now() % TICK_MS));
    }
  }
  const headers = { "Content-Type": "text/event-stream", "Cache-Control": "no-store" };
  return new Response(events, { headers });
}

// ---- downloads

interface Format {
  type: string;
  begin: string;
  row(reading: Stored, isFirst: boolean): string;
  end: string;
}

const JSON_FORMAT: Format = {
  type: "application/json",
  begin: "[",
  row: (reading, isFirst) => `${isFirst ? "" : ","}\n${JSON.stringify(reading)}`,
  end: "\n]\n",
};

const CSV_FORMAT: Format = {
  type: "text/csv; charset=utf-8",
  begin: "id,sensor,celsius,at\n",
  row: ({ id, sensor, celsius, at }) => `${id},${csvField(sensor)},${celsius},${at}\n`,
  end: "",
};

// RFC 4180, section 2.
function csvField(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

async function download(store: Store, request: Request, format: Format): Promise<Response> {
  const query = queryOf(request);
  for (const name of ["since", "limit"]) {
    const text = query.get(name);
    if (text !== null && !/^\d{1,15}$/.test(text)) {
      return refuse(400, `${name} must be a whole number, not "${text}"`);
    }
  }
  const since = Number(query.get("since") ?? 0);
  const limit = Number(query.get("limit") ?? Infinity);
  const pages = store.readings(query.get("sensor"), since, limit);
  let next: IteratorResult<Stored[], void>;
  try {
    next = await pages.next(); // an unreachable store is an error, and not an empty list
  } catch {
    return refuse(503, "the store does not answer");
  }
  // One page of readings at a time, after the client has taken the previous one. If the store fails in between,
  // the connection breaks, so that an incomplete file does not look complete.
  async function* body() {
    yield format.begin;
    for (let isFirst = true; !next.done; next = await pages.next()) {
      let text = "";
      for (const reading of next.value) {
        text += format.row(reading, isFirst);
        isFirst = false;
      }
      yield text;
    }
    yield format.end;
  }
  return new Response(body, { headers: { "Content-Type": format.type } });
}
