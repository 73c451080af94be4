// An echo server for datagrams on node:dgram.

import dgram from "node:dgram";

const socket = dgram.createSocket("udp4");
socket.on("message", (data, { port, address }) => socket.send(data, port, address));
socket.on("error", () => {});
socket.bind(0, "127.0.0.1", () => console.log(socket.address().port));
