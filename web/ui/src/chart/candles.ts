/** Candles and volume on lightweight-charts. */

import {
  CandlestickSeries,
  type CandlestickData,
  ColorType,
  createChartEx,
  CrosshairMode,
  HistogramSeries,
  type HistogramData,
  type IChartApiBase,
  type IPriceLine,
  type ISeriesApi,
  LineStyle,
  type Time,
  type UTCTimestamp,
} from "lightweight-charts";
import type { Bar, Canvas } from "../client";
import { decimalsOf, priceText, timeText, volumeText } from "../format";
import { type Palette, palette } from "./palette";
import { type LocalTimes, localTimes } from "./times";

const SPACING = 9; // pixels a bar
const WIDEST = 24; // pixels a bar where there are few
const SCALE = 76; // pixels that the price scale takes
const MARGIN = 6; // empty bars right of the newest
const NEAR = 60; // bars from the oldest at which older ones are wanted
const SAMPLE = 50; // newest bars that decide how many decimals prices have

export interface Watcher {
  hovered(time: number | null): void;
  wantsOlder(first: number): void; // than the bar that begins then, which is the first one shown
  atEdge(newestInView: boolean): void;
}

export class CandleChart implements Canvas {
  readonly #element: HTMLElement;
  readonly #watcher: Watcher;
  readonly #times = localTimes();
  readonly #chart: IChartApiBase<Time>;
  readonly #candles: ISeriesApi<"Candlestick">;
  readonly #volume: ISeriesApi<"Histogram">;
  readonly #last: IPriceLine;
  #palette: Palette;
  #decimals = 2;
  #pricescale: number | null = null;
  #span = 60; // seconds a bar
  #count = 0;
  #first: number | undefined;
  #loading = false; // one series has other bars than the other
  #newest: number | undefined;
  #sparse = false; // so few bars that they stand wide in the middle

  constructor(element: HTMLElement, watcher: Watcher) {
    this.#element = element;
    this.#watcher = watcher;
    this.#palette = palette(element);
    this.#chart = createChartEx<Time, LocalTimes>(element, this.#times, {
      autoSize: true,
      // The library's mark brings a style sheet of its own, which a strict policy refuses: ours is in ChartPanel.
      layout: { attributionLogo: false },
      crosshair: { mode: CrosshairMode.Normal },
      rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.14, bottom: 0.24 } },
      timeScale: {
        borderVisible: false,
        barSpacing: SPACING,
        rightOffset: MARGIN,
        minBarSpacing: 1,
      },
      localization: { locale: "en-GB", dateFormat: "dd MMM yyyy", timeFormatter: (time: Time) => timeText(time as number, this.#span) },
    });
    // The series' own label follows what is in view; ours follows the last price.
    this.#candles = this.#chart.addSeries(CandlestickSeries, { priceLineVisible: false, lastValueVisible: false });
    this.#last = this.#candles.createPriceLine({ price: 0, lineStyle: LineStyle.Dotted, lineWidth: 1, lineVisible: false, axisLabelVisible: false });
    this.#volume = this.#chart.addSeries(HistogramSeries, {
      priceScaleId: "",
      lastValueVisible: false,
      priceLineVisible: false,
      priceFormat: { type: "custom", minMove: 1e-8, formatter: volumeText },
    });
    this.#volume.priceScale().applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    this.#paint();
    this.#format();
    this.#chart.subscribeCrosshairMove(({ time }) => watcher.hovered(typeof time === "number" ? time : null));
    this.#chart.timeScale().subscribeVisibleLogicalRangeChange(() => this.look());
  }

  load(bars: readonly Bar[], fresh: boolean): void {
    this.#count = bars.length;
    this.#first = bars[0]?.time;
    this.#newest = bars.at(-1)?.time;
    this.#measure(bars);
    this.#loading = true;
    try {
      this.#candles.setData(bars.map(candle));
      this.#volume.setData(bars.map((bar) => this.#column(bar)));
      this.#mark(bars.at(-1));
      if (fresh || this.#sparse) this.toNewest();
    } finally {
      this.#loading = false;
    }
    this.look();
  }

  update(bar: Bar, newest: boolean): void {
    this.#candles.update(candle(bar), !newest);
    this.#volume.update(this.#column(bar), !newest);
    if (!newest) return;
    this.#mark(bar);
    if (bar.time !== this.#newest) this.#count += 1;
    this.#newest = bar.time;
  }

  /** Say what is in view: whether older bars are wanted, and whether the newest can be seen. */
  look(): void {
    const range = this.#chart.timeScale().getVisibleLogicalRange();
    if (!range || this.#first === undefined || this.#loading) return;
    if (range.from < NEAR) this.#watcher.wantsOlder(this.#first);
    this.#watcher.atEdge(range.to >= this.#count - 2);
  }

  /** Bars of so many seconds follow. */
  span(seconds: number): void {
    this.#span = seconds;
    this.#times.local = seconds < 86_400;
    this.#chart.timeScale().applyOptions({ secondsVisible: seconds < 60, timeVisible: seconds < 86_400 });
  }

  /** How finely the market's prices are told; null where it is not known. */
  scale(pricescale: number | null, bars: readonly Bar[]): void {
    this.#pricescale = pricescale;
    this.#measure(bars);
  }

  /** Colours have changed. */
  repaint(bars: readonly Bar[]): void {
    this.#palette = palette(this.#element);
    this.#paint();
    this.#volume.setData(bars.map((bar) => this.#column(bar)));
    this.#mark(bars.at(-1));
  }

  toNewest(): void {
    const width = Math.max(0, this.#element.clientWidth - SCALE);
    const barSpacing = Math.min(WIDEST, Math.max(SPACING, (width * 0.6) / Math.max(1, this.#count)));
    const rightOffset = Math.max(MARGIN, Math.floor((width / barSpacing - this.#count) / 2));
    this.#sparse = rightOffset > MARGIN;
    this.#chart.timeScale().applyOptions({ barSpacing, rightOffset });
    this.#chart.timeScale().scrollToPosition(rightOffset, false);
    this.#candles.priceScale().applyOptions({ autoScale: true });
  }

  /** Move by so many bars; negative is into the past. */
  move(bars: number): void {
    const scale = this.#chart.timeScale();
    scale.scrollToPosition(scale.scrollPosition() + bars, false);
  }

  zoom(factor: number): void {
    const scale = this.#chart.timeScale();
    const spacing = scale.options().barSpacing * factor;
    scale.applyOptions({ barSpacing: Math.min(60, Math.max(1, spacing)) });
  }

  remove(): void {
    this.#chart.remove();
  }

  #mark(bar: Bar | undefined): void {
    if (!bar) {
      this.#last.applyOptions({ lineVisible: false, axisLabelVisible: false });
      return;
    }
    const color = bar.close < bar.open ? this.#palette.down : this.#palette.up;
    this.#last.applyOptions({ price: bar.close, color, axisLabelColor: color, axisLabelTextColor: this.#palette.onPrice, lineVisible: true, axisLabelVisible: true });
  }

  #measure(bars: readonly Bar[]): void {
    const decimals = decimalsOf(bars.slice(-SAMPLE), this.#pricescale);
    if (decimals === this.#decimals) return;
    this.#decimals = decimals;
    this.#format();
  }

  #format(): void {
    const decimals = this.#decimals;
    this.#candles.applyOptions({
      priceFormat: { type: "custom", minMove: 10 ** -decimals, formatter: (price: number) => priceText(price, decimals) },
    });
  }

  #paint(): void {
    const { text, grid, line, label, up, down, hollow } = this.#palette;
    this.#chart.applyOptions({
      layout: {
        background: { type: ColorType.Solid, color: "transparent" },
        textColor: text,
        fontFamily: getComputedStyle(this.#element).fontFamily,
        fontSize: 11,
      },
      grid: { vertLines: { color: grid }, horzLines: { color: grid } },
      crosshair: {
        vertLine: { color: line, labelBackgroundColor: label },
        horzLine: { color: line, labelBackgroundColor: label },
      },
    });
    // Hollow is up, full is down: told by more than the colour.
    this.#candles.applyOptions({
      upColor: hollow,
      downColor: down,
      borderUpColor: up,
      borderDownColor: down,
      wickUpColor: up,
      wickDownColor: down,
    });
  }

  #column(bar: Bar): HistogramData<UTCTimestamp> {
    const color = bar.close < bar.open ? this.#palette.downVolume : this.#palette.upVolume;
    return { time: bar.time as UTCTimestamp, value: bar.volume, color };
  }
}

function candle({ time, open, high, low, close }: Bar): CandlestickData<UTCTimestamp> {
  return { time: time as UTCTimestamp, open, high, low, close };
}
