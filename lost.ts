import { connect, listen } from "./lib/socket.ts";

const data = new Uint8Array(10_000_000);

using bun = Bun.listen({
  hostname: "127.0.0.1",
  port: 0,
  socket: {
    data() {},
    open(socket) {
      console.log(socket.write(data));
      socket.end();
    },
  },
});

using server = listen({ port: 0 });
async function serveOne() {
  using conn = await server.accept();
  await conn.sendAll(data);
}
serveOne();

for (const port of [bun.port, server.address.port]) {
  let received = 0;
  for await (const chunk of await connect({ port })) received += chunk.length;
  console.log(`${received} of ${data.length} bytes`);
}
