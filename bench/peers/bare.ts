// The base of the comparison: Bun's own callbacks, with no more code than a correct server needs. `bun bare.ts`
// echoes; `bun bare.ts 4000` is a proxy to that port. With TLS_CERT and TLS_KEY in the environment, over TLS.

interface State {
  other: Bun.Socket<State> | null; // where its bytes go; for an echo, back to itself
  rest: Uint8Array | null; // what the kernel did not take yet; while there is some, `other` is paused
  ended: boolean;
}

const backend = Number(process.argv[2]);

const handler: Bun.SocketHandler<State> = {
  open(socket) {
    const other = backend > 0 ? null : socket;
    socket.data = { other, rest: null, ended: false };
    if (other === null) connectBackend(socket);
  },
  data(socket, chunk) {
    const to = socket.data.other!;
    if (to.data.rest !== null) {
      to.data.rest = Buffer.concat([to.data.rest, chunk]);
      return;
    }
    const sent = to.write(chunk);
    if (sent >= 0 && sent < chunk.length) {
      to.data.rest = chunk.subarray(sent);
      socket.pause();
    }
  },
  drain(socket) {
    const { other, rest } = socket.data;
    if (rest === null) return;
    const sent = socket.write(rest);
    socket.data.rest = sent >= 0 && sent < rest.length ? rest.subarray(sent) : null;
    if (socket.data.rest !== null) return;
    other!.resume();
    if (other!.data.ended) socket.shutdown();
  },
  end,
  // After our shutdown(), the peer's FIN comes as `close`, without `end`.
  close(socket, error) {
    if (error) socket.data.other?.terminate();
    else end(socket);
  },
};

function end(socket: Bun.Socket<State>): void {
  socket.data.ended = true;
  const { other } = socket.data;
  if (other !== null && other.data.rest === null) other.shutdown();
}

function connectBackend(client: Bun.Socket<State>): void {
  client.pause();
  const open = (socket: Bun.Socket<State>) => {
    socket.data = { other: client, rest: null, ended: false };
    client.data.other = socket;
    client.resume();
  };
  const socket = { ...handler, open };
  Bun.connect({ hostname: "127.0.0.1", port: backend, allowHalfOpen: true, socket });
}

const { TLS_CERT, TLS_KEY } = process.env;

const listener = Bun.listen({
  hostname: "127.0.0.1",
  port: 0,
  allowHalfOpen: true,
  socket: handler,
  tls: TLS_CERT ? { cert: Bun.file(TLS_CERT), key: Bun.file(TLS_KEY!) } : undefined,
});
console.log(listener.port);
