import type { ReactNode } from "react";
import { type Bar, spanOf } from "../client";
import { amountText, arrow, decimalsOf, move, percentText, priceText, timeText, volumeText, zoneText } from "../format";

interface Props {
  readonly bar: Bar | null;
  readonly before: Bar | null;
  readonly resolution: string;
  readonly newest: readonly Bar[];
  readonly pricescale: number | null;
}

/** Open, high, low, close and volume of the bar under the crosshair, or of the newest. */
export function Legend({ bar, before, resolution, newest, pricescale }: Props): ReactNode {
  if (!bar) return null;
  const decimals = decimalsOf([...newest, bar], pricescale);
  const span = spanOf(resolution);
  const moved = move(before?.close ?? bar.open, bar.close);
  const up = bar.close >= bar.open ? "up" : "down";
  const figures: [string, number][] = [
    ["O", bar.open],
    ["H", bar.high],
    ["L", bar.low],
    ["C", bar.close],
  ];
  return (
    <div className="legend" data-testid="legend" data-time={bar.time}>
      <time dateTime={new Date(bar.time * 1000).toISOString()}>
        {timeText(bar.time, span)} {span < 86_400 && zoneText(bar.time, span)}
      </time>
      <span className="legend-row">
        {figures.map(([name, price]) => (
          <span key={name}>
            <abbr>{name}</abbr>{" "}
            <b className={up}>{priceText(price, decimals)}</b>
          </span>
        ))}
        <span className={moved.direction}>
          <i aria-hidden="true">{arrow(moved)}</i> {amountText(moved, decimals)} ({percentText(moved)})
        </span>
        <span>
          <abbr>Vol</abbr>{" "}
          <b>{volumeText(bar.volume)}</b>
        </span>
        {bar.trades !== undefined && (
          <span>
            <abbr>Trades</abbr>{" "}
            <b>{bar.trades.toLocaleString("en-US")}</b>
          </span>
        )}
      </span>
    </div>
  );
}
