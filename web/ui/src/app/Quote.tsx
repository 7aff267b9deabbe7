import { type ReactNode, useEffect } from "react";
import type { Client, Market, StreamState } from "../client";
import { amountText, arrow, decimalsOf, percentText, priceText, volumeText } from "../format";
import { useStream, useStreamState } from "./hooks";
import { dayMove } from "./day";

interface Props {
  readonly client: Client;
  readonly symbol: string;
  readonly market: Market | null;
  readonly chart: StreamState | null;
}

/** The market's name, last price and day. */
export function Quote({ client, symbol, market, chart }: Props): ReactNode {
  const day = useStreamState(useStream(client, symbol, "1D", 2));
  const last = chart?.last ?? day?.last ?? null;
  const decimals = last ? decimalsOf([last, day?.last ?? last], market?.pricescale) : 2;
  const price = last && priceText(last.close, decimals);
  const moved = day && dayMove(day);

  useEffect(() => {
    document.title = price === null ? `${symbol} · candled` : `${price} ${symbol} · candled`;
  }, [price, symbol]);

  return (
    <div className="quote">
      <div className="quote-name">
        <h1 data-testid="symbol">{market?.symbol ?? symbol}</h1>
        <p>{[market?.description, market?.exchange].filter(Boolean).join(" · ")}</p>
      </div>
      {price !== null && (
        <div className="quote-price">
          <span className={moved?.direction} data-testid="price">
            {price}
          </span>
          {moved && (
            <span className={`change ${moved.direction}`} data-testid="change" title="Since the close of the day before (UTC)">
              <i aria-hidden="true">{arrow(moved)}</i> {amountText(moved, decimals)} <span>{percentText(moved)}</span>
            </span>
          )}
        </div>
      )}
      {day?.last && (
        <dl className="quote-day">
          <Figure name="high">{priceText(day.last.high, decimals)}</Figure>
          <Figure name="low">{priceText(day.last.low, decimals)}</Figure>
          <Figure name="volume">{volumeText(day.last.volume)}</Figure>
        </dl>
      )}
    </div>
  );
}

function Figure({ name, children }: { name: string; children: string }): ReactNode {
  return (
    <div>
      <dt>
        <span>Day </span>
        <b>{name}</b>
      </dt>
      <dd>{children}</dd>
    </div>
  );
}
