/** Numbers, times and reasons as people read them. */

import type { Bar } from "./client";

const SIGNIFICANT = 6;

const UNSAID = 1_000_000; // the price scale of a market that was not given one

/** How many decimals a market's prices have: as its price scale says, or else as these bars need, within reason. */
export function decimalsOf(bars: readonly Bar[], pricescale: number | null = null): number {
  if (pricescale !== null && pricescale !== UNSAID) return Math.max(0, Math.min(18, Math.ceil(Math.log10(pricescale) - 1e-9)));
  const largest = Math.max(0, ...bars.map((bar) => Math.abs(bar.high)));
  if (largest === 0) return 2;
  const reasonable = Math.min(12, Math.max(2, SIGNIFICANT - 1 - Math.floor(Math.log10(largest))));
  let needed = 2;
  for (const bar of bars) {
    for (const price of [bar.open, bar.high, bar.low, bar.close]) needed = Math.max(needed, decimalsIn(price));
    if (needed >= reasonable) return reasonable;
  }
  return needed;
}

function decimalsIn(price: number): number {
  const [mantissa = "", exponent = "0"] = String(price).split("e");
  return Math.max(0, (mantissa.split(".")[1]?.length ?? 0) - Number(exponent));
}

export function priceText(price: number, decimals: number): string {
  return price.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

/** A reason from the client or the daemon as a sentence of its own. */
export function sentence(reason: string): string {
  const text = reason.trim() || "something went wrong";
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 2 });
const small = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 4 });

export function volumeText(volume: number): string {
  return Math.abs(volume) >= 1000 ? compact.format(volume) : small.format(volume);
}

export interface Move {
  readonly direction: "up" | "down" | "flat";
  readonly amount: number;
  readonly percent: number | null; // null where there is nothing to compare with
}

export function move(from: number, to: number): Move {
  const amount = to - from;
  return {
    direction: amount > 0 ? "up" : amount < 0 ? "down" : "flat",
    amount,
    percent: from === 0 ? null : (amount / from) * 100,
  };
}

const ARROWS = { up: "▲", down: "▼", flat: "" };

/** The direction as a sign of its own, for those who do not see its colour. */
export function arrow({ direction }: Move): string {
  return ARROWS[direction];
}

export function amountText({ amount }: Move, decimals: number): string {
  return `${amount < 0 ? "−" : "+"}${priceText(Math.abs(amount), decimals)}`;
}

export function percentText({ percent }: Move): string {
  if (percent === null) return "–";
  const size = Math.abs(percent).toFixed(2);
  return size === "0.00" ? "0.00%" : `${percent < 0 ? "−" : "+"}${size}%`;
}

/** A bar's opening time, as finely as bars of `span` seconds need it: in the viewer's zone, but days as they are named. */
export function timeText(time: number, span: number): string {
  const instant = new Date(time * 1000);
  if (span >= DAY) return days.format(instant);
  return `${localDays.format(instant)} ${(span < 60 ? seconds : clock).format(instant)}`;
}

/** The zone of `timeText`, as it is at that time: `UTC+2`. */
export function zoneText(time: number, span: number): string {
  if (span >= DAY) return "UTC";
  const minutes = -new Date(time * 1000).getTimezoneOffset();
  const size = Math.abs(minutes);
  const rest = size % 60 === 0 ? "" : `:${String(size % 60).padStart(2, "0")}`;
  return minutes === 0 ? "UTC" : `UTC${minutes < 0 ? "−" : "+"}${Math.floor(size / 60)}${rest}`;
}

/** The zone by its name: `Europe/Paris`. */
export function zoneName(): string {
  return new Intl.DateTimeFormat().resolvedOptions().timeZone;
}

const DAY = 86_400;
const date = { weekday: "short", day: "numeric", month: "short", year: "numeric" } as const;
const days = new Intl.DateTimeFormat("en-GB", { ...date, timeZone: "UTC" });
const localDays = new Intl.DateTimeFormat("en-GB", date);
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const seconds = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
