// The weather station's page, in a real browser.

import { join } from "node:path";
import { expect, setDefaultTimeout } from "bun:test";

import {
  openPage,
  PATIENCE_MS,
  Postgres,
  report,
  root,
  station,
  temporaryFolder,
  testBrowser,
  testPostgres,
  untilTrue,
} from "./helpers.ts";

setDefaultTimeout(3 * PATIENCE_MS);

const NAMES = ["garden", "roof", "cellar", "north wall", "greenhouse", "pond", "attic", "shed"];
const KOREAN = ["정원", "옥상", "지하실", "북쪽 벽", "온실", "연못", "다락", "창고"];

/** Puts a curve of the last `minutes` minutes into a store, for each sensor. */
async function fill(
  folder: { path: string },
  names: readonly string[],
  minutes = 9,
): Promise<void> {
  await using sql = new Bun.SQL(`sqlite://${folder.path}/weather.db`);
  const points = 120;
  const now = Date.now();
  const rows = names.flatMap((sensor, i) =>
    Array.from({ length: points }, (_, k) => {
      const wave = 5 * Math.sin(k / 24 + i) + 0.3 * Math.sin(k * 1.7 + i * 3);
      const celsius = Math.round((11 + (i % 10) * 1.6 + wave) * 10) / 10;
      return {
        sensor,
        celsius,
        at: Math.round(now - (minutes * 60_000 * (points - 1 - k)) / points),
      };
    }),
  );
  await sql`INSERT INTO reading ${sql(rows)}`;
}

const text = (page: Bun.WebView, selector: string): Promise<string> =>
  page.evaluate(`document.querySelector(${JSON.stringify(selector)}).textContent`);

const tile = (name: string) =>
  `[...document.querySelectorAll("li")].find((item) => item.dataset.name === ${JSON.stringify(name)})`;

testBrowser("the last value of each sensor, live, and HTML in a name stays text", async () => {
  using folder = temporaryFolder();
  await using one = await station(folder);
  using page = await openPage(one.url);
  await untilTrue(page, 'document.querySelector("#empty").innerText.includes("weather-sender")');
  const name = `<img src=x onerror="document.title='broken'"><b>roof</b>`;
  await report(one.tcp, "sensor: garden", "temperature: 20", "temperature: 21.5");
  await report(one.tcp, `sensor: ${name}`, "temperature: -3");
  await untilTrue(page, `${tile("garden")}?.innerText.includes("21.5°C")`);
  await untilTrue(page, `${tile(name)}?.innerText.includes("-3.0°C")`);
  expect(await page.evaluate(`${tile(name)}.querySelector(".name").textContent`)).toBe(name);
  expect(await page.evaluate('document.querySelectorAll("img, b").length')).toBe(0);
  expect(await page.evaluate("document.title")).toBe("Weather station");
  expect(await page.evaluate('document.querySelectorAll("#chart .line").length')).toBe(2);
  await report(one.tcp, "sensor: garden", "temperature: 22.25");
  await untilTrue(page, `${tile("garden")}.innerText.includes("22.3°C")`); // no reload
  // An injected script does not run, however it gets into the page.
  const injected =
    "document.body.append(Object.assign(document.createElement('script'), { textContent: 'ran = 1' }))";
  await page.evaluate(`(() => { ${injected} })()`);
  expect(await page.evaluate("typeof ran")).toBe("undefined");
});

testBrowser("it says so when it has lost the station, and comes back by itself", async () => {
  using folder = temporaryFolder();
  let one = await station(folder);
  const { tcp, url } = one;
  await report(tcp, "sensor: garden", "temperature: 20");
  using page = await openPage(url, { language: "en" });
  await untilTrue(page, `${tile("garden")}?.innerText.includes("20.0°C")`);
  expect(await text(page, "#status")).toBe("Live");
  await one[Symbol.asyncDispose]();
  await untilTrue(page, 'document.querySelector("#status").innerText.includes("lost")');
  expect(await text(page, "#status")).toMatch(/^Connection to the station lost at \d\d:\d\d:\d\d/);
  one = await station(folder, undefined, `--web-port=${new URL(url).port}`);
  await using _again = one;
  await untilTrue(page, 'document.querySelector("#status").innerText === "Live"');
  await report(one.tcp, "sensor: garden", "temperature: 19");
  await untilTrue(page, `${tile("garden")}.innerText.includes("19.0°C")`);
});

testPostgres("it says so when the station has lost its store", async () => {
  await using postgres = new Postgres();
  await postgres.start();
  using folder = temporaryFolder();
  await using one = await station(folder, postgres.url);
  await report(one.tcp, "sensor: garden", "temperature: 20");
  using page = await openPage(one.url);
  await untilTrue(page, `${tile("garden")}?.innerText.includes("20.0°C")`);
  await postgres.stop();
  await untilTrue(page, 'document.body.className === "trouble"');
  expect(await text(page, "#status")).toContain("cannot read its store");
  expect(await text(page, "li")).toContain("20.0°C"); // what was known is still there
  await postgres.start();
  await untilTrue(page, 'document.querySelector("#status").innerText === "Live"');
});

testBrowser("Korean and English, light and dark, by what the browser says", async () => {
  using folder = temporaryFolder();
  await using one = await station(folder);
  await report(one.tcp, "sensor: 정원", "temperature: 20");
  const seen = [];
  for (const [language, dark] of [
    ["ko-KR", false],
    ["en-GB", true],
    ["de", false],
  ] as const) {
    using page = await openPage(one.url, { language, dark });
    await untilTrue(page, 'document.querySelector("#status").className !== "connecting"');
    await untilTrue(page, `${tile("정원")}?.innerText.includes("20.0°C")`);
    const lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 128";
    seen.push([
      await page.evaluate("document.documentElement.lang"),
      await text(page, "h1"),
      await text(page, "#status"),
      await page.evaluate(lightness),
    ]);
  }
  expect(seen).toEqual([
    ["ko", "기상 관측소", "실시간", true],
    ["en", "Weather station", "Live", false],
    ["en", "Weather station", "Live", true],
  ]);
});

testBrowser(
  "a chart with axes and times; a legend of 20 that can be read; a phone's width",
  async () => {
    using folder = temporaryFolder();
    await using one = await station(folder);
    const names = Array.from({ length: 20 }, (_, i) => `${NAMES[i % 8]} number ${i}`);
    await fill(folder, names);
    const boxes = (selector: string) =>
      `[...document.querySelectorAll("${selector}")].map((it) => it.getBoundingClientRect().toJSON())`;
    type Box = { left: number; right: number; top: number; bottom: number };
    const overlaps = (all: Box[]) =>
      all.filter((a, i) =>
        all
          .slice(i + 1)
          .some(
            (b) =>
              a.left < b.right && b.left < a.right && a.top < b.bottom - 1 && b.top < a.bottom - 1,
          ),
      ).length;
    for (const [width, labels] of [
      [1100, 20],
      [390, 0],
    ] as const) {
      using page = await openPage(one.url, { width, height: 900 });
      await untilTrue(page, 'document.querySelectorAll("#chart .line").length === 20');
      expect(await page.evaluate("document.documentElement.scrollWidth")).toBeLessThanOrEqual(
        width,
      );
      const label: Box[] = await page.evaluate(boxes("#chart .label"));
      expect(label).toHaveLength(labels);
      expect(overlaps(label)).toBe(0);
      expect(Math.max(0, ...label.map(({ right }) => right))).toBeLessThan(width);
      const tiles: Box[] = await page.evaluate(boxes(".sensor"));
      expect(tiles).toHaveLength(20);
      expect(overlaps(tiles)).toBe(0);
      for (const axis of ["degrees", "time"]) {
        const marks: Box[] = await page.evaluate(boxes(`#chart .${axis}`));
        expect(marks.length).toBeWithin(2, 13);
        expect(overlaps(marks)).toBe(0);
      }
      expect(await text(page, "#chart .degrees")).toMatch(/^−?\d+ °C$/);
      expect(await text(page, "#chart .time")).toMatch(/^\d\d:\d\d$/);
      // Colours and dashes: no two lines look alike.
      const looks =
        'new Set([...document.querySelectorAll("#chart .line")].map((line) => getComputedStyle(line).stroke + line.getAttribute("stroke-dasharray"))).size';
      expect(await page.evaluate(looks)).toBe(20);
      // A click on a sensor shows its line; all others fade.
      await page.evaluate(`${tile(names[3]!)}.firstChild.click()`);
      expect(await page.evaluate('document.querySelectorAll(".series:not(.faded)").length')).toBe(
        1,
      );
    }
  },
);

testBrowser("hours and days can be seen, too; where nothing came there is no line", async () => {
  using folder = temporaryFolder();
  await using one = await station(folder);
  await fill(folder, ["roof"], 3 * 24 * 60);
  using page = await openPage(one.url);
  await untilTrue(page, `${tile("roof")} !== undefined`);
  const points =
    '(document.querySelector("#chart .line")?.getAttribute("d").match(/[ML]/g) ?? []).length';
  await untilTrue(page, `${points} === 1`); // the last ten minutes
  await page.click("nav button:last-child");
  await untilTrue(page, `${points} > 50`);
  expect(await text(page, "#chart .time")).not.toMatch(/\d:\d\d:/);
  await using sql = new Bun.SQL(`sqlite://${folder.path}/weather.db`);
  const gap = 'document.querySelector("#chart .line").getAttribute("d").match(/M/g).length';
  expect(await page.evaluate(gap)).toBe(1);
  await sql`DELETE FROM reading WHERE id > 40 AND id < 80`;
  await untilTrue(page, `${gap} === 2`);
});

testBrowser("the pictures in the READMEs are of this page", async () => {
  for (const [language, names] of [
    ["en", NAMES],
    ["ko", KOREAN],
  ] as const) {
    using folder = temporaryFolder();
    await using one = await station(folder);
    await fill(folder, names);
    using page = await openPage(one.url, { width: 900, height: 700, language });
    await untilTrue(page, `document.querySelectorAll("#chart .label").length === ${names.length}`);
    const picture = await page.screenshot({ format: "webp", quality: 90, encoding: "buffer" });
    expect(picture.length).toBeLessThan(100_000);
    // Two pictures always differ in their times, so only sizes are compared. For new ones in docs/:
    // TAKE_PICTURES=1 bun test weather-page
    const file = Bun.file(join(root, `docs/pictures/weather-station.${language}.webp`));
    if (process.env.TAKE_PICTURES) await Bun.write(file, picture);
    const size = (webp: Buffer) => [webp.readUIntLE(24, 3) + 1, webp.readUIntLE(27, 3) + 1]; // of VP8X
    expect(size(Buffer.from(await file.arrayBuffer()))).toEqual([900, 700]);
    expect(size(picture)).toEqual([900, 700]);
  }
});
