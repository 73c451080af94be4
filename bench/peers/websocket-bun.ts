// Bun's own WebSocket server, in native code.

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("no page")),
  websocket: {
    maxPayloadLength: 16 << 20,
    message: (socket, message) => void socket.send(message),
  },
});
console.log(server.port);
