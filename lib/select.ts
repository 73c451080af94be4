// select(): waits for many sockets at once.

import type { DatagramSocket } from "./datagram.ts";
import { SocketError } from "./errors.ts";
import type { ServerSocket, Socket } from "./socket.ts";
import { MAX_DELAY } from "./socket/alarm.ts";
import { calls } from "./socket/calls.ts";
import { checkTimeout } from "./socket/check.ts";
import { anyChange, retry, type WaitOptions } from "./socket/readiness.ts";
import { POLLERR, POLLIN, POLLNVAL, POLLOUT } from "./socket/readiness.ts";
import { nextTurn } from "./socket/turn.ts";

/** A socket to receive from, or accept from. */
type Reader = ServerSocket | Socket | DatagramSocket;
type Ready = [readable: Reader[], writable: Socket[], inError: Socket[]];

/**
 * Waits until at least one socket is ready: Python's `select.select`, select(2), without the limit of
 * 1,024 descriptors. Gives the ready ones, in the order given: `readers` with data, EOF, an error, a
 * datagram, or a connection to accept; `writers` with room or an error; `errors` whose connection broke.
 * It is level-triggered: the next call gives a socket again if it is still ready then.
 *
 * After `timeoutMs` milliseconds it gives three empty lists. 0: it does not wait. Undefined: no limit.
 *
 * When `signal` aborts, it rejects with the signal's reason.
 *
 * Each call lets the event loop turn, so that a loop around `select` does not block timers or other
 * connections. Rejects with `EBADF` when one of the sockets is closed, before the call or during it.
 *
 * @example
 * const [readable] = await select([server, ...clients], [], [], 60_000);
 * if (readable.length === 0) console.log("nothing for a minute");
 */
export function select(
  readers: Iterable<Reader>,
  writers: Iterable<Socket>,
  errors: Iterable<Socket>,
  timeoutMs?: number,
  options?: WaitOptions,
): Promise<Ready> {
  return calls.run("select", wait, readers, writers, errors, timeoutMs, options);
}

const wait: typeof select = async (readers, writers, errors, timeoutMs, options) => {
  const [r, w, e] = [[...readers], [...writers], [...errors]];
  if (timeoutMs === undefined && r.length + w.length + e.length === 0) {
    throw new RangeError("select() with no sockets and no timeout would wait for ever");
  }
  let timeUp = timeoutMs === 0;
  const expire = () => {
    timeUp = true;
    anyChange.tell();
  };
  using _timer =
    timeoutMs === undefined || timeUp
      ? null
      : setTimeout(expire, Math.min(checkTimeout(timeoutMs), MAX_DELAY));
  const attempt = () => {
    const readable = r.filter((socket) => can(socket, POLLIN));
    const writable = w.filter((socket) => can(socket, POLLOUT));
    const inError = e.filter((socket) => can(socket, POLLERR));
    const ready = readable.length + writable.length + inError.length > 0;
    return ready || timeUp ? ([readable, writable, inError] as Ready) : null;
  };
  await nextTurn();
  return await retry(soon, attempt, options); // `await` keeps the timer
};

// Waits for a change, then for the next turn: so sockets that become ready together are given together.
const soon = {
  wait: () => anyChange.wait().then(nextTurn),
  tell: () => anyChange.tell(),
};

function can(socket: Reader, event: number): boolean {
  const state = socket.poll();
  if (state & POLLNVAL) {
    const address = "address" in socket ? socket.address : socket.remoteAddress;
    throw new SocketError("EBADF", "select", address);
  }
  return (state & event) !== 0;
}
