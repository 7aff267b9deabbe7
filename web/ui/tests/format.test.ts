import assert from "node:assert/strict";
import { test } from "node:test";
import { amountText, decimalsOf, move, percentText, priceText, timeText, volumeText } from "../src/format";
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

test("times are in UTC and as fine as the bar", () => {
  assert.match(timeText(1641081601, 1), /Sun.*2 Jan 2022 00:00:01$/);
  assert.match(timeText(1641081600, 60), /2 Jan 2022 00:00$/);
  assert.match(timeText(1641081600, 86_400), /2 Jan 2022$/);
});
