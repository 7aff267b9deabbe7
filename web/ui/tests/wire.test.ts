import assert from "node:assert/strict";
import { test } from "node:test";
import { parsed } from "../src/client/wire";

const HEAD = { channel: "bars", symbol: "GOLD", resolution: "1", epoch: "k3f9", seq: 9123 };
const BAR = { time: 1641081600, open: 2001.25, high: 2002.5, low: 2001, close: 2002.25, volume: 31, trades: 5, closed: false };

test("a bar frame is read whole", () => {
  const frame = parsed(JSON.stringify({ type: "bar", ...HEAD, prev_seq: 9120, op: "upsert", data: BAR, later: "additions are ignored" }));
  assert.deepEqual(frame, { type: "bar", symbol: "GOLD", resolution: "1", epoch: "k3f9", seq: 9123, prev_seq: 9120, op: "upsert", data: BAR });
});

test("what is not understood or not whole is nothing, and nothing throws", () => {
  const frame = { type: "bar", ...HEAD, prev_seq: 9120, op: "upsert", data: BAR };
  const bad: unknown[] = [
    undefined,
    new ArrayBuffer(3),
    "",
    "{",
    "null",
    "[]",
    '"text"',
    JSON.stringify({ type: "pong" }),
    JSON.stringify({ ...frame, channel: "trades" }),
    JSON.stringify({ ...frame, type: "unheard-of" }),
    JSON.stringify({ ...frame, op: "unheard-of" }),
    JSON.stringify({ ...frame, seq: "9123" }),
    JSON.stringify({ ...frame, prev_seq: null }),
    JSON.stringify({ ...frame, data: null }),
    JSON.stringify({ ...frame, data: { ...BAR, high: null } }),
    JSON.stringify({ ...frame, data: { ...BAR, time: 1.5 } }),
    JSON.stringify({ ...frame, op: "delete", data: {} }),
    JSON.stringify({ type: "snapshot", ...HEAD, data: [BAR, { ...BAR, close: "2" }] }),
  ];
  for (const text of bad) assert.equal(parsed(text), null, String(text));
});

test("an error keeps its code, message and id, also when the id is a number", () => {
  const error = parsed(JSON.stringify({ type: "error", code: "unknown_symbol", message: "no market named 'GLOD'", id: 7 }));
  assert.deepEqual(error, { type: "error", code: "unknown_symbol", message: "no market named 'GLOD'", id: "7" });
});
