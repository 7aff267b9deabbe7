/** Loading what lies before the first bar, while the stream goes on changing it. */

import { ApiError, type History, type HistoryWindow } from "./api";
import type { Bars } from "./bars";
import type { Host } from "./host";
import { spanOf } from "./resolutions";
import type { Bar } from "./wire";

const PAGE = 1000;

export type OlderPhase = "idle" | "loading" | "failed" | "exhausted";

type Fetch = (window: HistoryWindow, signal: AbortSignal) => Promise<History>;

export class Older {
  readonly #resolution: string;
  readonly #bars: Bars;
  readonly #fetch: Fetch;
  readonly #host: Pick<Host, "now" | "after">;
  readonly #changed: (added: boolean) => void;
  // Live changes to bars that an answer under way may hold in an earlier state; null is a deleted one.
  readonly #overtaking = new Map<number, Bar | null>();
  #phase: OlderPhase = "idle";
  #failure: string | null = null;
  #request: AbortController | null = null;
  #retryAt: number | null = null; // the end of the pause that the daemon asked for
  #cancelRetry: () => void = () => undefined;

  constructor(resolution: string, bars: Bars, fetch: Fetch, host: Pick<Host, "now" | "after">, changed: (added: boolean) => void) {
    this.#resolution = resolution;
    this.#bars = bars;
    this.#fetch = fetch;
    this.#host = host;
    this.#changed = changed;
  }

  get phase(): OlderPhase {
    return this.#phase;
  }

  /** When it will be tried again by itself, and no sooner; null where nothing is planned. */
  get retryAt(): number | null {
    return this.#retryAt;
  }

  get failure(): string | null {
    return this.#failure;
  }

  /** History begins with our first bar. */
  get exhausted(): boolean {
    return this.#phase === "exhausted";
  }

  async load(): Promise<void> {
    const first = this.#bars.first;
    if (this.#phase !== "idle" || !first) return;
    const request = new AbortController();
    this.#request = request;
    this.#enter("loading");
    try {
      const found = await this.#before(first.time, request.signal);
      if (this.#request === request) this.#arrived(found);
    } catch (error) {
      if (this.#request === request) this.#failed(error);
    }
  }

  /** A frame of the stream tells of a bar that may also be in the answer under way: the frame is newer. */
  overtaken(time: number, bar: Bar | null): void {
    if (this.#phase === "loading") this.#overtaking.set(time, bar);
  }

  /** Allow another attempt after a failure, unless the daemon asked for a pause that is not over. */
  forgive(): void {
    if (this.#phase === "failed" && this.#retryAt === null) this.#enter("idle");
  }

  /** The bars were replaced: whatever is under way no longer fits. */
  reset(): void {
    this.#request?.abort();
    this.#request = null;
    this.#cancelRetry();
    this.#retryAt = null;
    this.#overtaking.clear();
    this.#phase = "idle";
    this.#failure = null;
  }

  async #before(to: number, signal: AbortSignal): Promise<readonly Bar[]> {
    const window = (end: number): HistoryWindow => ({ from: end - PAGE * spanOf(this.#resolution), to: end, countback: PAGE });
    const answer = await this.#fetch(window(to), signal);
    if (answer.nextTime === null || answer.nextTime >= to) return answer.bars;
    return (await this.#fetch(window(answer.nextTime + 1), signal)).bars;
  }

  #arrived(found: readonly Bar[]): void {
    const byTime = new Map(found.map((bar) => [bar.time, bar]));
    for (const [time, bar] of this.#overtaking) {
      if (bar) byTime.set(time, bar);
      else byTime.delete(time);
    }
    this.#request = null;
    this.#overtaking.clear();
    const added = this.#bars.prepend([...byTime.values()]);
    // An answer of which nothing is older would be the same again.
    const exhausted = found.length === 0 || (added === 0 && byTime.size > 0);
    this.#enter(exhausted ? "exhausted" : "idle", added > 0);
  }

  #failed(error: unknown): void {
    this.#request = null;
    this.#overtaking.clear();
    this.#failure = error instanceof Error ? error.message : String(error);
    if (error instanceof ApiError && error.retryAfter !== null) {
      const pause = 1000 * error.retryAfter;
      this.#retryAt = this.#host.now() + pause;
      this.#cancelRetry = this.#host.after(pause, () => {
        this.#retryAt = null;
        this.forgive();
      });
    }
    this.#enter("failed");
  }

  #enter(phase: OlderPhase, added = false): void {
    this.#phase = phase;
    if (phase !== "failed") this.#failure = null;
    this.#changed(added);
  }
}
