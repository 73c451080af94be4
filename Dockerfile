FROM oven/bun:1.4.4-slim

# No install step: at run time the scripts need nothing but Bun.
COPY lib lib
COPY scripts scripts

# A published port reaches the container's own address, never its loopback.
ENV HOST=0.0.0.0
EXPOSE 4000
USER bun

CMD ["scripts/echo-threaded-server.ts"]
