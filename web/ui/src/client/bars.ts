import type { Bar } from "./wire";

export type Placed = "append" | "newest" | "older" | "between";

/** The bars of one stream in ascending order of time, each time once. */
export class Bars {
  #list: Bar[] = [];

  get list(): readonly Bar[] {
    return this.#list;
  }

  get first(): Bar | null {
    return this.#list[0] ?? null;
  }

  get last(): Bar | null {
    return this.#list.at(-1) ?? null;
  }

  /** Forget everything and keep these instead. */
  replace(bars: readonly Bar[]): void {
    this.#list = ordered(bars);
  }

  /** Keep this state of a bar; says where it went. */
  put(bar: Bar): Placed {
    const last = this.last;
    if (!last || bar.time > last.time) {
      this.#list.push(bar);
      return "append";
    }
    const at = this.#at(bar.time);
    if (this.#list[at]?.time !== bar.time) {
      this.#list.splice(at, 0, bar);
      return "between";
    }
    this.#list[at] = bar;
    return at === this.#list.length - 1 ? "newest" : "older";
  }

  /** Drop the bar at `time`; false when there was none. */
  remove(time: number): boolean {
    const at = this.#at(time);
    if (this.#list[at]?.time !== time) return false;
    this.#list.splice(at, 1);
    return true;
  }

  /** Put older bars in front; those not older than the first are ignored. Returns how many were kept. */
  prepend(bars: readonly Bar[]): number {
    const first = this.first;
    const older = ordered(first ? bars.filter((bar) => bar.time < first.time) : bars);
    this.#list = [...older, ...this.#list];
    return older.length;
  }

  /** Index of the first bar at or after `time`. */
  #at(time: number): number {
    let low = 0;
    let high = this.#list.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#list[middle] as Bar).time < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function ordered(bars: readonly Bar[]): Bar[] {
  const byTime = new Map(bars.map((bar) => [bar.time, bar]));
  return [...byTime.values()].sort((a, b) => a.time - b.time);
}
