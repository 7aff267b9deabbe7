/** Numbers, times and reasons as people read them. */

import type { Bar } from "./client";

const SIGNIFICANT = 6;

/** How many decimals the prices of these bars need, within reason for their size. */
export function decimalsOf(bars: readonly Bar[]): number {
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

export function amountText({ amount }: Move, decimals: number): string {
  return `${amount < 0 ? "−" : "+"}${priceText(Math.abs(amount), decimals)}`;
}

export function percentText({ percent }: Move): string {
  if (percent === null) return "–";
  const size = Math.abs(percent).toFixed(2);
  return size === "0.00" ? "0.00%" : `${percent < 0 ? "−" : "+"}${size}%`;
}

const days = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", weekday: "short", day: "numeric", month: "short", year: "numeric" });
const clock = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", hour: "2-digit", minute: "2-digit" });
const seconds = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** A bar's opening time in UTC, as finely as bars of `span` seconds need it. */
export function timeText(time: number, span: number): string {
  const instant = new Date(time * 1000);
  const day = days.format(instant);
  if (span >= 86_400) return day;
  return `${day} ${(span < 60 ? seconds : clock).format(instant)}`;
}
