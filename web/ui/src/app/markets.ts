/** The list of markets that match what was typed, kept fresh. */

import { useCallback, useEffect, useState } from "react";
import type { Client, ConnectionState, Market } from "../client";

const LIMIT = 50;
const TYPING = 150; // milliseconds of rest before a search is sent
const FRESH = 20_000;
const HOPING = 4_000; // while there are none, the first is looked for more often

export interface Markets {
  readonly query: string; // what `list` answers
  readonly list: readonly Market[] | null; // null until the first answer
  readonly failure: string | null;
  readonly busy: boolean;
}

export function useMarkets(client: Client, query: string, connection: ConnectionState): [Markets, () => void] {
  const [markets, setMarkets] = useState<Markets>({ query: "", list: null, failure: null, busy: true });
  const [again, setAgain] = useState(0);
  const refresh = useCallback(() => setAgain((count) => count + 1), []);
  const away = "reason" in connection;
  const none = markets.list?.length === 0;

  useEffect(() => {
    const request = new AbortController();
    setMarkets((before) => ({ ...before, busy: true }));
    const timer = setTimeout(
      () => {
        client.api.markets(query.trim(), LIMIT, request.signal).then(
          (list) => setMarkets({ query: query.trim(), list, failure: null, busy: false }),
          (error: unknown) => {
            if (request.signal.aborted) return;
            setMarkets((before) => ({ ...before, failure: error instanceof Error ? error.message : String(error), busy: false }));
          },
        );
      },
      query.trim() === markets.query ? 0 : TYPING,
    );
    return () => {
      clearTimeout(timer);
      request.abort();
    };
    // A connection that came back may lead to a daemon that knows other markets.
  }, [client, query, again, away]);

  useEffect(() => {
    const timer = setInterval(
      () => {
        if (document.visibilityState === "visible") refresh();
      },
      none ? HOPING : FRESH,
    );
    return () => clearInterval(timer);
  }, [none, refresh]);

  return [markets, refresh];
}
