import assert from "node:assert/strict";
import { test } from "node:test";
import { type Bar, type BarStream, type Canvas, Client, Painter } from "../src/client";
import { aBar, Daemon } from "./daemon";
import { World } from "./world";

class Sketch implements Canvas {
  readonly calls: string[] = [];
  fails = false;
  shown: Bar[] = [];

  load(bars: readonly Bar[], fresh: boolean): void {
    this.calls.push(`load ${bars.length}${fresh ? " fresh" : ""}`);
    this.shown = [...bars];
  }

  update(bar: Bar, newest: boolean): void {
    this.calls.push(`${newest ? "newest" : "older"} ${bar.time}`);
    if (this.fails) throw new Error("Cannot update oldest data");
    this.shown = [...this.shown.filter(({ time }) => time !== bar.time), bar].sort((a, b) => a.time - b.time);
  }
}

function painted(stored = 3): { world: World; daemon: Daemon; stream: BarStream; sketch: Sketch } {
  const world = new World();
  const daemon = new Daemon();
  world.daemon = daemon;
  for (let at = 1; at <= stored; at += 1) daemon.put(aBar({ time: at * 60 }));
  const client = new Client(world);
  client.start();
  const { stream } = client.lease("GOLD", "1");
  world.wire.open();
  const sketch = new Sketch();
  new Painter(sketch, stream, world);
  return { world, daemon, stream, sketch };
}

test("a chart gets all bars once and then each change, those of one frame together", () => {
  const { world, daemon, stream, sketch } = painted();
  daemon.put(aBar({ time: 180, close: 5 }));
  daemon.put(aBar({ time: 180, close: 6 }));
  daemon.put(aBar({ time: 240 }));
  daemon.put(aBar({ time: 60, close: 7 }));
  world.pass(16);
  assert.deepEqual(sketch.calls, ["load 3 fresh", "older 60", "newest 180", "newest 240"]);
  assert.deepEqual(sketch.shown, stream.bars);
});

test("an insertion or a deletion loads all bars again, once", () => {
  const { world, daemon, stream, sketch } = painted();
  daemon.put(aBar({ time: 90 }));
  daemon.delete(120);
  daemon.put(aBar({ time: 240 }));
  world.pass(16);
  assert.deepEqual(sketch.calls, ["load 3 fresh", "load 4"]);
  assert.deepEqual(sketch.shown, stream.bars);
});

test("the first bar of an empty market is a fresh load", () => {
  const { world, daemon, sketch } = painted(0);
  daemon.put(aBar({ time: 60 }));
  world.pass(16);
  daemon.put(aBar({ time: 120 }));
  world.pass(16);
  assert.deepEqual(sketch.calls, ["load 0 fresh", "load 1 fresh", "newest 120"]);
});

test("a chart that throws is loaded again and the exception goes no further", (context) => {
  context.mock.method(console, "error", () => undefined);
  const { world, daemon, stream, sketch } = painted();
  sketch.fails = true;
  daemon.put(aBar({ time: 240 }));
  world.pass(16);
  assert.deepEqual(sketch.calls, ["load 3 fresh", "newest 240", "load 4"]);
  assert.deepEqual(sketch.shown, stream.bars);
});
