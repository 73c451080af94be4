// What everything is compared with: an echo server on Bun's own callbacks, with the least that is right.

interface State {
  rest: Uint8Array | null; // what the kernel had no room for; while there is some, nothing is read
  ended: boolean;
}

const listener = Bun.listen<State>({
  hostname: "127.0.0.1",
  port: 0,
  allowHalfOpen: true,
  socket: {
    open(socket) {
      socket.data = { rest: null, ended: false };
    },
    data(socket, chunk) {
      const { data } = socket;
      if (data.rest !== null) {
        data.rest = Buffer.concat([data.rest, chunk]);
        return;
      }
      const sent = socket.write(chunk);
      if (sent >= 0 && sent < chunk.length) {
        data.rest = chunk.subarray(sent);
        socket.pause();
      }
    },
    drain(socket) {
      const { data } = socket;
      if (data.rest === null) return;
      const sent = socket.write(data.rest);
      data.rest = sent >= 0 && sent < data.rest.length ? data.rest.subarray(sent) : null;
      if (data.rest !== null) return;
      socket.resume();
      if (data.ended) socket.end();
    },
    end(socket) {
      socket.data.ended = true;
      if (socket.data.rest === null) socket.end();
    },
  },
});
console.log(listener.port);
