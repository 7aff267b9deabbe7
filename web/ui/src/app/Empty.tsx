import type { ReactNode } from "react";
import type { Health } from "../client";
import { Command } from "./Command";
import { eventCommand, isFree, keyCommand } from "./commands";
import { Notice } from "./Notice";

/** The daemon knows no market yet: how to post the first event. */
export function NoMarkets({ health }: { health: Health | null }): ReactNode {
  return (
    <Notice kind="empty" title="No markets yet" testid="no-markets">
      <p>Post an event in a terminal, and its market appears here by itself:</p>
      <FirstEvent symbol="GOLD" create health={health} />
      {health?.demo !== true && (
        <p className="quiet">
          Or start <code>candled demo</code> for sample markets with moving prices.
        </p>
      )}
    </Notice>
  );
}

/** The market exists and nothing has happened in it. */
export function NoBars({ symbol, health }: { symbol: string; health: Health | null }): ReactNode {
  return (
    <Notice kind="empty" title={`No bars for ${symbol} yet`} testid="no-bars">
      <p>The first candle is drawn as soon as an event with a price arrives:</p>
      <FirstEvent symbol={symbol} create={false} health={health} />
    </Notice>
  );
}

function FirstEvent({ symbol, create, health }: { symbol: string; create: boolean; health: Health | null }): ReactNode {
  const free = isFree(health);
  const local = health?.local ?? null;
  return (
    <>
      {!free && <Command label="make a key" text={`KEY=$(${keyCommand(create ? "admin" : "ingest", local)})`} />}
      <Command label="post an event" text={eventCommand(symbol, create, free)} />
      {!free && local === null && (
        <p className="quiet">
          Make the key on the machine that candled runs on; <code>DIR</code> is its data directory.
        </p>
      )}
    </>
  );
}
