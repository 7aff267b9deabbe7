/** The shell commands that put a first event into a market. */

export function keyCommand(scope: "admin" | "ingest"): string {
  return `KEY=$(candled token create --scope ${scope})`;
}

/** Post one event; `create` also makes the market when it does not exist. */
export function eventCommand(symbol: string, create: boolean): string {
  const address = new URL(`api/ingest/events${create ? "?create=spot" : ""}`, document.baseURI);
  const name = JSON.stringify(symbol).replaceAll("'", "'\\''");
  return [
    `curl '${address.href}' \\`,
    `  -H "Authorization: Bearer $KEY" \\`,
    `  -H 'Content-Type: application/json' \\`,
    `  -d '{"market_symbol": ${name}, "price": 2001.5, "size": 3,`,
    `       "timestamp": '"$(date +%s)"'000}'`,
  ].join("\n");
}
