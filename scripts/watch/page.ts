// The page: shows the picture, and replaces it by each new one, with server-sent events.

import { isNumeric } from "../../lib/address.ts";
import type { Language } from "./words.ts";

/** The shortest time between two pictures. */
const PAUSE_MS = 100;

export interface Page {
  /** Where it is, as a browser wants it. */
  url: string;
  /** To be called when there are new calls. */
  changed(): void;
  stop(): void;
}

/** Serves the picture. Throws when the port is in use. */
export function servePage(
  where: { host: string; port: number; language: Language; title: string },
  picture: (language: Language) => string,
): Page {
  const readers = new Set<{ language: Language; send(event: string): boolean; behind: boolean }>();
  let timer: Timer | undefined;
  const flush = () => {
    timer = undefined;
    const made: Partial<Record<Language, string>> = {};
    for (const reader of readers) {
      const { language } = reader;
      made[language] ??= event(picture(language));
      reader.behind = !reader.send(made[language]);
    }
    if ([...readers].some(({ behind }) => behind)) changed(); // a slow reader skips pictures
  };
  const changed = () => {
    timer ??= setTimeout(flush, PAUSE_MS);
  };

  const server = Bun.serve({
    hostname: where.host,
    port: where.port,
    fetch(request, server) {
      const { hostname, pathname, searchParams } = new URL(request.url);
      // A name could be another site's that resolves to this address (DNS rebinding).
      const isOurs =
        isNumeric(hostname.replace(/[[\]]/g, "")) || ["localhost", where.host].includes(hostname);
      if (!isOurs) return new Response("this page is for this machine\n", { status: 403 });
      const asked = searchParams.get("lang");
      const language = asked === "en" || asked === "ko" ? asked : where.language;
      if (pathname === "/picture.svg") return reply("image/svg+xml", picture(language));
      if (pathname === "/")
        return reply("text/html; charset=utf-8", html(where.title, language, picture(language)));
      if (pathname !== "/events") return new Response("there is nothing here\n", { status: 404 });

      server.timeout(request, 0);
      let end = () => {};
      const events = new ReadableStream<string>(
        {
          start(controller) {
            const send = (event: string) => {
              if (controller.desiredSize! <= 0) return false;
              controller.enqueue(event);
              return true;
            };
            const reader = { language, send, behind: false };
            readers.add(reader);
            end = () => readers.delete(reader);
            send(event(picture(language)));
          },
          cancel: () => end(),
        },
        { highWaterMark: 2 },
      );
      return reply("text/event-stream", events);
    },
  });
  const stop = () => {
    clearTimeout(timer);
    server.stop(true);
  };
  return { url: server.url.href, changed, stop };
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
