FROM oven/bun:1.4.4-slim

LABEL org.opencontainers.image.title="Socket scripts for Bun" \
      org.opencontainers.image.description="An echo server, and every other script of the collection by its path" \
      org.opencontainers.image.licenses="MIT"

# No install step: at run time the scripts need nothing but Bun. What is copied belongs to root, so the
# server cannot change its own code.
COPY package.json tsconfig.json ./
COPY lib lib
COPY scripts scripts

# A published port reaches the container's own address, never its loopback.
ENV HOST=0.0.0.0
EXPOSE 4000
USER bun

# Flags alone are for the default script; a script that does not exist is answered with the names of
# those that do. Everything else is up to the base image's entrypoint. All by exec: Bun is process 1.
ENTRYPOINT ["sh", "-c", "case $1 in -*) exec bun scripts/echo-threaded-server.ts \"$@\" ;; esac; [ -e \"$1\" ] || command -v \"$1\" >/dev/null || exec bun scripts/copy.ts \"$1\" /nowhere; exec docker-entrypoint.sh \"$@\"", "sh"]
CMD ["scripts/echo-threaded-server.ts"]
