/** How long to wait before the next attempt: doubling, bounded, and random so that clients do not return together. */

const FIRST = 500;
const LONGEST = 15_000;

/** Milliseconds before attempt number `attempt` (1, 2, …); `chance` is between 0 and 1. */
export function backoff(attempt: number, chance: number): number {
  const ceiling = Math.min(LONGEST, FIRST * 2 ** Math.min(attempt - 1, 10));
  return Math.round(ceiling / 2 + (ceiling / 2) * chance);
}
