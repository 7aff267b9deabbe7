import assert from "node:assert/strict";
import { test } from "node:test";
import { amountText, arrow, decimalsOf, move, percentText, priceText, timeText, volumeText, zoneText } from "../src/format";
import { markText, weight } from "../src/chart/times";
import { aBar } from "./daemon";

test("prices get the decimals that they have, up to what their size allows", () => {
  assert.equal(decimalsOf([]), 2);
  assert.equal(decimalsOf([aBar({ time: 0, close: 2001.5 })]), 2);
  assert.equal(decimalsOf([aBar({ time: 0, close: 40123.123456 })]), 2);
  assert.equal(decimalsOf([aBar({ time: 0, close: 1.08345 })]), 5);
  assert.equal(decimalsOf([aBar({ time: 0, close: 0.0123 })]), 4);
  assert.equal(decimalsOf([aBar({ time: 0, close: 1.5e-9 })]), 10);
});

test("moves and volumes are short and signed", () => {
  assert.equal(priceText(1234567.891, 2), "1,234,567.89");
  assert.equal(amountText(move(100, 98.5), 2), "−1.50");
  assert.equal(percentText(move(100, 98.5)), "−1.50%");
  assert.equal(percentText(move(100, 99.9999)), "0.00%");
  assert.equal(percentText(move(0, 1)), "–");
  assert.equal(volumeText(1_234_567), "1.23M");
  assert.equal(volumeText(0.123456), "0.1235");
});

test("prices get the decimals that their market says, unless it was not asked", () => {
  const bars = [aBar({ time: 0, close: 1.08345 })];
  assert.equal(decimalsOf(bars, 1000), 3);
  assert.equal(decimalsOf(bars, 1), 0);
  assert.equal(decimalsOf(bars, 32), 2);
  assert.equal(decimalsOf([], 100_000_000), 8);
  assert.equal(decimalsOf(bars, 1_000_000), 5);
  assert.equal(decimalsOf(bars, null), 5);
});

test("a direction is also a sign", () => {
  assert.deepEqual([move(1, 2), move(2, 1), move(1, 1)].map(arrow), ["▲", "▼", ""]);
});

// The runner sets no zone: each test says where it is looked from.
function seenFrom(zone: string, look: () => void): void {
  const before = process.env["TZ"];
  process.env["TZ"] = zone;
  try {
    look();
  } finally {
    if (before === undefined) delete process.env["TZ"];
    else process.env["TZ"] = before;
  }
}

test("days are the market's wherever they are looked at from, and as fine as the bar", () => {
  for (const zone of ["Pacific/Auckland", "America/Los_Angeles"]) {
    seenFrom(zone, () => {
      assert.match(timeText(1641081600, 86_400), /2 Jan 2022$/);
      assert.equal(zoneText(1641081600, 86_400), "UTC");
      assert.equal(markText(1641081600, 50, false, false), "2");
    });
  }
});

test("a zone is named as it is at the time, summer or winter, with its half hours", () => {
  seenFrom("Europe/Berlin", () => {
    assert.equal(zoneText(1641081600, 60), "UTC+1");
    assert.equal(zoneText(1656633600, 60), "UTC+2");
  });
  seenFrom("America/St_Johns", () => assert.equal(zoneText(1641081600, 60), "UTC−3:30"));
  seenFrom("UTC", () => assert.equal(zoneText(1641081600, 60), "UTC"));
});

test("marks are heavy where days, months and hours begin for the viewer", () => {
  seenFrom("Asia/Kolkata", () => {
    const midnight = 1641061800; // 2 January 2022 00:00 in India
    assert.equal(weight(midnight - 60, midnight), 50);
    assert.equal(weight(midnight + 5.5 * 3600 - 60, midnight + 5.5 * 3600), 22);
    assert.equal(weight(midnight + 5 * 3600 - 60, midnight + 5 * 3600), 30);
    assert.equal(weight(midnight - 86_400 - 60, midnight - 86_400), 70);
    assert.equal(weight(midnight, midnight + 1), 10);
  });
});
