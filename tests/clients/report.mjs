// A report of `flashmill eval --html` in headless Chromium: it takes nothing from elsewhere, its charts are drawn, and it can be read
// on a phone, in light and in dark.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const file = process.env.FLASHMILL_REPORT;
const url = pathToFileURL(file).href;
const report = JSON.parse(readFileSync(process.env.FLASHMILL_REPORT_JSON, "utf8"));

let browser;
before(async () => {
  browser = await chromium.launch({ executablePath: process.env.FLASHMILL_CHROMIUM, args: ["--no-sandbox"] });
});
after(() => browser?.close());

async function open(viewport, colorScheme = "light") {
  const context = await browser.newContext({ viewport, colorScheme });
  const page = await context.newPage();
  const seen = { requests: [], errors: [] };
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("pageerror", (error) => seen.errors.push(error.message));
  page.on("console", (message) => { if (message.type() === "error") seen.errors.push(message.text()); });
  await page.goto(url);
  return { page, seen };
}

for (const [name, viewport] of [["a screen", { width: 1280, height: 900 }], ["a phone", { width: 390, height: 844 }]]) {
  for (const scheme of ["light", "dark"]) {
    test(`charts and tables on ${name}, ${scheme}`, async () => {
      const { page, seen } = await open(viewport, scheme);
      assert.deepEqual(seen.requests, [url], "nothing but the page itself is asked for");
      assert.deepEqual(seen.errors, []);
      const charts = await page.locator("figure svg").all();
      assert.equal(charts.length, new Set(report.arms.flatMap((arm) => Object.keys(arm.suites))).size, "a chart for each suite");
      for (const chart of charts) {
        const box = await chart.boundingBox();
        assert.ok(box.width > 250 && box.height > 150, JSON.stringify(box));
        assert.ok(box.x >= 0 && box.x + box.width <= viewport.width, JSON.stringify(box));
        const points = await chart.locator("circle").all();
        assert.ok(points.length >= report.arms.length - 1, "a point for each arm, but perhaps the reference");
        for (const point of points) {
          const place = await point.boundingBox();
          const inside = place.x >= box.x && place.y >= box.y && place.x + place.width <= box.x + box.width && place.y + place.height <= box.y + box.height;
          assert.ok(inside && place.width > 4, JSON.stringify(place));
        }
      }
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= viewport.width, `${wide} px wide`);
      const rows = await page.locator("table").first().locator("tbody tr").count();
      assert.equal(rows, report.arms.length);
      await page.context().close();
    });
  }
}

test("text can be read, in light and in dark", async () => {
  for (const scheme of ["light", "dark"]) {
    const { page } = await open({ width: 800, height: 600 }, scheme);
    const worst = await page.evaluate(() => {
      const light = (colour) => {
        const parts = colour.match(/[\d.]+/g).slice(0, 3).map((x) => x / 255).map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
      };
      const back = light(getComputedStyle(document.body).backgroundColor);
      const contrast = (a) => (Math.max(a, back) + 0.05) / (Math.min(a, back) + 0.05);
      const colours = [...document.querySelectorAll("h1, p, td, figcaption")].map((node) => getComputedStyle(node).color);
      const fills = [...document.querySelectorAll("svg text")].map((node) => getComputedStyle(node).fill);
      return Math.min(...[...colours, ...fills].map((colour) => contrast(light(colour))));
    });
    assert.ok(worst >= 4.5, `${scheme}: contrast ${worst}`);
    await page.context().close();
  }
});

test("the picture of the README", { skip: !process.env.FLASHMILL_REPORT_SCREENSHOT }, async () => {
  const { page } = await open({ width: 1100, height: 700 });
  await page.locator(".quality").scrollIntoViewIfNeeded();
  await page.locator(".quality").screenshot({ path: process.env.FLASHMILL_REPORT_SCREENSHOT });
  await page.context().close();
});
