import assert from "node:assert/strict";
import { test } from "node:test";
import { type BarStream, Client } from "../src/client";
import { aBar, Daemon } from "./daemon";
import { settled, type Wire, World } from "./world";

interface Scene {
  readonly world: World;
  readonly daemon: Daemon;
  readonly client: Client;
  readonly stream: BarStream;
}

function live(bars = 300, stored = 3): Scene {
  const world = new World();
  const daemon = new Daemon();
  world.daemon = daemon;
  world.answers = async (path) => daemon.history(path);
  for (let at = 1; at <= stored; at += 1) daemon.put(aBar({ time: at * 60 }));
  const client = new Client(world);
  client.start();
  const { stream } = client.lease("GOLD", "1", bars);
  world.wire.open();
  return { world, daemon, client, stream };
}

const lastAsked = (wire: Wire): Record<string, unknown> | undefined => wire.sent.at(-1);
const times = (stream: BarStream): number[] => stream.bars.map(({ time }) => time);

test("a subscription asks for a snapshot and is live once it has it", () => {
  const { world, daemon, stream } = live();
  assert.deepEqual({ ...lastAsked(world.wire), id: "" }, {
    action: "subscribe",
    channel: "bars",
    symbol: "GOLD",
    resolution: "1",
    snapshot_bars: 300,
    conflate_ms: 100,
    id: "",
  });
  assert.equal(stream.state.phase, "live");
  assert.deepEqual(stream.bars, daemon.bars());
  assert.deepEqual(stream.state.position, { epoch: "k1", seq: daemon.seq });
});

test("every kind of frame leads to the daemon's bars", () => {
  const { daemon, stream } = live();
  daemon.put(aBar({ time: 180, close: 7 }));
  daemon.put(aBar({ time: 300, close: 8 }));
  daemon.put(aBar({ time: 120, close: 9 }));
  daemon.put(aBar({ time: 240 }));
  daemon.delete(180);
  assert.deepEqual(stream.bars, daemon.bars());
  assert.equal(stream.state.position?.seq, daemon.seq);
});

test("a frame that begins before our position is applied and does not take us back", () => {
  const { world, stream } = live();
  const seq = stream.state.position?.seq ?? 0;
  const frame = { type: "bar", channel: "bars", symbol: "GOLD", resolution: "1", epoch: "k1", prev_seq: seq - 2, seq: seq - 1, op: "upsert", data: aBar({ time: 180, close: 4 }) };
  world.wire.say(frame);
  assert.equal(stream.state.last?.close, 4);
  assert.equal(stream.state.position?.seq, seq);
  assert.equal(world.wire.sent.length, 1);
});

test("a lost frame is noticed at the next one and made good by resuming", () => {
  const { world, daemon, stream } = live();
  const { position } = stream.state;
  daemon.dropping = true;
  daemon.put(aBar({ time: 120, close: 11 }));
  daemon.dropping = false;
  daemon.put(aBar({ time: 240 }));
  assert.deepEqual(lastAsked(world.wire)?.["resume"], position);
  assert.equal(stream.state.phase, "live");
  assert.deepEqual(stream.bars, daemon.bars());
});

test("a lost last frame is noticed by the heartbeat", () => {
  const { world, daemon, stream } = live();
  daemon.dropping = true;
  daemon.put(aBar({ time: 240, close: 12 }));
  daemon.dropping = false;
  daemon.beat();
  assert.equal(world.wire.sent.length, 2);
  assert.deepEqual(stream.bars, daemon.bars());
  daemon.beat();
  assert.equal(world.wire.sent.length, 2);
});

test("bars stay over a lost connection, and the place is resumed", () => {
  const { world, daemon, stream } = live();
  const { position } = stream.state;
  world.wire.cut();
  assert.equal(stream.state.phase, "waiting");
  assert.equal(stream.state.count, 3);
  daemon.put(aBar({ time: 180, close: 13 }));
  daemon.put(aBar({ time: 240 }));
  daemon.delete(60);
  world.pass(1000);
  world.wire.open();
  assert.deepEqual(lastAsked(world.wire)?.["resume"], position);
  assert.equal(stream.state.phase, "live");
  assert.deepEqual(stream.bars, daemon.bars());
});

test("nothing is live before the resumed position is reached", () => {
  const { world, stream } = live();
  const seq = stream.state.position?.seq ?? 0;
  world.daemon = null;
  world.wire.cut();
  world.pass(1000);
  world.wire.open();
  const head = { channel: "bars", symbol: "GOLD", resolution: "1", epoch: "k1" };
  world.wire.say({ type: "subscribed", ...head, seq: seq + 9, recovered: true, id: lastAsked(world.wire)?.["id"] });
  assert.equal(stream.state.phase, "catching-up");
  world.wire.say({ type: "bar", ...head, prev_seq: seq, seq: seq + 3, op: "amend", data: aBar({ time: 120, close: 3 }) });
  assert.equal(stream.state.phase, "catching-up");
  world.wire.say({ type: "bar", ...head, prev_seq: seq + 3, seq: seq + 9, op: "upsert", data: aBar({ time: 180, close: 4 }) });
  assert.equal(stream.state.phase, "live");
});

test("frames of the old subscription are not taken for the new one's", () => {
  const { world, stream } = live();
  const seq = stream.state.position?.seq ?? 0;
  world.wire.answer = () => undefined;
  const head = { channel: "bars", symbol: "GOLD", resolution: "1", epoch: "k1" };
  world.wire.say({ type: "bar", ...head, prev_seq: seq + 5, seq: seq + 6, op: "upsert", data: aBar({ time: 180, close: 666 }) });
  world.wire.say({ type: "bar", ...head, prev_seq: seq, seq: seq + 7, op: "upsert", data: aBar({ time: 180, close: 666 }) });
  assert.equal(stream.state.phase, "subscribing");
  assert.equal(stream.state.last?.close, 2001);
  assert.equal(world.wire.sent.length, 2);
});

test("another epoch leads to a snapshot, which replaces everything", () => {
  const { world, daemon, stream } = live();
  world.wire.cut();
  daemon.epoch = "k2";
  daemon.delete(60);
  world.pass(1000);
  world.wire.open();
  assert.equal(stream.state.phase, "live");
  assert.equal(stream.state.position?.epoch, "k2");
  assert.deepEqual(stream.bars, daemon.bars());
});

for (const reason of ["lagged", "reset"] as const) {
  test(`a snapshot sent because of "${reason}" replaces everything`, () => {
    const { daemon, stream } = live();
    daemon.dropping = true;
    daemon.delete(60);
    daemon.put(aBar({ time: 240 }));
    daemon.dropping = false;
    if (reason === "lagged") daemon.lag();
    else daemon.reset("k9");
    assert.equal(stream.state.phase, "live");
    assert.deepEqual(stream.bars, daemon.bars());
    daemon.put(aBar({ time: 300 }));
    assert.deepEqual(stream.bars, daemon.bars());
  });
}

test("a daemon whose frames never fit is asked for a snapshot, and then less and less often", () => {
  const { world, stream } = live();
  const misfit = { type: "bar", channel: "bars", symbol: "GOLD", resolution: "1", epoch: "k1", prev_seq: 10_000, seq: 10_001, op: "upsert", data: aBar({ time: 240 }) };
  for (let count = 0; count < 20; count += 1) world.wire.say(misfit);
  assert.ok(world.wire.sent.length <= 4, `${world.wire.sent.length} subscriptions`);
  assert.equal(world.wire.sent.at(-1)?.["resume"], undefined);
  world.pass(15_000);
  assert.equal(stream.state.phase, "live");
});

test("an unknown market fails with the daemon's words, and may be asked for again", () => {
  const { world, client } = live();
  const { stream } = client.lease("GLOD", "1");
  assert.equal(stream.state.phase, "failed");
  assert.equal(stream.state.failure, "no market named 'GLOD'");
  const asked = world.wire.sent.length;
  world.wire.answer = () => undefined;
  stream.retry();
  assert.equal(world.wire.sent.length, asked + 1);
  assert.equal(stream.state.failure, null);
  assert.equal(stream.state.phase, "subscribing");
});

test("a passing refusal is retried by itself", () => {
  const { world, client } = live();
  world.wire.answer = () => undefined;
  const { stream } = client.lease("BTC", "1");
  world.wire.say({ type: "error", code: "rate_limited", message: "too fast", id: lastAsked(world.wire)?.["id"] });
  assert.equal(stream.state.phase, "failed");
  const asked = world.wire.sent.length;
  world.pass(1000);
  assert.equal(world.wire.sent.length, asked + 1);
});

test("a subscription that nobody answers gives the connection up", () => {
  const { world, client } = live();
  world.wire.answer = () => undefined;
  client.lease("BTC", "1");
  world.pass(10_000);
  assert.equal(client.connection.state.phase, "reconnecting");
});

test("a stream shown twice is subscribed once and ends with the last who shows it", () => {
  const { world, client, stream } = live();
  const second = client.lease("GOLD", "1", 2);
  assert.equal(second.stream, stream);
  assert.equal(world.wire.sent.length, 1);
  second.release();
  second.release();
  assert.equal(world.wire.sent.length, 1);
  world.wire.answer = () => undefined;
  const third = client.lease("BTC", "1");
  third.release();
  assert.deepEqual(lastAsked(world.wire), { action: "unsubscribe", channel: "bars", symbol: "BTC", resolution: "1" });
});

test("older bars are put in front until there are none", async () => {
  const { world, daemon, stream } = live(2, 1500);
  assert.equal(stream.state.count, 2);
  stream.loadOlder();
  stream.loadOlder();
  await settled();
  assert.equal(world.asked.length, 1);
  assert.equal(stream.state.count, 1002);
  stream.loadOlder();
  await settled();
  stream.loadOlder();
  await settled();
  assert.equal(stream.state.older, "exhausted");
  assert.deepEqual(times(stream), daemon.bars().map(({ time }) => time));
  stream.loadOlder();
  assert.equal(world.asked.length, 3);
});

test("a hole in history is crossed where the daemon says how", async () => {
  const { world, stream } = live(2, 3);
  world.answers = async (path) => {
    const to = Number(new URL(path, "http://daemon").searchParams.get("to"));
    const body = to === 61 ? { s: "ok", t: [60], o: [1], h: [1], l: [1], c: [1], v: [0] } : { s: "no_data", nextTime: 60 };
    return { status: 200, text: JSON.stringify(body), retryAfter: null };
  };
  stream.loadOlder();
  await settled();
  assert.deepEqual(times(stream), [60, 120, 180]);
});

test("a change that overtakes an answer under way is not undone by it", async () => {
  const { world, daemon, stream } = live(2, 6);
  let answer: () => void = () => undefined;
  world.answers = (path) => {
    const early = daemon.history(path);
    return new Promise((resolve) => {
      answer = () => resolve(early);
    });
  };
  stream.loadOlder();
  daemon.put(aBar({ time: 120, close: 77 }));
  daemon.delete(180);
  daemon.put(aBar({ time: 90, close: 78 }));
  assert.equal(stream.state.count, 2);
  answer();
  await settled();
  assert.deepEqual(times(stream), [60, 90, 120, 240, 300, 360]);
  assert.equal(stream.bars[2]?.close, 77);
});

test("once history is complete, a bar before the first is taken from the stream", async () => {
  const { daemon, stream } = live();
  stream.loadOlder();
  await settled();
  assert.equal(stream.state.older, "exhausted");
  daemon.put(aBar({ time: 0 }));
  assert.deepEqual(times(stream), [0, 60, 120, 180]);
});

test("older bars that cannot be had fail with the reason and are tried again when asked for", async () => {
  const { world, daemon, stream } = live(2, 4);
  world.answers = async () => ({ status: 503, text: '{"s":"error","errmsg":"the store is busy"}', retryAfter: null });
  stream.loadOlder();
  await settled();
  assert.equal(stream.state.older, "failed");
  assert.equal(stream.state.olderFailure, "the store is busy");
  stream.loadOlder();
  await settled();
  assert.equal(world.asked.length, 1);
  world.answers = async (path) => daemon.history(path);
  stream.retryOlder();
  await settled();
  assert.equal(stream.state.count, 4);
  assert.equal(stream.state.olderFailure, null);
});

test("a daemon that asks for a pause is not asked before its end, and then by itself again", async () => {
  const { world, daemon, stream } = live(2, 4);
  world.answers = async () => ({ status: 429, text: '{"s":"error","errmsg":"too many requests"}', retryAfter: 7 });
  stream.loadOlder();
  await settled();
  assert.equal(stream.state.older, "failed");
  assert.equal(stream.state.olderRetryAt, world.now() + 7000);
  world.answers = async (path) => daemon.history(path);
  world.pass(6999);
  stream.retryOlder();
  await settled();
  assert.equal(world.asked.length, 1);
  world.pass(1);
  assert.equal(stream.state.older, "idle");
  assert.equal(stream.state.olderRetryAt, null);
  stream.loadOlder();
  await settled();
  assert.equal(stream.state.count, 4);
});

test("older bars are not asked for on behalf of a view that does not show all that are here", async () => {
  const { world, stream } = live(2, 1500);
  const shown = stream.state.first?.time;
  stream.loadOlder(shown);
  await settled();
  assert.equal(stream.state.count, 1002);
  stream.loadOlder(shown);
  await settled();
  assert.equal(world.asked.length, 1);
  stream.loadOlder(stream.state.first?.time);
  await settled();
  assert.equal(world.asked.length, 2);
});

test("an answer to a question from before a snapshot is thrown away", async () => {
  const { world, daemon, stream } = live(2, 6);
  let answer: () => void = () => undefined;
  world.answers = (path) => {
    const early = daemon.history(path);
    return new Promise((resolve) => {
      answer = () => resolve(early);
    });
  };
  stream.loadOlder();
  daemon.delete(60);
  daemon.reset("k2");
  const before = times(stream);
  answer();
  await settled();
  assert.deepEqual(times(stream), before);
  assert.equal(stream.state.older, "idle");
});

test("when every bar we have is deleted, what remains before them is fetched", () => {
  const { daemon, stream } = live(2, 5);
  daemon.delete(240);
  daemon.delete(300);
  assert.deepEqual(times(stream), [120, 180]);
});

test("whatever is cut, lost or reset, the bars end equal to the daemon's", async () => {
  let state = 12345;
  const chance = (below: number): number => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return Math.floor((state / 2147483648) * below);
  };
  for (let round = 0; round < 30; round += 1) {
    const { world, daemon, stream } = live(1 + chance(6), 8);
    for (let step = 0; step < 60; step += 1) {
      const time = 60 * (1 + chance(14));
      switch (chance(13)) {
        case 0:
          world.wire.cut();
          break;
        case 1:
          daemon.delete(time);
          break;
        case 2:
          daemon.dropping = !daemon.dropping;
          break;
        case 3:
          stream.loadOlder();
          break;
        case 4:
          await settled();
          break;
        case 5:
          daemon.elsewhere();
          break;
        case 6:
          if (chance(4) === 0) daemon.floor = daemon.seq;
          if (chance(6) === 0) daemon.epoch = `k${round}.${step}`;
          if (chance(4) === 0) daemon.lag();
          break;
        case 7:
          world.pass(400);
          if (!world.wire.closed && stream.state.phase === "waiting") world.wire.open();
          break;
        default:
          daemon.put(aBar({ time, close: 1 + chance(1000) }));
      }
    }
    daemon.dropping = false;
    for (let attempt = 0; attempt < 5 && stream.state.phase !== "live"; attempt += 1) {
      world.pass(16_000);
      if (stream.state.phase === "waiting") world.wire.open();
    }
    daemon.beat();
    daemon.put(aBar({ time: 60 * 20 }));
    for (let page = 0; page < 4; page += 1) {
      stream.loadOlder();
      await settled();
    }
    assert.equal(stream.state.phase, "live", `round ${round}`);
    const prices = (bars: readonly { time: number; close: number }[]): string => bars.map(({ time, close }) => `${time}:${close}`).join(" ");
    assert.equal(prices(stream.bars), prices(daemon.bars()), `round ${round}`);
  }
});
