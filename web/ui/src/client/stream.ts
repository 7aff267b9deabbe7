/**
 * The bars of one symbol at one resolution, kept equal to the daemon's.
 *
 * Every frame says which range of positions it covers. A frame that begins at or before our own position is applied;
 * one that begins beyond it, or is of another epoch, means that something is missing, and we subscribe again from where
 * we are. The bars stay over a lost connection.
 */

import type { History, HistoryWindow } from "./api";
import { backoff } from "./backoff";
import { Bars } from "./bars";
import type { Host } from "./host";
import { Listeners } from "./listeners";
import { Older, type OlderPhase } from "./older";
import type { Bar, BarFrame, Heartbeat, Message, Position, Refusal, Snapshot, Subscribed } from "./wire";

const ANSWER = 10_000; // milliseconds until an unanswered subscription counts as a dead connection
const CONFLATE = 100; // milliseconds between two states of one bar: more than an eye can follow
const BREAKS = 3; // breaks in quick succession: ask for a snapshot instead of resuming
const QUICK = 10_000; // milliseconds
const PASSING = new Set(["rate_limited", "unavailable", "internal", "too_many_subscriptions"]);

export type StreamPhase = "waiting" | "subscribing" | "catching-up" | "live" | "failed";

/** What happened to the bars. `reset` means all of them may differ, `prepend` that older ones came in front. */
export type Change =
  | { readonly kind: "reset" | "prepend" | "between" }
  | { readonly kind: "put"; readonly bar: Bar; readonly newest: boolean };

export interface StreamState {
  readonly symbol: string;
  readonly resolution: string;
  readonly phase: StreamPhase;
  readonly failure: string | null;
  readonly older: OlderPhase;
  readonly olderFailure: string | null;
  readonly olderRetryAt: number | null; // milliseconds; null where nothing is planned
  readonly started: boolean; // the first snapshot came: no bars means there are none
  readonly count: number;
  readonly first: Bar | null;
  readonly previous: Bar | null;
  readonly last: Bar | null;
  readonly position: Position | null;
}

export interface Surroundings {
  readonly host: Host;
  send(message: object): boolean;
  history(window: HistoryWindow, signal: AbortSignal): Promise<History>;
  proven(): void;
  unanswered(): void;
}

let subscriptions = 0;

export class BarStream {
  readonly #around: Surroundings;
  readonly #initial: number;
  readonly #bars = new Bars();
  readonly #older: Older;
  readonly #changes = new Listeners<Change>();
  readonly #states = new Listeners();
  #symbol: string;
  #resolution: string;
  #phase: StreamPhase = "waiting";
  #failure: string | null = null;
  #position: Position | null = null;
  #started = false;
  #awaited: string | null = null; // id of the subscription whose answer we wait for
  #snapshotDue = false;
  #target = 0; // position at which we have caught up
  #breaks = 0;
  #brokenAt = 0;
  #refusals = 0;
  #cancelTimer: () => void = () => undefined;
  #state: StreamState;

  constructor(symbol: string, resolution: string, initial: number, around: Surroundings) {
    this.#symbol = symbol;
    this.#resolution = resolution;
    this.#initial = initial;
    this.#around = around;
    this.#older = new Older(resolution, this.#bars, around.history, around.host, (added) => {
      if (added) this.#changes.tell({ kind: "prepend" });
      this.#tell();
    });
    this.#state = this.#described();
  }

  get state(): StreamState {
    return this.#state;
  }

  get bars(): readonly Bar[] {
    return this.#bars.list;
  }

  /** How the daemon names this stream. */
  get wireName(): string {
    return JSON.stringify([this.#symbol, this.#resolution]);
  }

  onChange(listener: (change: Change) => void): () => void {
    return this.#changes.add(listener);
  }

  onState(listener: () => void): () => void {
    return this.#states.add(listener);
  }

  opened(): void {
    this.#breaks = 0;
    this.#subscribe();
  }

  closed(): void {
    this.#cancelTimer();
    this.#awaited = null;
    this.#snapshotDue = false;
    this.#failure = null;
    this.#enter("waiting");
  }

  /** Nobody looks any more. */
  end(unsubscribe: boolean): void {
    if (unsubscribe && this.#phase !== "waiting" && this.#phase !== "failed") {
      this.#around.send({ action: "unsubscribe", channel: "bars", symbol: this.#symbol, resolution: this.#resolution });
    }
    this.closed();
    this.#older.reset();
  }

  /** Ask again after a refusal. */
  retry(): void {
    if (this.#phase === "failed") this.#subscribe();
  }

  /** Fetch bars before the first one, unless that is under way, failed, or there are none.

  Whoever shows bars says which of them is its first: where older ones are here and not yet shown, none are missing. */
  loadOlder(shown: number | undefined = this.#bars.first?.time): void {
    if (this.#started && shown === this.#bars.first?.time) void this.#older.load();
  }

  retryOlder(): void {
    this.#older.forgive();
    this.loadOlder();
  }

  received(message: Message): void {
    if (message.type === "error") {
      if (message.id !== null && message.id === this.#awaited) this.#refused(message);
      return;
    }
    if (message.type === "subscribed") {
      if (message.id !== null && message.id === this.#awaited) this.#subscribed(message);
      return;
    }
    if (message.symbol !== this.#symbol || message.resolution !== this.#resolution) return;
    if (this.#awaited !== null || this.#phase === "waiting" || this.#phase === "failed") return; // of the subscription before
    if (message.type === "snapshot") this.#replaced(message);
    else if (message.type === "heartbeat") this.#beaten(message);
    else if (!this.#snapshotDue) this.#framed(message);
  }

  #subscribe(): void {
    this.#cancelTimer();
    subscriptions += 1;
    const id = `s${subscriptions}`;
    this.#awaited = id;
    this.#snapshotDue = false;
    this.#failure = null;
    this.#cancelTimer = this.#around.host.after(ANSWER, () => this.#around.unanswered());
    this.#enter("subscribing");
    // Without a connection this goes nowhere: `closed` is at hand, and `opened` with the next one.
    this.#around.send({
      action: "subscribe",
      channel: "bars",
      symbol: this.#symbol,
      resolution: this.#resolution,
      snapshot_bars: this.#initial,
      conflate_ms: CONFLATE,
      id,
      ...(this.#position ? { resume: this.#position } : {}),
    });
  }

  #subscribed(answer: Subscribed): void {
    this.#cancelTimer();
    this.#awaited = null;
    this.#refusals = 0;
    this.#symbol = answer.symbol;
    this.#resolution = answer.resolution;
    const resumed = answer.recovered && this.#position?.epoch === answer.epoch;
    this.#snapshotDue = !answer.recovered;
    this.#target = answer.seq;
    this.#older.forgive();
    this.#around.proven();
    if (answer.recovered && !resumed) {
      this.#broken(); // recovered what? we are nowhere, or in another epoch
      return;
    }
    this.#enter(resumed && this.#hasReached(answer.seq) ? "live" : "catching-up");
  }

  #refused(refusal: Refusal): void {
    this.#cancelTimer();
    this.#awaited = null;
    this.#failure = refusal.message;
    if (PASSING.has(refusal.code)) {
      this.#refusals += 1;
      const pause = backoff(this.#refusals + 1, this.#around.host.random());
      this.#cancelTimer = this.#around.host.after(pause, () => this.#subscribe());
    }
    this.#enter("failed");
  }

  #replaced(snapshot: Snapshot): void {
    this.#bars.replace(snapshot.data);
    this.#older.reset();
    this.#position = { epoch: snapshot.epoch, seq: snapshot.seq };
    this.#snapshotDue = false;
    this.#started = true;
    this.#phase = "live";
    this.#changes.tell({ kind: "reset" });
    this.#tell();
  }

  #framed(frame: BarFrame): void {
    if (!this.#position || this.#isBeyond(frame.epoch, frame.prev_seq)) {
      this.#broken();
      return;
    }
    this.#position = { epoch: frame.epoch, seq: Math.max(this.#position.seq, frame.seq) };
    if (this.#phase === "catching-up" && this.#hasReached(this.#target)) this.#phase = "live";
    const change = this.#applied(frame);
    if (change) this.#changes.tell(change);
    this.#tell();
    if (change && !this.#bars.last) this.#startOver(); // all we had is gone; there may be older ones
  }

  #applied(frame: BarFrame): Change | null {
    const { time } = frame.data;
    // What lies before our first bar is not here yet; it will come as it then is, unless it is on its way.
    const first = this.#bars.first;
    if (first && time < first.time && !this.#older.exhausted) {
      this.#older.overtaken(time, frame.op === "delete" ? null : frame.data);
      return null;
    }
    if (frame.op === "delete") return this.#bars.remove(time) ? { kind: "between" } : null;
    const placed = this.#bars.put(frame.data);
    if (placed === "between") return { kind: "between" };
    return { kind: "put", bar: frame.data, newest: placed !== "older" };
  }

  #beaten(heartbeat: Heartbeat): void {
    if (this.#snapshotDue || this.#isBeyond(heartbeat.epoch, heartbeat.seq)) this.#broken();
  }

  #startOver(): void {
    this.#position = null;
    this.#subscribe();
  }

  #isBeyond(epoch: string, seq: number): boolean {
    return epoch !== this.#position?.epoch || seq > this.#position.seq;
  }

  #hasReached(seq: number): boolean {
    return this.#position !== null && this.#position.seq >= seq;
  }

  #broken(): void {
    const now = this.#around.host.now();
    this.#breaks = now - this.#brokenAt < QUICK ? this.#breaks + 1 : 1;
    this.#brokenAt = now;
    if (this.#breaks >= BREAKS) this.#position = null;
    if (this.#breaks > BREAKS) {
      // Not even a snapshot fits what follows it; asking at network speed would help nobody.
      this.#awaited = "later";
      this.#cancelTimer();
      this.#cancelTimer = this.#around.host.after(backoff(this.#breaks, this.#around.host.random()), () => this.#subscribe());
      this.#enter("subscribing");
      return;
    }
    this.#subscribe();
  }

  #enter(phase: StreamPhase): void {
    this.#phase = phase;
    this.#tell();
  }

  #tell(): void {
    this.#state = this.#described();
    this.#states.tell();
  }

  #described(): StreamState {
    return {
      symbol: this.#symbol,
      resolution: this.#resolution,
      phase: this.#phase,
      failure: this.#failure,
      older: this.#older.phase,
      olderFailure: this.#older.failure,
      olderRetryAt: this.#older.retryAt,
      started: this.#started,
      count: this.#bars.list.length,
      first: this.#bars.first,
      previous: this.#bars.list.at(-2) ?? null,
      last: this.#bars.last,
      position: this.#position,
    };
  }
}
