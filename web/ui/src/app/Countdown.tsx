import type { ReactNode } from "react";
import { useNow } from "./hooks";

/** The seconds until then. */
export function Countdown({ to }: { to: number }): ReactNode {
  const now = useNow(250);
  return <span aria-hidden="true">Trying again in {Math.max(1, Math.ceil((to - now) / 1000))} s.</span>;
}
