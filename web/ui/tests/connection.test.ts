import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, Connection } from "../src/client";
import { backoff } from "../src/client/backoff";
import { World } from "./world";

function connected(): { world: World; connection: Connection; events: string[] } {
  const world = new World();
  const events: string[] = [];
  const connection = new Connection(world, {
    opened: () => events.push("opened"),
    closed: () => events.push("closed"),
    received: (message) => events.push(message.type),
  });
  connection.start();
  world.wire.open();
  return { world, connection, events };
}

test("the pause doubles, is spread by chance, and ends at 15 seconds", () => {
  assert.deepEqual([1, 2, 3, 4].map((attempt) => backoff(attempt, 0)), [250, 500, 1000, 2000]);
  assert.deepEqual([1, 2, 3, 4].map((attempt) => backoff(attempt, 1)), [500, 1000, 2000, 4000]);
  assert.equal(backoff(1000, 1), 15_000);
});

test("a lost connection is opened again after a pause that it names", () => {
  const { world, connection, events } = connected();
  assert.equal(connection.state.phase, "live");
  world.wire.cut();
  assert.deepEqual(connection.state, { phase: "reconnecting", reason: "the connection was lost", retryAt: world.now() + 375 });
  world.pass(374);
  assert.equal(world.wires.length, 1);
  world.pass(1);
  assert.equal(world.wires.length, 2);
  world.wire.open();
  assert.equal(connection.state.phase, "live");
  assert.deepEqual(events, ["opened", "closed", "opened"]);
});

test("a server that stays away makes it offline, and every attempt waits longer", () => {
  const { world, connection } = connected();
  const pauses: number[] = [];
  world.wire.cut();
  for (let attempt = 0; attempt < 5; attempt += 1) {
    const { state } = connection;
    assert.ok("reason" in state && state.retryAt !== null);
    pauses.push(state.retryAt - world.now());
    world.pass(state.retryAt - world.now());
    world.wire.cut();
  }
  assert.deepEqual(pauses, [375, 750, 1500, 3000, 6000]);
  assert.equal(connection.state.phase, "offline");
  world.pass(15_000);
  world.wire.open();
  assert.equal(connection.state.phase, "live");
});

test("the pause is short again only after a stream has worked", () => {
  const { world, connection } = connected();
  const pause = (): number => ("reason" in connection.state ? (connection.state.retryAt ?? 0) - world.now() : 0);
  world.wire.cut();
  world.pass(1000);
  world.wire.open();
  world.wire.cut();
  assert.equal(pause(), 750);
  world.pass(1000);
  world.wire.open();
  connection.proven();
  world.wire.cut();
  assert.equal(pause(), 375);
});

test("a silent connection is asked, and given up when it does not answer", () => {
  const { world, connection } = connected();
  const first = world.wire;
  world.pass(20_000);
  assert.deepEqual(first.sent, [{ action: "ping" }]);
  first.say({ type: "pong" });
  world.pass(19_999);
  assert.equal(connection.state.phase, "live");
  world.pass(5_001);
  assert.deepEqual(first.sent, [{ action: "ping" }, { action: "ping" }]);
  assert.equal(connection.state.phase, "reconnecting");
  assert.equal(first.closed, true);
});

test("a handshake that hangs is given up after 10 seconds", () => {
  const { world, connection } = connected();
  world.wire.cut();
  world.pass(375);
  assert.equal(connection.state.phase, "reconnecting");
  world.pass(10_000);
  assert.deepEqual(connection.state, { phase: "reconnecting", reason: "the server does not answer", retryAt: world.now() + 750 });
});

test("the network's return, and a look at the page, end the pause at once", () => {
  const { world, connection } = connected();
  world.network = false;
  world.wire.cut();
  assert.equal(connection.state.phase, "offline");
  assert.equal("reason" in connection.state && connection.state.reason, "this device has no network");
  world.network = true;
  world.wake();
  assert.equal(world.wires.length, 2);
  world.wire.open();
  assert.equal(connection.state.phase, "live");
});

test("a reader may try now, and what arrives late from the old socket is ignored", () => {
  const { world, connection, events } = connected();
  const old = world.wire;
  old.cut();
  connection.retry();
  assert.equal(world.wires.length, 2);
  world.wire.open();
  old.say({ type: "error", code: "late", message: "late" });
  old.cut();
  assert.equal(connection.state.phase, "live");
  assert.deepEqual(events, ["opened", "closed", "opened"]);
  connection.retry();
  assert.equal(world.wires.length, 2);
});

test("a stopped connection stays away", () => {
  const { world, connection } = connected();
  connection.stop();
  world.pass(60_000);
  world.wake();
  assert.equal(world.wires.length, 1);
  assert.equal(world.wire.closed, true);
  assert.equal(connection.send({ action: "ping" }), false);
});

test("without a key that is taken it stays away, and with one it says it first", async () => {
  const world = new World();
  const client = new Client(world);
  client.start();
  world.wire.open();
  const lease = client.lease("GOLD", "1");
  world.wire.say({ type: "error", code: "unauthorized", message: "a key is needed", id: "s1" });
  world.wire.cut(1008);
  assert.equal(client.connection.state.phase, "locked");
  world.pass(60_000);
  world.wake();
  client.connection.retry();
  assert.equal(world.wires.length, 1);

  const asked: (string | null)[] = [];
  let status = 401;
  world.answers = async (_, key) => {
    asked.push(key);
    return { status, text: "{}", retryAfter: null };
  };
  await assert.rejects(client.api.signIn("wrong"), /unknown or revoked/);
  await assert.rejects(client.api.signIn("no header\ncarries this"), /unknown or revoked/);
  assert.equal(client.connection.state.phase, "locked");
  status = 200;
  await client.api.signIn("right");
  assert.deepEqual(asked, ["wrong", "right"]);
  for (const again of [false, true]) {
    if (again) {
      world.wire.cut();
      world.pass(1000);
    }
    world.wire.open();
    assert.deepEqual(world.wire.sent[0], { action: "authenticate", key: "right" });
    assert.equal(world.wire.sent[1]?.["action"], "subscribe");
  }
  lease.release();
  client.stop();
});

test("a refusal of the key before says nothing of the one that replaced it", async () => {
  const world = new World();
  const client = new Client(world);
  client.start();
  let late: () => void = () => undefined;
  world.answers = () =>
    new Promise((resolve) => {
      late = () => resolve({ status: 401, text: "{}", retryAfter: null });
    });
  const search = client.api.markets("", 1);
  client.access.granted("newer");
  late();
  await assert.rejects(search);
  assert.equal(client.access.needed, false);
  client.stop();
});
