import type { KeyboardEvent, ReactNode } from "react";
import type { Client, Market } from "../client";
import { arrow, decimalsOf, percentText, priceText } from "../format";
import { useStream, useStreamState } from "./hooks";
import { dayMove } from "./day";

interface Props {
  readonly client: Client;
  readonly market: Market;
  readonly selected: boolean;
  readonly quoted: boolean; // whether the row follows the price: subscriptions are limited
  readonly onSelect: () => void;
  readonly onKeyDown: (event: KeyboardEvent) => void;
}

export function MarketRow({ client, market, selected, quoted, onSelect, onKeyDown }: Props): ReactNode {
  const stream = useStream(client, quoted ? market.ticker : null, "1D", 2);
  const state = useStreamState(stream);
  const last = state?.last ?? null;
  const moved = state && dayMove(state);
  return (
    <li>
      <button
        type="button"
        className="market"
        data-testid="market"
        data-symbol={market.ticker}
        aria-current={selected ? "true" : undefined}
        onClick={onSelect}
        onKeyDown={onKeyDown}
      >
        <span className="market-name">
          <strong>{market.symbol}</strong>
          <span>{market.description || market.exchange}</span>
        </span>
        {last && moved && (
          <span className="market-price">
            <span>{priceText(last.close, decimalsOf([last], market.pricescale))}</span>
            <span className={moved.direction}>
              <i aria-hidden="true">{arrow(moved)}</i> {percentText(moved)}
            </span>
          </span>
        )}
      </button>
    </li>
  );
}
