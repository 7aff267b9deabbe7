/** One WebSocket that comes back: backoff with jitter, and proof of life, because a dead network is silent. */

import { backoff } from "./backoff";
import type { Host, Socket } from "./host";
import { Listeners } from "./listeners";
import { type Message, parsed } from "./wire";

const OPENING = 10_000; // a handshake takes at most this
const SILENCE = 20_000; // the daemon says something on each stream every 15 s
const PONG = 5_000;
const HOPEFUL = 3; // failed attempts before "reconnecting" is called "offline"

export type ConnectionState =
  | { readonly phase: "connecting" | "live" }
  | { readonly phase: "locked" } // nobody may connect without a key
  | {
      readonly phase: "reconnecting" | "offline";
      readonly reason: string;
      readonly retryAt: number | null; // null while trying, or while only the network's return helps
    };

/** Whether nothing can be asked. */
export function isAway(state: ConnectionState): boolean {
  return "reason" in state || state.phase === "locked";
}

export interface Receiver {
  opened(): void;
  closed(): void;
  received(message: Message): void;
}

export class Connection {
  readonly #host: Host;
  readonly #receiver: Receiver;
  readonly #changed = new Listeners();
  #state: ConnectionState = { phase: "connecting" };
  #socket: Socket | null = null;
  #open = false;
  #attempt = 0;
  #cancelTimer: () => void = () => undefined;
  #stopWaking: (() => void) | null = null;

  constructor(host: Host, receiver: Receiver) {
    this.#host = host;
    this.#receiver = receiver;
  }

  get state(): ConnectionState {
    return this.#state;
  }

  onChange(listener: () => void): () => void {
    return this.#changed.add(listener);
  }

  start(): void {
    if (this.#stopWaking) return;
    this.#stopWaking = this.#host.onWake(() => this.#woken());
    this.#connect();
  }

  stop(): void {
    this.#end("connecting");
  }

  /** As `stop`, until there is a key to start with. */
  lock(): void {
    this.#end("locked");
  }

  /** Try now, whatever the timetable says. */
  retry(): void {
    if (this.#stopWaking && !this.#open) this.#connect();
  }

  /** Send if there is a connection; false means there is none. */
  send(message: object): boolean {
    if (!this.#open || !this.#socket) return false;
    try {
      this.#socket.send(JSON.stringify(message));
      return true;
    } catch {
      return false; // closing: the close event follows
    }
  }

  /** The other side is there but makes no sense: start afresh. */
  giveUp(reason: string): void {
    if (this.#socket) this.#lost(reason);
  }

  /** A stream works: the next failure is the first one again. */
  proven(): void {
    this.#attempt = 0;
  }

  #end(phase: "connecting" | "locked"): void {
    const wasOpen = this.#open;
    this.#stopWaking?.();
    this.#stopWaking = null;
    this.#attempt = 0;
    this.#drop();
    if (wasOpen) this.#receiver.closed();
    this.#tell({ phase });
  }

  #connect(): void {
    this.#drop();
    let socket: Socket;
    try {
      socket = this.#host.socket();
    } catch {
      this.#lost("the browser refused to open a connection");
      return;
    }
    this.#socket = socket;
    if (this.#state.phase === "locked") this.#tell({ phase: "connecting" });
    if ("reason" in this.#state) this.#tell(this.#failing({ reason: this.#state.reason, retryAt: null }));
    socket.onopen = () => this.#opened();
    socket.onmessage = (event) => this.#received(event.data);
    socket.onclose = (event) => this.#lost(closeReason(event.code, event.reason, this.#open), event.code);
    this.#in(OPENING, () => this.#lost("the server does not answer"));
  }

  #opened(): void {
    this.#open = true;
    this.#listenFor(SILENCE);
    this.#tell({ phase: "live" });
    this.#receiver.opened();
  }

  #received(text: unknown): void {
    this.#listenFor(SILENCE);
    const message = parsed(text);
    if (message) this.#receiver.received(message);
  }

  #listenFor(milliseconds: number): void {
    this.#in(milliseconds, () => {
      this.send({ action: "ping" });
      this.#in(PONG, () => this.#lost("the server fell silent"));
    });
  }

  #woken(): void {
    // Also without a network an open connection is only asked, not dropped: it may lead to this very machine.
    if (this.#open) this.#listenFor(0);
    else if (!this.#socket) this.#connect();
  }

  #lost(reason: string, code = 0): void {
    const wasOpen = this.#open;
    this.#drop();
    if (wasOpen) this.#receiver.closed();
    this.#attempt += 1;
    // 1001: the daemon is going away, and everyone was told at once.
    const pause = backoff(code === 1001 ? Math.max(2, this.#attempt) : this.#attempt, this.#host.random());
    this.#in(pause, () => this.#connect());
    this.#tell(this.#failing({ reason, retryAt: this.#host.now() + pause }));
  }

  #failing(about: { reason: string; retryAt: number | null }): ConnectionState {
    if (!this.#host.online()) return { phase: "offline", reason: "this device has no network", retryAt: about.retryAt };
    return { phase: this.#attempt > HOPEFUL ? "offline" : "reconnecting", reason: about.reason, retryAt: about.retryAt };
  }

  #drop(): void {
    this.#cancelTimer();
    this.#open = false;
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
    try {
      socket.close();
    } catch {
      // It was never open; there is nothing to close.
    }
  }

  #in(milliseconds: number, run: () => void): void {
    this.#cancelTimer();
    this.#cancelTimer = this.#host.after(milliseconds, run);
  }

  #tell(state: ConnectionState): void {
    this.#state = state;
    this.#changed.tell();
  }
}

function closeReason(code: number, reason: string, wasOpen: boolean): string {
  if (code === 1001) return "the server is restarting";
  if (code === 1008) return "the server refused this page";
  if (code === 1013) return "the server is busy";
  if (reason !== "") return reason;
  return wasOpen ? "the connection was lost" : "the server does not answer";
}
