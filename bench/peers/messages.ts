// Sends back every message of 100 bytes, over bare callbacks: each by itself (`messages.ts each`), or all that
// came in one read with one write (`turn`).

const SIZE = 100;
const isEach = process.argv[2] === "each";

interface State {
  part: Uint8Array; // the beginning of a message
  rest: Uint8Array | null; // what the kernel had no room for; meanwhile nothing is read
}

function send(socket: Bun.Socket<State>, bytes: Uint8Array): void {
  const { rest } = socket.data;
  if (rest !== null) {
    socket.data.rest = Buffer.concat([rest, bytes]);
    return;
  }
  const sent = socket.write(bytes);
  if (sent < 0 || sent === bytes.length) return;
  socket.data.rest = bytes.subarray(sent);
  socket.pause();
}

const listener = Bun.listen<State>({
  hostname: "127.0.0.1",
  port: 0,
  socket: {
    open(socket) {
      socket.data = { part: new Uint8Array(0), rest: null };
    },
    data(socket, chunk) {
      const { part } = socket.data;
      const all = part.length > 0 ? Buffer.concat([part, chunk]) : chunk;
      const whole = all.length - (all.length % SIZE);
      for (let at = 0; isEach && at < whole; at += SIZE) send(socket, all.subarray(at, at + SIZE));
      if (!isEach && whole > 0) send(socket, all.subarray(0, whole));
      socket.data.part = all.subarray(whole);
    },
    drain(socket) {
      const { rest } = socket.data;
      if (rest === null) return;
      socket.data.rest = null;
      send(socket, rest);
      if (socket.data.rest === null) socket.resume();
    },
  },
});
console.log(listener.port);
export {}; // a module of its own
