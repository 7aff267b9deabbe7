/** One connection and the streams on it. A stream that several parts of the page show is subscribed once. */

import { Access } from "./access";
import { Api } from "./api";
import { Connection } from "./connection";
import type { Host } from "./host";
import { BarStream } from "./stream";
import type { Message } from "./wire";

interface Shared {
  readonly stream: BarStream;
  holders: number;
}

export interface Lease {
  readonly stream: BarStream;
  release(): void;
}

export class Client {
  readonly access = new Access();
  readonly api: Api;
  readonly connection: Connection;
  readonly #host: Host;
  readonly #shared = new Map<string, Shared>();
  #open = false;

  constructor(host: Host) {
    this.#host = host;
    this.api = new Api(host, this.access);
    this.access.onChange(() => {
      if (this.access.needed) this.connection.lock();
      else this.connection.start();
    });
    this.connection = new Connection(host, {
      opened: () => this.#opened(),
      closed: () => this.#closed(),
      received: (message) => this.#received(message),
    });
  }

  start(): void {
    this.connection.start();
  }

  stop(): void {
    this.connection.stop();
  }

  /** The stream of a symbol at a resolution until it is released; `bars` is how many to begin with. */
  lease(symbol: string, resolution: string, bars = 300): Lease {
    const key = JSON.stringify([symbol, resolution]);
    const shared = this.#shared.get(key) ?? this.#made(key, symbol, resolution, bars);
    shared.holders += 1;
    let held = true;
    return {
      stream: shared.stream,
      release: () => {
        if (!held) return;
        held = false;
        shared.holders -= 1;
        if (shared.holders === 0) this.#end(key, shared.stream);
      },
    };
  }

  #made(key: string, symbol: string, resolution: string, bars: number): Shared {
    const stream = new BarStream(symbol, resolution, bars, {
      host: this.#host,
      send: (message) => this.connection.send(message),
      history: (window, signal) => this.api.history(symbol, resolution, window, signal),
      proven: () => this.connection.proven(),
      unanswered: () => this.connection.giveUp("the server does not answer a subscription"),
    });
    const shared = { stream, holders: 0 };
    this.#shared.set(key, shared);
    if (this.#open) stream.opened();
    return shared;
  }

  #end(key: string, stream: BarStream): void {
    this.#shared.delete(key);
    // Two spellings of one name are one stream on the wire: the other spelling still needs it.
    const needed = [...this.#shared.values()].some((other) => other.stream.wireName === stream.wireName);
    stream.end(!needed);
  }

  #opened(): void {
    this.#open = true;
    const { key } = this.access;
    // Ahead of everything else: messages are answered in order.
    if (key !== null) this.connection.send({ action: "authenticate", key });
    for (const { stream } of [...this.#shared.values()]) stream.opened();
  }

  #closed(): void {
    this.#open = false;
    for (const { stream } of [...this.#shared.values()]) stream.closed();
  }

  #received(message: Message): void {
    if (message.type === "error" && message.code === "unauthorized") {
      this.access.refused(this.access.key);
      return;
    }
    for (const { stream } of [...this.#shared.values()]) stream.received(message);
  }
}
