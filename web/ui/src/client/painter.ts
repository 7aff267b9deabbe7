/** Carries a stream's changes to a chart, many at a time, and never lets the chart's exceptions out. */

import type { Host } from "./host";
import type { BarStream, Change } from "./stream";
import type { Bar } from "./wire";

const FRAME = 16; // a timer, not an animation frame: a hidden page keeps its chart up to date
const MANY = 50; // more changed bars than this are cheaper as one full load

/** What a chart must be able to do. Each may throw. */
export interface Canvas {
  load(bars: readonly Bar[], fresh: boolean): void; // fresh: the first bars of this stream
  update(bar: Bar, newest: boolean): void;
}

export class Painter {
  readonly #canvas: Canvas;
  readonly #stream: BarStream;
  readonly #host: Host;
  readonly #stop: () => void;
  readonly #changed = new Map<number, { bar: Bar; newest: boolean }>();
  #reload = true;
  #empty = true;
  #cancel: (() => void) | null = null;

  constructor(canvas: Canvas, stream: BarStream, host: Host) {
    this.#canvas = canvas;
    this.#stream = stream;
    this.#host = host;
    this.#stop = stream.onChange((change) => this.#note(change));
    this.#paint();
  }

  end(): void {
    this.#stop();
    this.#cancel?.();
  }

  #note(change: Change): void {
    if (change.kind === "put") this.#changed.set(change.bar.time, { bar: change.bar, newest: change.newest });
    else this.#reload = true;
    this.#cancel ??= this.#host.after(FRAME, () => this.#paint());
  }

  #paint(): void {
    this.#cancel = null;
    const changed = [...this.#changed.values()].sort((a, b) => a.bar.time - b.bar.time);
    const fresh = this.#empty;
    const whole = this.#reload || fresh || changed.length > MANY;
    this.#changed.clear();
    this.#reload = false;
    this.#empty = this.#stream.bars.length === 0;
    try {
      if (whole) this.#canvas.load(this.#stream.bars, fresh);
      else for (const { bar, newest } of changed) this.#canvas.update(bar, newest);
    } catch (error) {
      console.error("the chart refused a change, loading all bars again", error);
      this.#loadAgain();
    }
  }

  #loadAgain(): void {
    try {
      this.#canvas.load(this.#stream.bars, false);
    } catch (error) {
      this.#reload = true; // the next change tries once more
      console.error("the chart refused its bars", error);
    }
  }
}
