/** A small world for the client: a clock that tests move, and sockets that lead to a small daemon or nowhere. */

import { setImmediate } from "node:timers/promises";
import type { Answer, Host, Socket } from "../src/client";
import type { Daemon } from "./daemon";

interface Timer {
  readonly at: number;
  readonly run: () => void;
}

export class Wire implements Socket {
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  readonly sent: Record<string, unknown>[] = [];
  closed = false;
  answer: (message: Record<string, unknown>) => void = () => undefined;

  send(text: string): void {
    const message = JSON.parse(text) as Record<string, unknown>;
    this.sent.push(message);
    this.answer(message);
  }

  close(): void {
    this.closed = true;
  }

  open(): void {
    this.onopen?.();
  }

  say(message: object | string): void {
    this.onmessage?.({ data: typeof message === "string" ? message : JSON.stringify(message) });
  }

  cut(code = 1006, reason = ""): void {
    this.closed = true;
    this.onclose?.({ code, reason });
  }
}

export class World implements Host {
  readonly wires: Wire[] = [];
  readonly asked: string[] = [];
  daemon: Daemon | null = null;
  network = true;
  answers: (path: string, key: string | null) => Promise<Answer> = () => Promise.reject(new TypeError("nobody answers"));
  #now = 1_000_000;
  #timers = new Set<Timer>();
  #wake = new Set<() => void>();

  get wire(): Wire {
    const last = this.wires.at(-1);
    if (!last) throw new Error("no socket was opened");
    return last;
  }

  now(): number {
    return this.#now;
  }

  random(): number {
    return 0.5;
  }

  online(): boolean {
    return this.network;
  }

  after(milliseconds: number, run: () => void): () => void {
    const timer = { at: this.#now + milliseconds, run };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  socket(): Socket {
    const wire = new Wire();
    this.wires.push(wire);
    this.daemon?.accept(wire);
    return wire;
  }

  async get(path: string, signal: AbortSignal, key: string | null): Promise<Answer> {
    this.asked.push(path);
    const answer = await this.answers(path, key);
    signal.throwIfAborted();
    return answer;
  }

  onWake(run: () => void): () => void {
    this.#wake.add(run);
    return () => this.#wake.delete(run);
  }

  wake(): void {
    for (const run of this.#wake) run();
  }

  /** Let time pass, running what falls due in order. */
  pass(milliseconds: number): void {
    const end = this.#now + milliseconds;
    for (;;) {
      const due = [...this.#timers].filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
      if (!due) break;
      this.#timers.delete(due);
      this.#now = Math.max(this.#now, due.at);
      due.run();
    }
    this.#now = end;
  }
}

/** Let every promise that can settle do so. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn += 1) await setImmediate();
}
