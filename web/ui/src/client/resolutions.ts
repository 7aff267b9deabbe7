/** The resolutions that the page offers, by their names on the wire. */

export interface Resolution {
  readonly id: string;
  readonly label: string;
  readonly name: string;
  readonly seconds: number;
}

export const RESOLUTIONS: readonly Resolution[] = [
  { id: "1S", label: "1s", name: "1 second", seconds: 1 },
  { id: "1", label: "1m", name: "1 minute", seconds: 60 },
  { id: "5", label: "5m", name: "5 minutes", seconds: 300 },
  { id: "15", label: "15m", name: "15 minutes", seconds: 900 },
  { id: "60", label: "1h", name: "1 hour", seconds: 3_600 },
  { id: "240", label: "4h", name: "4 hours", seconds: 14_400 },
  { id: "1D", label: "1D", name: "1 day", seconds: 86_400 },
  { id: "1W", label: "1W", name: "1 week", seconds: 604_800 },
  { id: "1M", label: "1M", name: "1 month", seconds: 2_678_400 },
];

export const DEFAULT_RESOLUTION = "1";

const ALIASES: Readonly<Record<string, string>> = { S: "1S", D: "1D", W: "1W", M: "1M", "1H": "60", H: "60", "4H": "240" };

/** The offered resolution that this text means; null when there is none. */
export function resolution(text: string | null): Resolution | null {
  if (text === null) return null;
  const id = ALIASES[text] ?? text;
  return RESOLUTIONS.find((one) => one.id === id) ?? null;
}

/** Seconds that a bar of this resolution spans at most. */
export function spanOf(id: string): number {
  return resolution(id)?.seconds ?? 60;
}
