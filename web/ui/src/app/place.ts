/** What is shown lives in the address, so that it can be linked, reloaded and walked back through. */

import { useCallback, useEffect, useState } from "react";
import { DEFAULT_RESOLUTION, resolution as known } from "../client";

export interface Place {
  readonly symbol: string | null;
  readonly resolution: string;
}

export type Go = (to: Partial<Place>, how?: "push" | "replace") => void;

export function usePlace(): [Place, Go] {
  const [place, setPlace] = useState(here);
  useEffect(() => {
    const walked = (): void => setPlace(here());
    addEventListener("popstate", walked);
    return () => removeEventListener("popstate", walked);
  }, []);
  const go = useCallback<Go>((to, how = "push") => {
    const next = { ...here(), ...to };
    const address = new URL(location.href);
    if (next.symbol === null) address.searchParams.delete("symbol");
    else address.searchParams.set("symbol", next.symbol);
    address.searchParams.set("resolution", next.resolution);
    if (address.href !== location.href) history[how === "push" ? "pushState" : "replaceState"](null, "", address);
    setPlace(next);
  }, []);
  return [place, go];
}

function here(): Place {
  const query = new URLSearchParams(location.search);
  return {
    symbol: query.get("symbol") || null,
    resolution: known(query.get("resolution"))?.id ?? DEFAULT_RESOLUTION,
  };
}
