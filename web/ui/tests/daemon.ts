/** A daemon of one stream that keeps the rules of `/ws` part B and of `/history`, small enough to be obviously right. */

import type { Answer, Bar } from "../src/client";
import type { Wire } from "./world";

interface Kept {
  readonly bar: Bar;
  readonly rev: number;
  readonly born: number;
}

export class Daemon {
  readonly symbol = "GOLD";
  readonly resolution = "1";
  epoch = "k1";
  seq = 100;
  floor = 0; // positions below this cannot be resumed
  dropping = false; // frames get lost on the way
  readonly #bars = new Map<number, Kept>();
  readonly #gone = new Map<number, number>();
  #wire: Wire | null = null;
  #position = 0; // of the subscriber

  bars(): Bar[] {
    return [...this.#bars.values()].map(({ bar }) => bar).sort((a, b) => a.time - b.time);
  }

  accept(wire: Wire): void {
    this.#wire = null;
    wire.answer = (message) => this.#answer(wire, message);
  }

  put(bar: Bar): void {
    const newest = this.#newest();
    const before = this.#bars.get(bar.time);
    this.seq += 1;
    this.#gone.delete(bar.time);
    this.#bars.set(bar.time, { bar, rev: this.seq, born: before?.born ?? this.seq });
    const op = bar.time >= newest ? "upsert" : before ? "amend" : "insert";
    this.#frame(op, bar, this.seq);
  }

  delete(time: number): void {
    if (!this.#bars.delete(time)) return;
    this.seq += 1;
    this.#gone.set(time, this.seq);
    this.#frame("delete", { time }, this.seq);
  }

  /** Something happened elsewhere: the market's position moves, this stream's does not. */
  elsewhere(): void {
    this.seq += 1;
  }

  reset(epoch: string): void {
    this.epoch = epoch;
    this.#snapshot("reset", 300);
  }

  lag(): void {
    this.#snapshot("lagged", 300);
  }

  beat(): void {
    this.#say({ type: "heartbeat", seq: this.#newestRev() });
  }

  history(path: string): Answer {
    const query = new URL(path, "http://daemon").searchParams;
    const to = Number(query.get("to"));
    const count = Number(query.get("countback"));
    const older = this.bars().filter(({ time }) => time < to);
    const page = older.slice(-count);
    if (page.length === 0) return { status: 200, text: JSON.stringify({ s: "no_data" }), retryAfter: null };
    const column = (name: "time" | "open" | "high" | "low" | "close" | "volume"): number[] => page.map((bar) => bar[name]);
    const body = { s: "ok", t: column("time"), o: column("open"), h: column("high"), l: column("low"), c: column("close"), v: column("volume") };
    return { status: 200, text: JSON.stringify(body), retryAfter: null };
  }

  #answer(wire: Wire, message: Record<string, unknown>): void {
    if (message["action"] === "ping") wire.say({ type: "pong" });
    if (message["action"] === "unsubscribe") this.#wire = null;
    if (message["action"] !== "subscribe") return;
    if (message["symbol"] !== this.symbol || message["resolution"] !== this.resolution) {
      wire.say({ type: "error", code: "unknown_symbol", message: `no market named '${String(message["symbol"])}'`, id: message["id"] });
      return;
    }
    this.#wire = wire;
    const resume = message["resume"] as { epoch: string; seq: number } | undefined;
    const recovered = resume?.epoch === this.epoch && resume.seq >= this.floor && resume.seq <= this.seq;
    const seq = this.#newestRev();
    this.#say({ type: "subscribed", seq, recovered, id: message["id"] });
    if (recovered) this.#replay(resume.seq);
    else this.#snapshot(undefined, message["snapshot_bars"] as number);
  }

  #replay(from: number): void {
    this.#position = from;
    const kept = [...this.#bars.values()].sort((a, b) => a.bar.time - b.bar.time);
    const newest = kept.filter(({ born }) => born <= from).at(-1)?.bar.time ?? -Infinity;
    const older = kept.filter(({ bar, rev }) => bar.time < newest && rev > from);
    const rest = kept.filter(({ bar, rev }) => bar.time >= newest && (rev > from || bar.time === newest));
    const gone = [...this.#gone].filter(([, rev]) => rev > from);
    // Every change but the last claims the position where we began: it may stand for any of those still unwritten.
    const frames = [
      ...older.map(({ bar, born }) => ({ op: born <= from ? "amend" : "insert", data: bar })),
      ...gone.map(([time]) => ({ op: "delete", data: { time } })),
      ...rest.map(({ bar }) => ({ op: "upsert", data: bar })),
    ];
    const end = this.#newestRev();
    frames.forEach(({ op, data }, at) => this.#frame(op, data, at === frames.length - 1 ? Math.max(end, from) : from));
  }

  #frame(op: string, data: object, seq: number): void {
    const prev = this.#position;
    this.#position = seq;
    if (!this.dropping) this.#say({ type: "bar", op, prev_seq: prev, seq, data });
  }

  #snapshot(reason: string | undefined, count: number): void {
    this.#position = this.#newestRev();
    const data = count === 0 ? [] : this.bars().slice(-count);
    this.#say({ type: "snapshot", seq: this.#position, data, ...(reason ? { reason } : {}) });
  }

  #say(message: object): void {
    if (this.#wire?.closed !== false) return;
    this.#wire.say({ channel: "bars", symbol: this.symbol, resolution: this.resolution, epoch: this.epoch, ...message });
  }

  #newest(): number {
    return Math.max(-Infinity, ...this.#bars.keys());
  }

  #newestRev(): number {
    return Math.max(0, ...[...this.#bars.values()].map(({ rev }) => rev), ...this.#gone.values());
  }
}

/** A valid bar with what matters changed. */
export function aBar(changes: Partial<Bar> & { time: number }): Bar {
  const close = changes.close ?? 2001;
  return { open: close, high: close, low: close, volume: 1, ...changes, close };
}
