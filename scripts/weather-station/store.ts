// Stores the readings in a table of SQLite or Postgres, with Bun.SQL.
//
// Readings that come at about the same time are stored in one transaction, which costs little more than storing
// one. A commit that fails is not tried again, unless the SQLite file was locked: when the connection breaks
// during COMMIT, it is unknown whether the readings are stored, and a second try could store them twice. The
// sensor has to decide.

import { SQL } from "bun";

export type Reading = {
  sensor: string;
  celsius: number;
  /** In ms since 1970. */
  at: number;
};

export type Stored = Reading & { id: number };

/** What the page shows of each sensor: the last reading, and points of the curve. */
export interface Chart {
  sensors: (Reading & { points: [at: number, celsius: number][] })[];
}

/** The error that `add` rejects with. */
export class NotStored extends Error {}

const GATHER_MS = 20;
/** The most readings that may wait for their commit; above it, sensors have to wait. */
const FULL = 10_000;
/** Rows in one statement: SQLite takes 32,766 values, we have three a row. */
const ROWS = 5_000;
/** Another program may hold the SQLite file's lock for this long; Python's default is the same. */
const LOCK_MS = 5_000;
const LOOK_MS = 1_000;
const MINUTE_MS = 60_000;
const AGAIN_MS = 250;
const MAX_SENSORS = 100;
const POINTS = 240;
const CHANNEL = "reading";

export class Store {
  readonly #shared: boolean;
  /** Separate connections for SQLite, so that uncommitted readings are not read. */
  readonly #writing: SQL;
  readonly #reading: SQL;
  readonly #url: string;
  #waiting: Reading[] = [];
  #stored: Promise<void> = Promise.resolve();
  #change = Promise.withResolvers<void>();
  #charts = new Map<number, Promise<Chart>>();
  #closed = false;
  #look: NodeJS.Timeout | undefined;
  #ear: SQL | undefined;
  /** Called when readings cannot be stored, and with null when they can again. */
  onTrouble: (error: Error | null) => void = () => {};
  #inTrouble = false;

  private constructor(url: string) {
    this.#url = url;
    this.#shared = !url.startsWith("sqlite:");
    this.#writing = connectTo(url, 2);
    this.#reading = url.includes(":memory:") ? this.#writing : connectTo(url, 8);
  }

  /** Opens the store, and creates its table if there is none. Rejects if that fails. */
  static async open(url: string): Promise<Store> {
    const store = new Store(url);
    await patiently(() => store.#prepare());
    if (store.#shared) store.#listen();
    // SQLite does not notify us of changes by another program, such as a second station. So we look every second;
    // with Postgres, which notifies us, every minute.
    const every = store.#shared ? MINUTE_MS : LOOK_MS;
    store.#look = setInterval(() => store.#noteChange(), every).unref();
    return store;
  }

  async #prepare(): Promise<void> {
    if (this.#shared) {
      return this.#writing.begin(async (tx) => {
        await tx`SELECT pg_advisory_xact_lock(hashtext('reading'))`; // for stations that start together
        await tx`CREATE TABLE IF NOT EXISTS reading (
          id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
          sensor TEXT NOT NULL, celsius DOUBLE PRECISION NOT NULL, at BIGINT NOT NULL)`;
        await addIndexes(tx);
      });
    }
    // With a write-ahead log, readers and writers do not wait for each other.
    await this.#writing`PRAGMA journal_mode = WAL`;
    await this.#writing.begin(async (tx) => {
      await tx`CREATE TABLE IF NOT EXISTS reading (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        sensor TEXT NOT NULL, celsius REAL NOT NULL, at INTEGER NOT NULL)`;
      await addIndexes(tx);
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#look);
    const connections = [this.#writing, this.#reading, this.#ear];
    await Promise.all(connections.map((connection) => connection?.close({ timeout: 1 })));
  }

  // ---- writing

  /**
   * Resolves when the reading is committed; rejects when it is not, or when that is unknown. Readings that are
   * stored together share one promise.
   */
  add(reading: Reading): Promise<void> {
    this.#waiting.push(reading);
    if (this.#waiting.length === 1) {
      this.#stored = this.#storeAfter(this.#stored);
      this.#stored.catch(() => {}); // a sensor that has gone does not wait for it
    }
    return this.#stored;
  }

  /** Whether `FULL` readings wait. Then add no more until some are stored. */
  get isFull(): boolean {
    return this.#waiting.length >= FULL;
  }

  // Readings that come while the previous commit is under way are stored together after it.
  async #storeAfter(before: Promise<void>): Promise<void> {
    await Promise.allSettled([before, Bun.sleep(GATHER_MS)]);
    const batch = this.#waiting;
    this.#waiting = [];
    try {
      await patiently(() => this.#commit(batch));
      this.#tell(null);
      if (!this.#shared) this.#noteChange(); // Postgres notifies all stations
    } catch (error) {
      this.#tell(error as Error);
      throw new NotStored("not stored", { cause: error });
    }
  }

  #commit(batch: Reading[]): Promise<void> {
    return this.#writing.begin(async (tx) => {
      for (let i = 0; i < batch.length; i += ROWS) {
        await tx`INSERT INTO reading ${tx(batch.slice(i, i + ROWS), "sensor", "celsius", "at")}`;
      }
      if (this.#shared) await tx.notify(CHANNEL); // delivered when this is committed
    });
  }

  /** Deletes readings older than `before`, up to `ROWS` at a time. */
  async forget(before: number): Promise<void> {
    for (let deleted = ROWS; deleted === ROWS && !this.#closed;) {
      deleted = await this.#writing.begin(async (tx) => {
        const old = tx`SELECT id FROM reading WHERE at < ${before} ORDER BY at LIMIT ${ROWS}`;
        return (await tx`DELETE FROM reading WHERE id IN (${old})`).count as number;
      });
      await Bun.sleep(1); // lets others use the database
    }
  }

  #tell(error: Error | null): void {
    if (this.#inTrouble !== (error !== null)) this.onTrouble(error);
    this.#inTrouble = error !== null;
  }

  // ---- reading

  /**
   * All readings since a time, the oldest first, in pages. Readings stored after the call are left out, so that a
   * download ends however fast readings come.
   */
  async *readings(
    sensor: string | null,
    since: number,
    limit: number,
  ): AsyncGenerator<Stored[], void, undefined> {
    const db = this.#reading;
    const [newest] = await db`SELECT max(id) AS id FROM reading`;
    const ofSensor = sensor === null ? db`` : db`AND sensor = ${sensor}`;
    let last = { at: since, id: 0 };
    for (let left = limit; left > 0 && newest.id !== null;) {
      const rows = await db`SELECT id, sensor, celsius, at FROM reading
        WHERE (at, id) > (${last.at}, ${last.id}) AND id <= ${newest.id} ${ofSensor}
        ORDER BY at, id LIMIT ${Math.min(left, 1_000)}`;
      if (rows.length === 0) return;
      const page = rows.map((row: Stored) => ({ ...row, id: Number(row.id), at: Number(row.at) }));
      yield page;
      last = page.at(-1);
      left -= page.length;
    }
  }

  /** The chart of the last `span` ms. Calls at the same time share one query. */
  chart(span: number): Promise<Chart> {
    let chart = this.#charts.get(span);
    if (chart !== undefined) return chart;
    chart = this.#draw(span);
    this.#charts.set(span, chart);
    chart.catch(() => this.#charts.delete(span)); // so that the next call tries again
    return chart;
  }

  // The query jumps from index entry to index entry, so that its cost depends on what is shown and not on what is
  // stored: the sensors by name, the last reading of each, and the first reading in each slot of time. (The last
  // reading is the one with the highest id, in case the station's clock has been set.)
  async #draw(span: number): Promise<Chart> {
    const db = this.#reading;
    const now = Date.now();
    const step = Math.ceil(span / POINTS);
    const names = db`names(name, n) AS (
      SELECT min(sensor), 1 FROM reading
      UNION ALL
      SELECT (SELECT min(sensor) FROM reading WHERE sensor > name), n + 1
      FROM names WHERE name IS NOT NULL AND n < ${MAX_SENSORS})`;
    const [last, points] = await Promise.all([
      db`WITH RECURSIVE ${names}
        SELECT sensor, celsius, at FROM names JOIN reading
        ON id = (SELECT id FROM reading WHERE sensor = name ORDER BY id DESC LIMIT 1)`,
      db`WITH RECURSIVE ${names},
        slots(name, t) AS (
          SELECT name, (SELECT min(at) FROM reading WHERE sensor = name AND at >= ${now - span})
          FROM names WHERE name IS NOT NULL
          UNION ALL
          SELECT name, (SELECT min(at) FROM reading
            WHERE sensor = name AND at >= (t / ${step} + 1) * ${step})
          FROM slots WHERE t IS NOT NULL)
        SELECT name, t, (SELECT celsius FROM reading WHERE sensor = name AND at = t ORDER BY id LIMIT 1)
        AS celsius FROM slots WHERE t IS NOT NULL ORDER BY t`,
    ]);
    const bySensor = Map.groupBy(
      points as { name: string; t: number; celsius: number }[],
      (point) => point.name,
    );
    const sensors = last.map(({ sensor, celsius, at }: Reading) => ({
      sensor,
      celsius,
      at: Number(at),
      points: (bySensor.get(sensor) ?? []).map((point) => [Number(point.t), point.celsius]),
    }));
    return { sensors };
  }

  // ---- changes

  /** Resolves when there may be something new. */
  changed(): Promise<void> {
    return this.#change.promise;
  }

  #noteChange(): void {
    this.#charts.clear();
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }

  // Postgres notifies us of readings of other stations. After a failure a new connection is made here: `listen`
  // would reconnect by itself, but only after up to half a minute, and prints a line each time.
  async #listen(): Promise<void> {
    while (!this.#closed) {
      const gone = Promise.withResolvers<void>();
      this.#ear = connectTo(this.#url, 1, () => gone.resolve());
      try {
        await this.#ear.listen(CHANNEL, () => this.#noteChange());
        this.#noteChange(); // readings may have been stored meanwhile
        await gone.promise;
      } catch {
        // Unreachable: `add` reports that.
      }
      this.#noteChange(); // the page shows the trouble
      await this.#ear.close({ timeout: 0 }).catch(() => {});
      if (!this.#closed) await Bun.sleep(AGAIN_MS);
    }
  }
}

function connectTo(url: string, max: number, onclose?: () => void): SQL {
  // Each number of rows is another statement: Postgres should not keep them all prepared.
  return new SQL(url, { max, prepare: false, connectionTimeout: 5, onclose });
}

async function addIndexes(tx: SQL): Promise<void> {
  await tx`CREATE INDEX IF NOT EXISTS reading_at ON reading (at, id)`;
  await tx`CREATE INDEX IF NOT EXISTS reading_sensor_at ON reading (sensor, at, id)`;
  await tx`CREATE INDEX IF NOT EXISTS reading_sensor_id ON reading (sensor, id)`;
}

// When the SQLite file is locked, nothing has been stored, so it can be tried again.
async function patiently<T>(attempt: () => Promise<T>): Promise<T> {
  const enough = performance.now() + LOCK_MS;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      const { code = "" } = error as { code?: string };
      if (!code.startsWith("SQLITE_BUSY") || performance.now() > enough) throw error;
      await Bun.sleep(50);
    }
  }
}
