/** Bars of one market on a series of Lightweight Charts (or anything like it), kept up to date until told to stop. */

import { Client } from "./client";
import { type Host, browserHost } from "./host";
import { type Canvas, Painter } from "./painter";
import type { BarStream } from "./stream";
import type { Bar } from "./wire";

/** What is needed of a series of candles. */
export interface CandleSeries {
  setData(rows: readonly object[]): void;
  update(row: object, historical?: boolean): void;
}

export interface Attached {
  readonly client: Client;
  readonly stream: BarStream;
  stop(): void;
}

export interface AttachOptions {
  readonly symbol: string;
  readonly resolution: string;
  readonly url?: string; // of the daemon; without it, the page's own
  readonly key?: string; // where reading needs one
  readonly bars?: number; // to begin with
  readonly onState?: (attached: Attached) => void; // of the connection or the stream
  readonly host?: Host;
}

/** A canvas of nothing but a series of candles, and one of volumes where it is given. */
export function onSeries(candles: CandleSeries, volumes?: CandleSeries): Canvas {
  const volume = ({ time, volume }: Bar): object => ({ time, value: volume });
  return {
    load(bars) {
      candles.setData([]); // version 5.2 mixes up its times where a series is loaded twice without this
      candles.setData(bars);
      volumes?.setData([]);
      volumes?.setData(bars.map(volume));
    },
    update(bar, newest) {
      candles.update(bar, !newest);
      volumes?.update(volume(bar), !newest);
    },
  };
}

export function attach(candles: CandleSeries, options: AttachOptions, volumes?: CandleSeries): Attached {
  const host = options.host ?? browserHost(options.url);
  const client = new Client(host);
  const lease = client.lease(options.symbol, options.resolution, options.bars);
  const painter = new Painter(onSeries(candles, volumes), lease.stream, host);
  const attached: Attached = {
    client,
    stream: lease.stream,
    stop() {
      painter.end();
      lease.release();
      client.stop();
    },
  };
  const { onState } = options;
  if (onState) {
    client.connection.onChange(() => onState(attached));
    lease.stream.onState(() => onState(attached));
  }
  if (options.key !== undefined) client.access.granted(options.key);
  client.start();
  return attached;
}
