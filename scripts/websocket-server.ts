const help = `
WebSocket server by hand: sends every message back as it came, text or binary. In a browser it shows a page
that talks to it: type, press Enter, and the reply appears below.
Named in tutorial 002, "웹소켓"; the protocol is RFC 6455.

  terminal 1:  bun run scripts/websocket-server.ts
  terminal 2:  bun run scripts/websocket-client.ts      (or http://127.0.0.1:8001/ in a browser)

A WebSocket begins as an HTTP request and continues with messages in both directions over the same TCP
connection: it connects a page in a browser with a socket. The page of any site can try to connect; the browser
names the site (Origin), and a page of another site gets 403.
`;

import { formatAddress } from "../lib/address.ts";
import { cli, print, serverFlags, serverTls, tlsFlags, warn } from "../lib/cli.ts";
import { limitFlags, logFlags, proxyFlags, serve } from "../lib/serve.ts";
import { listen, type Socket } from "../lib/socket.ts";
import { acceptWebSocket } from "../lib/websocket.ts";

const { host, port, signal, ...flags } = cli(help, {
  ...serverFlags(8001),
  ...tlsFlags,
  ...limitFlags,
  ...logFlags,
  ...proxyFlags,
});
using server = listen({ host, port, signal, tls: serverTls(flags) });
print(`listening on ${formatAddress(server.address)}`);
await serve(server, echo, { ...flags, signal, onError: warn });

async function echo(conn: Socket): Promise<void> {
  const socket = await acceptWebSocket(conn, { page, signal });
  if (socket === null) return; // that was the page, or a refusal
  // The next message is received when this one is sent: a client that only sends has to wait.
  for await (const message of socket) await socket.send(message);
}

function page(path: string): string | undefined {
  if (path !== "/") return undefined;
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>WebSocket echo</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif }
  body { max-width: 36rem; margin: 0 auto; padding: 1rem }
  form { position: sticky; top: 0; padding: 0.5rem 0; background: Canvas }
  input { box-sizing: border-box; width: 100%; padding: 0.4rem 0.6rem; font: inherit }
  ol { margin: 0; padding: 0; list-style: none; white-space: pre-wrap; overflow-wrap: anywhere }
  li::before { content: ">" }
</style>
<h1>WebSocket echo</h1>
<form>
  <label for="text">Type, and press Enter: the server sends it back.</label>
  <input id="text" autocomplete="off" autofocus>
  <output></output>
</form>
<ol></ol>
<script>
  const [form, input, state, replies] = ["form", "input", "output", "ol"].map((name) =>
    document.querySelector(name),
  );
  let socket;

  function connect() {
    socket = new WebSocket(location.origin.replace("http", "ws"));
    socket.onopen = () => (state.textContent = "connected");
    socket.onclose = ({ code }) =>
      (state.textContent = "connection closed (" + code + "): press Enter to connect again");
    socket.onmessage = ({ data }) => {
      const reply = document.createElement("li");
      reply.textContent = data; // as text: tags in it have no effect
      replies.append(reply);
      reply.scrollIntoView({ block: "nearest" });
    };
  }

  // The form's submit event, not the key: with a Korean input method, Enter may just end a syllable.
  form.onsubmit = (event) => {
    event.preventDefault();
    if (socket.readyState === WebSocket.CLOSED) return connect();
    if (socket.readyState !== WebSocket.OPEN) return;
    socket.send(input.value);
    input.value = "";
  };
  connect();
</script>
`;
}
