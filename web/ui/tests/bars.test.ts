import assert from "node:assert/strict";
import { test } from "node:test";
import { Bars } from "../src/client/bars";
import { aBar } from "./daemon";

const times = (bars: Bars): number[] => bars.list.map(({ time }) => time);

test("a bar says where it went", () => {
  const bars = new Bars();
  bars.replace([aBar({ time: 120 }), aBar({ time: 60 })]);
  assert.equal(bars.put(aBar({ time: 240 })), "append");
  assert.equal(bars.put(aBar({ time: 240, close: 5 })), "newest");
  assert.equal(bars.put(aBar({ time: 60, close: 6 })), "older");
  assert.equal(bars.put(aBar({ time: 180 })), "between");
  assert.equal(bars.put(aBar({ time: 0 })), "between");
  assert.deepEqual(times(bars), [0, 60, 120, 180, 240]);
  assert.equal(bars.last?.close, 5);
});

test("only what is there can be removed", () => {
  const bars = new Bars();
  bars.replace([aBar({ time: 60 }), aBar({ time: 120 })]);
  assert.equal(bars.remove(90), false);
  assert.equal(bars.remove(120), true);
  assert.equal(bars.remove(120), false);
  assert.deepEqual(times(bars), [60]);
});

test("only older bars are put in front", () => {
  const bars = new Bars();
  bars.replace([aBar({ time: 120, close: 1 })]);
  assert.equal(bars.prepend([aBar({ time: 60 }), aBar({ time: 0 }), aBar({ time: 120, close: 9 }), aBar({ time: 180 })]), 2);
  assert.deepEqual(times(bars), [0, 60, 120]);
  assert.equal(bars.last?.close, 1);
});
