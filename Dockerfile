FROM oven/bun:1.4.4-slim

LABEL org.opencontainers.image.title="Socket scripts for Bun" \
      org.opencontainers.image.description="An echo server, and every other script of the collection by its name" \
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

# What is run: a script by its name or its path; the default one, where there are flags alone; and everything
# else as the base image's entrypoint has it. The name of no script is answered with those that are near (by
# copy.ts, which knows them). All by exec: Bun is process 1.
ENTRYPOINT ["sh", "-c", "case $1 in -*) set -- echo-threaded-server \"$@\" ;; esac; \
  if [ -f \"scripts/$1.ts\" ]; then script=scripts/$1.ts; shift; exec bun \"$script\" \"$@\"; fi; \
  [ -e \"$1\" ] || command -v \"$1\" >/dev/null || exec bun scripts/copy.ts \"$1\" /nowhere; \
  exec docker-entrypoint.sh \"$@\"", "sh"]
CMD ["echo-threaded-server"]

# Healthy is a server that has an open port (0A is LISTEN, 07 an open UDP port: proc_pid_net(5)), and anything
# else while it runs. Nobody is connected to: that would be echo-server's only client.
HEALTHCHECK CMD tr '\0' '\n' </proc/1/cmdline | grep -qE '^scripts/[a-z-]*(server|receiver|station|proxy)\.ts$' || exit 0; \
  grep -qs ' 0A ' /proc/net/tcp /proc/net/tcp6 || grep -qs ' 07 ' /proc/net/udp /proc/net/udp6
