import { type KeyboardEvent, type ReactNode, useEffect, useRef, useState } from "react";
import { type Bar, type BarStream, type ConnectionState, type Health, type Host, type Market, Painter, spanOf, type StreamState } from "../client";
import { NewestIcon } from "../app/icons";
import { Notice } from "../app/Notice";
import { NoBars } from "../app/Empty";
import { Countdown } from "../app/Countdown";
import { sentence, zoneName, zoneText } from "../format";
import type { Theme } from "../app/theme";
import { CandleChart } from "./candles";
import { Legend } from "./Legend";
import { Skeleton } from "./Skeleton";

interface Props {
  readonly host: Host;
  readonly symbol: string;
  readonly resolution: string;
  readonly market: Market | null;
  readonly health: Health | null;
  readonly stream: BarStream | null;
  readonly state: StreamState | null;
  readonly connection: ConnectionState;
  readonly theme: Theme;
  readonly elsewhere: (() => void) | null; // to a market that is there
}

export function ChartPanel({ host, symbol, resolution, market, health, stream, state, connection, theme, elsewhere }: Props): ReactNode {
  const plot = useRef<HTMLDivElement>(null);
  const chart = useRef<CandleChart | null>(null);
  const shown = useRef<BarStream | null>(null);
  const [hovered, setHovered] = useState<number | null>(null);
  const [atEdge, setAtEdge] = useState(true);

  useEffect(() => {
    if (!plot.current) return undefined;
    const made = new CandleChart(plot.current, {
      hovered: setHovered,
      atEdge: setAtEdge,
      wantsOlder: (first) => shown.current?.loadOlder(first),
    });
    chart.current = made;
    return () => {
      chart.current = null;
      made.remove();
    };
  }, []);

  useEffect(() => {
    if (!stream || !chart.current) return undefined;
    shown.current = stream;
    setAtEdge(true);
    chart.current.span(spanOf(resolution));
    const painter = new Painter(chart.current, stream, host);
    return () => {
      shown.current = null;
      painter.end();
    };
  }, [stream, resolution, host]);

  const pricescale = market?.pricescale ?? null;
  useEffect(() => chart.current?.scale(pricescale, shown.current?.bars ?? []), [pricescale, stream]);

  useEffect(() => chart.current?.repaint(shown.current?.bars ?? []), [theme]);

  // Once older bars may be asked for again, the view may still reach beyond the first.
  const older = state?.older;
  useEffect(() => {
    if (older === "idle") chart.current?.look();
  }, [older]);

  const span = spanOf(resolution);
  const phase = panelPhase(state, connection);
  const bars = stream?.bars ?? [];
  const at = hovered === null ? bars.length - 1 : indexAt(bars, hovered);
  const empty = state?.started === true && state.count === 0;

  const steer = (event: KeyboardEvent): void => {
    if (!chart.current || event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 50 : 5;
    const steering: Record<string, () => void> = {
      ArrowLeft: () => chart.current?.move(-far),
      ArrowRight: () => chart.current?.move(far),
      "+": () => chart.current?.zoom(1.25),
      "=": () => chart.current?.zoom(1.25),
      "-": () => chart.current?.zoom(0.8),
      End: () => chart.current?.toNewest(),
    };
    const turn = steering[event.key];
    if (!turn) return;
    event.preventDefault();
    turn();
  };

  return (
    <section
      id="chart"
      aria-label={`Chart of ${symbol}`}
      data-symbol={state?.symbol ?? symbol}
      data-resolution={state?.resolution ?? resolution}
      data-state={phase}
      data-bars={state?.count ?? 0}
      data-first={state?.first?.time}
      data-last={state?.last ? mirrored(state.last) : undefined}
      data-position={state?.position ? `${state.position.epoch}.${state.position.seq}` : undefined}
      data-older={older}
    >
      <div
        className="plot"
        ref={plot}
        role="application"
        tabIndex={0}
        aria-label="Candles. Arrow keys move, plus and minus zoom, End shows the newest."
        onKeyDown={steer}
      />
      <Legend bar={bars[at] ?? null} before={bars[at - 1] ?? null} resolution={resolution} newest={bars.slice(-20)} pricescale={pricescale} />
      <a
        className="attribution"
        href="https://www.tradingview.com/"
        target="_blank"
        rel="noopener noreferrer"
        title="TradingView Lightweight Charts™, Copyright © 2025 TradingView, Inc."
      >
        Charts by TradingView
      </a>
      <span className="zone" title={span < 86_400 ? `Times are in ${zoneName()}` : "Days are counted in UTC"} data-testid="zone">
        {zoneText(state?.last?.time ?? host.now() / 1000, span)}
      </span>
      {state?.older === "loading" && state.count > 0 && (
        <div className="chip" role="status" data-testid="older-loading">
          <span className="spinner" aria-hidden="true" /> Loading older bars
        </div>
      )}
      {state?.older === "failed" && (
        <div className="chip error" role="alert" data-testid="older-error">
          <span>
            Older bars could not be loaded. {sentence(state.olderFailure ?? "")} {state.olderRetryAt !== null && <Countdown to={state.olderRetryAt} />}
          </span>
          {state.olderRetryAt === null && (
            <button type="button" className="button small" onClick={() => stream?.retryOlder()}>
              Try again
            </button>
          )}
        </div>
      )}
      {!atEdge && (
        <button type="button" className="newest" aria-label="Show the newest bar" title="Newest bar (End)" onClick={() => chart.current?.toNewest()}>
          <NewestIcon />
        </button>
      )}
      {phase === "loading" && state?.started !== true && (
        <div className="over solid">
          <Skeleton />
        </div>
      )}
      {phase === "error" && (
        <div className="over solid">
          <Notice
            kind="error"
            title={`${symbol} cannot be shown`}
            action="Try again"
            onAction={() => stream?.retry()}
            testid="chart-error"
            other={
              elsewhere && (
                <button type="button" className="link" data-testid="elsewhere" onClick={elsewhere}>
                  Show another market
                </button>
              )
            }
          >
            <p>{sentence(state?.failure ?? "")}</p>
          </Notice>
        </div>
      )}
      {empty && phase !== "error" && (
        <div className="over solid">
          <NoBars symbol={symbol} health={health} />
        </div>
      )}
    </section>
  );
}

function panelPhase(state: StreamState | null, connection: ConnectionState): string {
  if (connection.phase === "reconnecting" || connection.phase === "offline") return connection.phase;
  if (state?.phase === "live") return "live";
  return state?.phase === "failed" ? "error" : "loading";
}

function mirrored({ time, open, high, low, close, volume }: Bar): string {
  return JSON.stringify({ time, open, high, low, close, volume });
}

function indexAt(bars: readonly Bar[], time: number): number {
  let low = 0;
  let high = bars.length - 1;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((bars[middle] as Bar).time < time) low = middle + 1;
    else high = middle;
  }
  return low;
}
