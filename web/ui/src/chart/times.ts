/** The time scale in the viewer's zone. The library knows only UTC; bars of a day and longer are days in UTC, and stay so. */

import {
  defaultHorzScaleBehavior,
  type IHorzScaleBehavior,
  type TickMark,
  type TickMarkWeightValue,
  type Time,
  type TimeScalePoint,
} from "lightweight-charts";

type Mutable<T> = { -readonly [name in keyof T]: T[name] };
type Weight = Mutable<TimeScalePoint>["timeWeight"];

// What the library calls the weights of marks: the heavier, the sooner one is shown.
const [SECOND, DAY, MONTH, YEAR] = [10, 50, 60, 70];
const CLOCK: readonly (readonly [seconds: number, weight: number])[] = [
  [43_200, 33],
  [21_600, 32],
  [10_800, 31],
  [3_600, 30],
  [1_800, 22],
  [300, 21],
  [60, 20],
];

export interface LocalTimes extends IHorzScaleBehavior<Time> {
  local: boolean; // whether bars begin at times of day
}

/** As the library's own, but that days, months and hours begin where they begin for the viewer. */
export function localTimes(): LocalTimes {
  const Base = defaultHorzScaleBehavior();
  class Local extends Base {
    local = true;

    override fillWeightsForPoints(points: readonly Mutable<TimeScalePoint>[], start: number): void {
      super.fillWeightsForPoints(points, start);
      if (!this.local) return;
      for (let at = Math.max(1, start); at < points.length; at += 1) {
        const point = points[at] as Mutable<TimeScalePoint>;
        const before = (points[at - 1] as TimeScalePoint).originalTime;
        point.timeWeight = weight(before as number, point.originalTime as number) as Weight;
      }
    }

    override formatTickmark({ originalTime, weight }: TickMark): string {
      return markText(originalTime as number, weight, this.options().timeScale.secondsVisible, this.local);
    }
  }
  return new Local();
}

/** How much begins between two instants, in seconds. */
export function weight(before: number, time: number): TickMarkWeightValue {
  const [old, now] = [new Date(before * 1000), new Date(time * 1000)];
  if (old.getFullYear() !== now.getFullYear()) return YEAR as TickMarkWeightValue;
  if (old.getMonth() !== now.getMonth()) return MONTH as TickMarkWeightValue;
  if (old.getDate() !== now.getDate()) return DAY as TickMarkWeightValue;
  const [first, second] = [local(old), local(now)];
  const begun = CLOCK.find(([seconds]) => Math.floor(first / seconds) !== Math.floor(second / seconds));
  return (begun?.[1] ?? SECOND) as TickMarkWeightValue;
}

function local(date: Date): number {
  return date.getTime() / 1000 - date.getTimezoneOffset() * 60;
}

/** What stands under a mark, as finely as its weight and the bars ask for. */
export function markText(time: number, weight: number, seconds: boolean, inZone: boolean): string {
  const kind = weight >= YEAR ? "year" : weight >= MONTH ? "month" : weight >= DAY ? "day" : seconds ? "seconds" : "time";
  return (inZone ? MARKS : UTC_MARKS)[kind].format(new Date(time * 1000));
}

function marks(zone: { timeZone?: string }): Readonly<Record<"year" | "month" | "day" | "time" | "seconds", Intl.DateTimeFormat>> {
  const format = (options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat => new Intl.DateTimeFormat("en-GB", { ...options, ...zone });
  return {
    year: format({ year: "numeric" }),
    month: format({ month: "short" }),
    day: format({ day: "numeric" }),
    time: format({ hour: "2-digit", minute: "2-digit" }),
    seconds: format({ hour: "2-digit", minute: "2-digit", second: "2-digit" }),
  };
}

const MARKS = marks({});
const UTC_MARKS = marks({ timeZone: "UTC" });
