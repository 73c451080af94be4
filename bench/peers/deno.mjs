// Deno's own sockets, as in its documentation.

const server = Deno.listen({ hostname: "127.0.0.1", port: 0 });
console.log(server.addr.port);
for await (const conn of server) {
  conn.setNoDelay();
  conn.readable.pipeTo(conn.writable).catch(() => {});
}
