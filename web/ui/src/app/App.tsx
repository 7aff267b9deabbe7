import { type ReactNode, useCallback, useEffect, useRef, useState } from "react";
import { flushSync } from "react-dom";
import { ChartPanel } from "../chart/ChartPanel";
import { Skeleton } from "../chart/Skeleton";
import { type Client, type Host, isAway } from "../client";
import { sentence } from "../format";
import { ConnectionBadge, ConnectionNotice } from "./Connection";
import { Countdown } from "./Countdown";
import { NoMarkets } from "./Empty";
import { useHealth } from "./health";
import { useConnection, useStream, useStreamState } from "./hooks";
import { CloseIcon, Logo, MenuIcon, MoonIcon, SunIcon } from "./icons";
import { MarketList } from "./MarketList";
import { useMarket, useMarkets } from "./markets";
import { useMedia } from "./media";
import { Notice } from "./Notice";
import { usePlace } from "./place";
import { Quote } from "./Quote";
import { Resolutions } from "./Resolutions";
import { SignIn } from "./SignIn";
import { useTheme } from "./theme";

export function App({ client, host }: { client: Client; host: Host }): ReactNode {
  const [place, go] = usePlace();
  const [theme, toggleTheme] = useTheme();
  const [query, setQuery] = useState("");
  const [drawer, setDrawer] = useState(false);
  const search = useRef<HTMLInputElement>(null);
  const opener = useRef<HTMLButtonElement>(null);
  const narrow = useMedia("(max-width: 760px)");
  const connection = useConnection(client);
  const health = useHealth(client, connection);
  const [markets, refresh] = useMarkets(client, query, connection);
  const stream = useStream(client, place.symbol, place.resolution, 300);
  const state = useStreamState(stream);

  const first = markets.list?.[0]?.ticker;
  useEffect(() => {
    if (place.symbol === null && first !== undefined) go({ symbol: first }, "replace");
  }, [place.symbol, first, go]);

  useEffect(() => {
    const key = (event: globalThis.KeyboardEvent): void => {
      if (event.key === "Escape") setDrawer(false);
      const typing = event.target instanceof HTMLElement && event.target.matches("input, textarea, [contenteditable]");
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || (typing && event.target === search.current)) return;
      event.preventDefault();
      flushSync(() => setDrawer(true)); // an inert drawer takes no focus
      search.current?.focus();
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, []);

  const select = (symbol: string): void => {
    go({ symbol });
    setDrawer(false);
    if (narrow) opener.current?.focus();
  };

  const none = markets.list?.length === 0 && markets.query === "" && place.symbol === null;
  const market = useMarket(client, markets.list, place.symbol, state?.started === true);
  const locked = connection.phase === "locked";
  const resolve = useCallback((resolution: string) => go({ resolution }), [go]);
  return (
    <div className="frame" data-stale={isAway(connection) || undefined} data-locked={locked || undefined}>
      <a className="skip" href="#chart">
        Skip to the chart
      </a>
      <header className="top">
        <button
          ref={opener}
          type="button"
          className="icon-button drawer-opener"
          aria-label="Markets"
          aria-expanded={drawer}
          aria-controls="side"
          data-testid="open-markets"
          onClick={() => setDrawer(!drawer)}
        >
          <MenuIcon />
        </button>
        <span className="brand">
          <Logo /> candled
        </span>
        {health?.demo && (
          <span className="demo" role="note" data-testid="demo">
            <strong>Demo data</strong> <span>made-up markets, not real prices</span>
          </span>
        )}
        <span className="top-right">
          <ConnectionBadge connection={connection} />
          <button
            type="button"
            className="icon-button"
            data-testid="theme"
            aria-label={theme === "dark" ? "Use the light theme" : "Use the dark theme"}
            title={theme === "dark" ? "Light theme" : "Dark theme"}
            onClick={toggleTheme}
          >
            {theme === "dark" ? <SunIcon /> : <MoonIcon />}
          </button>
        </span>
      </header>
      <ConnectionNotice client={client} connection={connection} />
      <nav id="side" className={drawer ? "side open" : "side"} aria-label="Markets" inert={narrow && !drawer}>
        <div className="side-head">
          <h2>Markets</h2>
          <button type="button" className="icon-button" aria-label="Close" onClick={() => setDrawer(false)}>
            <CloseIcon />
          </button>
        </div>
        {!locked && (
          <MarketList
            client={client}
            markets={markets}
            query={query}
            selected={place.symbol}
            search={search}
            onQuery={setQuery}
            onSelect={select}
            onRetry={refresh}
          />
        )}
        <p className="side-foot">candled {health?.version}</p>
      </nav>
      {drawer && <div className="shade" aria-hidden="true" onClick={() => setDrawer(false)} />}
      <main className="main">
        {locked && <SignIn client={client} />}
        {!locked && place.symbol !== null && (
          <>
            <div className="bar">
              <Quote client={client} symbol={place.symbol} market={market} chart={state} />
              <Resolutions selected={place.resolution} onSelect={resolve} />
            </div>
            <ChartPanel
              host={host}
              symbol={place.symbol}
              resolution={place.resolution}
              market={market}
              health={health}
              stream={stream}
              state={state}
              connection={connection}
              theme={theme}
              elsewhere={first !== undefined && first !== place.symbol ? () => go({ symbol: first }) : null}
            />
          </>
        )}
        {none && !locked && <NoMarkets health={health} />}
        {!locked && place.symbol === null && markets.list === null && markets.failure === null && <Skeleton />}
        {!locked && place.symbol === null && markets.list === null && markets.failure !== null && (
          <Notice kind="error" title="Markets could not be loaded" {...(markets.retryAt === null ? { action: "Try again", onAction: refresh } : {})}>
            <p>
              {sentence(markets.failure)} {markets.retryAt !== null && <Countdown to={markets.retryAt} />}
            </p>
          </Notice>
        )}
      </main>
    </div>
  );
}
