import { type KeyboardEvent, type ReactNode, type RefObject, useRef } from "react";
import type { Client } from "../client";
import { sentence } from "../format";
import { Countdown } from "./Countdown";
import { CloseIcon, SearchIcon } from "./icons";
import { MarketRow } from "./MarketRow";
import type { Markets } from "./markets";

const QUOTED = 24; // rows that follow their price; a connection may hold 50 streams

interface Props {
  readonly client: Client;
  readonly markets: Markets;
  readonly query: string;
  readonly selected: string | null;
  readonly search: RefObject<HTMLInputElement | null>;
  readonly onQuery: (query: string) => void;
  readonly onSelect: (symbol: string) => void;
  readonly onRetry: () => void;
}

export function MarketList({ client, markets, query, selected, search, onQuery, onSelect, onRetry }: Props): ReactNode {
  const list = useRef<HTMLUListElement>(null);
  const rows = markets.list ?? [];

  const step = (event: KeyboardEvent): void => {
    const buttons = [...(list.current?.querySelectorAll("button") ?? [])];
    const at = buttons.indexOf(document.activeElement as HTMLButtonElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || (at < 0 && event.key !== "ArrowDown")) return;
    event.preventDefault();
    if (to < 0) search.current?.focus();
    else buttons[Math.min(to, buttons.length - 1)]?.focus();
  };

  const searching = (event: KeyboardEvent): void => {
    if (event.key === "Enter" && rows[0] && markets.query === query.trim()) onSelect(rows[0].ticker);
    else if (event.key === "Escape" && query !== "") {
      event.stopPropagation();
      onQuery("");
    } else step(event);
  };

  return (
    <>
      <div className="search" role="search">
        <SearchIcon />
        <input
          ref={search}
          type="search"
          value={query}
          placeholder="Search markets"
          aria-label="Search markets"
          aria-controls="markets"
          autoComplete="off"
          autoCapitalize="characters"
          spellCheck={false}
          data-testid="search"
          onChange={(event) => onQuery(event.target.value)}
          onKeyDown={searching}
        />
        {query === "" ? (
          <kbd aria-hidden="true">/</kbd>
        ) : (
          <button type="button" className="icon-button" aria-label="Clear the search" onClick={() => onQuery("")}>
            <CloseIcon />
          </button>
        )}
      </div>
      {markets.failure !== null && (markets.list !== null || selected !== null) && (
        <div className="list-note error" role="alert" data-testid="markets-error">
          <p>
            Markets could not be loaded. {sentence(markets.failure)} {markets.retryAt !== null && <Countdown to={markets.retryAt} />}
          </p>
          {markets.retryAt === null && (
            <button type="button" className="button small" onClick={onRetry}>
              Try again
            </button>
          )}
        </div>
      )}
      <ul id="markets" ref={list} aria-label="Markets" aria-busy={markets.busy} data-testid="markets">
        {rows.map((market, at) => (
          <MarketRow
            key={market.ticker}
            client={client}
            market={market}
            selected={market.ticker === selected}
            quoted={at < QUOTED}
            onSelect={() => onSelect(market.ticker)}
            onKeyDown={step}
          />
        ))}
        {markets.list === null && markets.failure === null && <Placeholders />}
      </ul>
      {markets.list?.length === 0 && (
        <p className="list-note" data-testid="no-matches">
          {markets.query === "" ? "No markets yet." : `No market matches “${markets.query}”.`}
        </p>
      )}
    </>
  );
}

function Placeholders(): ReactNode {
  return [0, 1, 2].map((row) => (
    <li key={row} className="placeholder" aria-hidden="true">
      <span />
      <span />
    </li>
  ));
}
