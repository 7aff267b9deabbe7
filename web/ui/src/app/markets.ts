/** The list of markets that match what was typed, kept fresh; and the one that is shown. */

import { useCallback, useEffect, useRef, useState } from "react";
import { ApiError, type Client, type ConnectionState, isAway, type Market } from "../client";

const LIMIT = 50;
const TYPING = 150; // milliseconds of rest before a search is sent
const FRESH = 20_000;
const HOPING = 4_000; // while there are none, the first is looked for more often

export interface Markets {
  readonly query: string; // what `list` answers
  readonly list: readonly Market[] | null; // null until the first answer
  readonly failure: string | null;
  readonly retryAt: number | null; // milliseconds: tried again then, and no sooner
  readonly busy: boolean;
}

const UNKNOWN: Markets = { query: "", list: null, failure: null, retryAt: null, busy: true };

export function useMarkets(client: Client, query: string, connection: ConnectionState): [Markets, () => void] {
  const [markets, setMarkets] = useState(UNKNOWN);
  const [again, setAgain] = useState(0);
  const refresh = useCallback(() => setAgain((count) => count + 1), []);
  const away = isAway(connection);
  const locked = connection.phase === "locked";
  const none = markets.list?.length === 0;
  const { retryAt } = markets;

  useEffect(() => {
    if (locked) return undefined;
    const request = new AbortController();
    setMarkets((before) => ({ ...before, busy: true }));
    const pause = Math.max(query.trim() === markets.query ? 0 : TYPING, (retryAt ?? 0) - Date.now());
    const timer = setTimeout(() => {
      client.api.markets(query.trim(), LIMIT, request.signal).then(
        (list) => setMarkets({ query: query.trim(), list, failure: null, retryAt: null, busy: false }),
        (error: unknown) => {
          if (request.signal.aborted) return;
          const failure = error instanceof Error ? error.message : String(error);
          const after = error instanceof ApiError ? error.retryAfter : null;
          setMarkets((before) => ({ ...before, failure, retryAt: after === null ? null : Date.now() + 1000 * after, busy: false }));
        },
      );
    }, pause);
    return () => {
      clearTimeout(timer);
      request.abort();
    };
    // A connection that came back may lead to a daemon that knows other markets.
  }, [client, query, again, away, locked, retryAt]);

  useEffect(() => {
    const timer = setInterval(
      () => {
        if (document.visibilityState === "visible" && retryAt === null) refresh();
      },
      none ? HOPING : FRESH,
    );
    return () => clearInterval(timer);
  }, [none, refresh, retryAt]);

  return [markets, refresh];
}

/** The description of a market, also while a search lists only others; it is asked for once the market is known to be there. */
export function useMarket(client: Client, list: readonly Market[] | null, symbol: string | null, exists: boolean): Market | null {
  const known = useRef(new Map<string, Market>());
  const [, setCount] = useState(0);
  for (const market of list ?? []) known.current.set(market.ticker, market);
  const found = symbol === null ? null : (known.current.get(symbol) ?? null);
  const missing = list !== null && exists && found === null ? symbol : null;
  useEffect(() => {
    if (missing === null) return undefined;
    const request = new AbortController();
    client.api.market(missing, request.signal).then(
      (market) => {
        if (market) known.current.set(missing, market);
        setCount((count) => count + 1);
      },
      () => undefined, // the chart says what is wrong
    );
    return () => request.abort();
  }, [client, missing]);
  return found;
}
