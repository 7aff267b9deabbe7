import type { ReactNode } from "react";

// Heights in percent, of candles that stand where the real ones will.
const CANDLES = [34, 40, 37, 46, 52, 48, 55, 61, 57, 50, 44, 47, 53, 59, 64, 60, 66, 71, 67, 62, 58, 63, 69, 74, 70, 65, 60, 56, 61, 67];

/** The shape of a chart, until there is one. */
export function Skeleton(): ReactNode {
  return (
    <div className="skeleton" role="status" data-testid="chart-loading">
      <span className="unseen">Loading bars</span>
      {CANDLES.map((height, at) => (
        <span key={at} aria-hidden="true" style={{ blockSize: `${10 + ((at * 7) % 11)}%`, marginBlockEnd: `${height / 5}%` }} />
      ))}
    </div>
  );
}
