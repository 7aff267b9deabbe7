import type { ReactNode } from "react";
import { Command } from "./Command";
import { eventCommand, keyCommand } from "./commands";
import { Notice } from "./Notice";

/** The daemon knows no market yet: how to post the first event. */
export function NoMarkets(): ReactNode {
  return (
    <Notice kind="empty" title="No markets yet" testid="no-markets">
      <p>Post an event and its market appears here by itself. In a terminal, make a key, then send a first price:</p>
      <Command label="make a key" text={keyCommand("admin")} />
      <Command label="post an event" text={eventCommand("GOLD", true)} />
      <p className="quiet">
        Or start <code>candled demo</code> for sample markets with moving prices.
      </p>
    </Notice>
  );
}

/** The market exists and nothing has happened in it. */
export function NoBars({ symbol }: { symbol: string }): ReactNode {
  return (
    <Notice kind="empty" title={`No bars for ${symbol} yet`} testid="no-bars">
      <p>The first candle is drawn as soon as an event with a price arrives:</p>
      <Command label="make a key" text={keyCommand("ingest")} />
      <Command label="post an event" text={eventCommand(symbol, false)} />
    </Notice>
  );
}
