// The load for weather-station.ts: many sensors, each with its own connection.

import { connect } from "../lib/socket.ts";

const SENSORS = 50;
const PIECE_MS = 50;

export interface Stored {
  readings: number;
  /** From the first reading to the last answer. */
  seconds: number;
  /** How long each sensor waited for its answer, in ms. */
  answers: number[];
}

/** Sends `rate` readings a second in all, for `seconds` seconds. With 0: as many as for 100,000, but at full speed. */
export async function report(port: number, rate: number, seconds: number): Promise<Stored> {
  const pieces = Math.round((seconds * 1000) / PIECE_MS);
  const size = Math.round(((rate || 100_000) / SENSORS / 1000) * PIECE_MS);
  const began = performance.now();
  const answers: number[] = [];

  async function sensor(number: number): Promise<void> {
    using conn = await connect({ port });
    const text = Array.from({ length: size }, (_, i) => `temperature: ${i % 30}.5\n`).join("");
    await conn.sendAll(`sensor: sensor ${number}\n`);
    for (let piece = 0; piece < pieces; piece++) {
      // The sensors take turns.
      const due = began + (piece + number / SENSORS) * PIECE_MS;
      if (rate > 0) await Bun.sleep(due - performance.now());
      await conn.sendAll(text);
    }
    const finished = performance.now();
    conn.shutdown("write");
    const answer = Buffer.concat(await Array.fromAsync(conn)).toString();
    if (answer !== `stored ${size * pieces}\n`) throw new Error(`it answered "${answer}"`);
    answers.push(performance.now() - finished);
  }

  await Promise.all(Array.from({ length: SENSORS }, (_, number) => sensor(number)));
  const readings = SENSORS * size * pieces;
  return { readings, seconds: (performance.now() - began) / 1000, answers };
}
