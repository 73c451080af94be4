// The package `ws`: on Node its own code, on Bun the replacement that Bun brings.

import { WebSocketServer } from "ws";

const server = new WebSocketServer({ port: 0, host: "127.0.0.1" }, () =>
  console.log(server.address().port),
);
server.on("connection", (socket) => {
  socket.on("message", (data, binary) => socket.send(data, { binary }));
});
