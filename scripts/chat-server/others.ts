// Several chat servers as one room: lines go to the other servers through Redis.
//
// Redis may be unreachable, or hang, at any time; then each server goes on alone. Bun's Redis client can
// reconnect by itself, but does not subscribe again. So that is turned off: after a failure both connections
// are closed, and new ones are made.

import { RedisClient } from "bun";

const CHANNEL = "chat";
/** How often Redis is checked, and how long it may take to answer. */
const BEAT_MS = 1_000;
const PATIENCE_MS = 2_000;
/** How long the last commands may take at a stop. */
const CLOSE_MS = 500;
/** How long a name stays taken after its server has died. */
const NAME_MS = 10_000;

const NEVER_AGAIN = { autoReconnect: false, enableOfflineQueue: false };
const keyOf = (name: string) => `chat:name:${name}`;

/** The other servers. While Redis is unreachable, it is as if there were none. */
export class Others implements AsyncDisposable {
  readonly #me = crypto.randomUUID();
  readonly #names = new Set<string>();
  /** The connection to Redis, and a promise that resolves when it is lost. Null while Redis is unreachable. */
  #link: { redis: RedisClient; lost: Promise<void> } | null = null;
  #end: () => void = () => {};
  #isOver = false;
  /** The answer to the last command. Redis answers in order, so it comes after all others. */
  #last: Promise<unknown> = Promise.resolve();
  readonly #tried = Promise.withResolvers<void>();
  /** Resolves after the first attempt to reach Redis. */
  readonly ready = this.#tried.promise;

  /** Throws for a wrong URL. `hear` gets the lines of other servers, `tell` gets messages about Redis. */
  constructor(
    readonly url: string,
    readonly hear: (line: string) => void,
    readonly tell: (what: string) => void,
  ) {
    this.#client().close();
    this.#keepLink();
  }

  /** Sends a line to the other servers. Resolves when Redis has it. */
  async say(line: string): Promise<void> {
    await this.#ask((redis) => redis.publish(CHANNEL, JSON.stringify([this.#me, line])));
  }

  /** Takes a name. False if another server has it. */
  async claim(name: string): Promise<boolean> {
    const taken = ["SET", [keyOf(name), this.#me, "NX", "PX", `${NAME_MS}`]] as const;
    const isFree = (await this.#ask((redis) => redis.send(taken[0], [...taken[1]]))) !== null;
    if (isFree) this.#names.add(name);
    return isFree;
  }

  /** Gives a name back. */
  async release(name: string): Promise<void> {
    this.#names.delete(name);
    await this.#ask((redis) => redis.del(keyOf(name)));
  }

  /** All names, also those of this server. */
  async names(): Promise<string[]> {
    const keys = (await this.#ask((redis) => redis.keys(keyOf("*")))) ?? [];
    return keys.map((key) => key.slice(keyOf("").length));
  }

  /** Waits, for half a second at most, until Redis has answered the last command. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.race([this.#last, sleep(CLOSE_MS)]);
    this.#isOver = true;
    this.#end();
  }

  // Undefined when Redis is unreachable, or does not answer.
  async #ask<T>(command: (redis: RedisClient) => Promise<T>): Promise<T | undefined> {
    if (this.#link === null) return undefined;
    const { redis, lost } = this.#link;
    const gone = lost.then(() => undefined);
    const answer = Promise.race([command(redis), gone]).catch(() => undefined);
    this.#last = answer;
    return answer;
  }

  async #keepLink(): Promise<void> {
    for (let told = false; !this.#isOver; await sleep(BEAT_MS)) {
      const [redis, hearing] = [this.#client(), this.#client()];
      const { promise: lost, resolve } = Promise.withResolvers<void>();
      this.#end = redis.onclose = hearing.onclose = () => resolve();
      try {
        await soon(Promise.all([redis.connect(), hearing.connect()]));
        await soon(hearing.subscribe(CHANNEL, (message) => this.#heard(message)));
        await this.#keepNames(redis);
        this.#link = { redis, lost };
        this.#tried.resolve();
        if (told) this.tell("Redis is back: the servers are one room again");
        told = false;
        const beat = () => Promise.race([lost.then(() => false), sleep(BEAT_MS).then(() => true)]);
        while (await beat()) await this.#keepNames(redis);
      } catch {
        // It is reported below.
      }
      resolve();
      this.#tried.resolve();
      this.#link = null;
      redis.close();
      hearing.close();
      if (!told && !this.#isOver)
        this.tell("Redis is away: each server is a room of its own until it is back");
      told = true;
    }
  }

  async #keepNames(redis: RedisClient): Promise<void> {
    const keep = (name: string) => redis.send("SET", [keyOf(name), this.#me, "PX", `${NAME_MS}`]);
    await soon(Promise.all([redis.ping(), ...[...this.#names].map(keep)]));
  }

  // Ignores our own lines, and messages of any other form: anybody can publish on this channel.
  #heard(message: string): void {
    const [from, line] = parsed(message);
    if (typeof line === "string" && from !== this.#me) this.hear(line);
  }

  #client(): RedisClient {
    return new RedisClient(this.url, { ...NEVER_AGAIN, connectionTimeout: PATIENCE_MS });
  }
}

function parsed(message: string): unknown[] {
  try {
    const value = JSON.parse(message);
    return Array.isArray(value) ? value : [];
  } catch {
    return [];
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}

/** Rejects when it takes too long. */
function soon<T>(answer: Promise<T>): Promise<T> {
  const late = sleep(PATIENCE_MS).then(() => Promise.reject(new Error("no answer")));
  return Promise.race([answer, late]);
}
