/** What the daemon says of itself, asked again whenever the connection comes back. */

import { useEffect, useState } from "react";
import { type Client, type ConnectionState, type Health, isAway } from "../client";

export function useHealth(client: Client, connection: ConnectionState): Health | null {
  const [health, setHealth] = useState<Health | null>(null);
  const away = isAway(connection);
  useEffect(() => {
    if (away) return undefined;
    const request = new AbortController();
    client.api.health(request.signal).then(setHealth, () => undefined); // optional: the page works without it
    return () => request.abort();
  }, [client, away]);
  return health;
}
