// The page: shows the picture, and replaces it by each new one, with server-sent events.

import { isNumeric } from "../../lib/address.ts";
import { SocketError } from "../../lib/errors.ts";
import { type Language, LANGUAGES } from "./words.ts";

/** The shortest time between two pictures. */
const PAUSE_MS = 100;

export interface Page {
  /** Its URL, for a browser. */
  url: string;
  /** To be called when there are new calls. */
  changed(): void;
  stop(): void;
}

interface Where {
  host: string;
  port: number;
  /** For a reader who did not choose one. */
  language: Language;
  title: string;
}

/** Serves the picture. Throws `SocketError` when the port is in use. */
export function servePage(where: Where, picture: (language: Language) => string): Page {
  const readers = new Set<Reader>();
  let timer: Timer | undefined;
  const send = () => {
    timer = undefined;
    const made = new Map<Language, string>();
    for (const reader of readers) {
      const { language } = reader;
      if (!made.has(language)) made.set(language, event(picture(language)));
      reader.isBehind = !reader.send(made.get(language)!);
    }
    if ([...readers].some(({ isBehind }) => isBehind)) changed(); // it skips the pictures in between
  };
  const changed = () => {
    timer ??= setTimeout(send, PAUSE_MS);
  };

  const answer = (request: Request, server: Bun.Server<undefined>): Response => {
    const url = URL.parse(request.url); // null without a Host field, or with a wrong one
    if (url === null) return new Response("for nobody\n", { status: 400 });
    const { hostname, pathname, searchParams } = url;
    // The name of another site may have been made to resolve to this address (DNS rebinding).
    const isAddress = isNumeric(hostname.replace(/[[\]]/g, ""));
    if (!isAddress && hostname !== "localhost" && hostname !== where.host)
      return new Response(`not for ${hostname}\n`, { status: 403 });
    const asked = LANGUAGES.find((language) => language === searchParams.get("lang"));
    const language = asked ?? where.language;
    switch (pathname) {
      case "/":
        return reply("text/html; charset=utf-8", html(where.title, language, picture(language)));
      case "/picture.svg":
        return reply("image/svg+xml", picture(language));
      case "/events":
        server.timeout(request, 0);
        return reply("text/event-stream", subscribe(readers, language, event(picture(language))));
      default:
        return new Response("there is nothing here\n", { status: 404 });
    }
  };

  const { host: hostname, port } = where;
  try {
    const server = Bun.serve({ hostname, port, fetch: answer, development: false });
    const stop = () => {
      clearTimeout(timer);
      server.stop(true);
    };
    return { url: server.url.href, changed, stop };
  } catch (cause) {
    const { code = "EADDRINUSE" } = cause as { code?: string };
    throw new SocketError(code, "listen", { host: hostname, port }, { cause: cause as Error });
  }
}

/** A browser that has the page open. */
interface Reader {
  language: Language;
  /** Sends nothing, and gives false, if the browser has not taken the earlier ones. */
  send(event: string): boolean;
  isBehind: boolean;
}

function subscribe(readers: Set<Reader>, language: Language, first: string) {
  let reader: Reader;
  return new ReadableStream<string>(
    {
      start(controller) {
        const send = (event: string) => {
          if (controller.desiredSize! <= 0) return false;
          controller.enqueue(event);
          return true;
        };
        reader = { language, send, isBehind: false };
        readers.add(reader);
        send(first);
      },
      cancel: () => void readers.delete(reader),
    },
    { highWaterMark: 2 },
  );
}

function event(svg: string): string {
  return `data: ${JSON.stringify(svg)}\n\n`; // in one line
}

// The content security policy allows this script only, so nothing that a peer sent can run.
const SCRIPT = `
const source = new EventSource("/events" + location.search);
source.onmessage = ({ data }) => {
  const page = document.scrollingElement;
  const atEnd = page.scrollTop + innerHeight >= page.scrollHeight - 40;
  document.querySelector("main").innerHTML = JSON.parse(data);
  if (atEnd) page.scrollTop = page.scrollHeight;
};`;
const HASH = new Bun.CryptoHasher("sha256").update(SCRIPT).digest("base64");

function reply(type: string, body: string | ReadableStream<string>): Response {
  const policy = `default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; script-src 'sha256-${HASH}'`;
  const headers = {
    "Content-Type": type,
    "Content-Security-Policy": policy,
    "Cache-Control": "no-store",
  };
  return new Response(body as string, { headers });
}

function html(title: string, language: Language, svg: string): string {
  const about = { en: "Picture as a file", ko: "그림 파일 저장" }[language];
  return `<!doctype html>
<html lang="${language}">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>${Bun.escapeHTML(title)}</title>
<style>
  body { margin: 0 auto; max-width: 1100px; font: 14px system-ui, sans-serif; }
  @media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3; } a { color: #58a6ff; } }
  nav { display: flex; gap: 16px; padding: 12px 28px; }
  svg { max-width: 100%; height: auto; }
</style>
<nav><a href="/?lang=en">English</a><a href="/?lang=ko">한국어</a><a href="/picture.svg?lang=${language}" download="picture.svg">${about}</a></nav>
<main>${svg}</main>
<script>${SCRIPT}</script>
</html>
`;
}
