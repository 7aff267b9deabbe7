/** The shell commands that make a key and put a first event into a market, as they work for this very daemon. */

import type { Health, Local } from "../client";

const BARE = /^[\w@%+=:,./-]+$/; // what a shell takes as it stands
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

function quoted(text: string): string {
  return BARE.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** Whether events may be posted without a key: sample markets belong to whoever is on their machine. */
export function isFree(health: Health | null): boolean {
  return health?.demo === true && LOOPBACK.test(location.hostname);
}

/** Make a key. Away from the daemon's machine nobody is told where its data is. */
export function keyCommand(scope: "read" | "ingest" | "admin", local: Local | null): string {
  const { command, data } = local ?? { command: "candled", data: "DIR" };
  return `${quoted(command)} token create --scope ${scope} --data ${quoted(data)}`;
}

/** Post one event; `create` also makes the market when it does not exist. */
export function eventCommand(symbol: string, create: boolean, free: boolean): string {
  const address = new URL(`api/ingest/events${create ? "?create=spot" : ""}`, document.baseURI);
  const name = JSON.stringify(symbol).replaceAll("'", "'\\''");
  return [
    `curl '${address.href}' \\`,
    ...(free ? [] : [`  -H "Authorization: Bearer $KEY" \\`]),
    `  -H 'Content-Type: application/json' \\`,
    `  -d '{"market_symbol": ${name}, "price": 2001.5, "size": 3,`,
    `       "timestamp": '"$(date +%s)"'000}'`,
  ].join("\n");
}
