import type { StreamState } from "../client";
import { type Move, move } from "../format";

/** How far the price has moved in the newest day: since the close of the day before, or since the first open. */
export function dayMove({ last, previous }: Pick<StreamState, "last" | "previous">): Move | null {
  return last && move(previous?.close ?? last.open, last.close);
}
