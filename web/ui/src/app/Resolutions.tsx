import { type ReactNode, useEffect } from "react";
import { RESOLUTIONS } from "../client";

interface Props {
  readonly selected: string;
  readonly onSelect: (id: string) => void;
}

/** Chosen by a click, the arrow keys, or the digit of the place. */
export function Resolutions({ selected, onSelect }: Props): ReactNode {
  useEffect(() => {
    const key = (event: globalThis.KeyboardEvent): void => {
      const typing = event.target instanceof HTMLElement && event.target.matches("input:not([type=radio]), textarea, [contenteditable]");
      const wanted = RESOLUTIONS[Number(event.key) - 1];
      if (wanted && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) onSelect(wanted.id);
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, [onSelect]);
  return (
    <fieldset className="resolutions" data-testid="resolutions">
      <legend className="unseen">Resolution</legend>
      {RESOLUTIONS.map(({ id, label, name }, at) => (
        <label key={id} title={`${name} (key ${at + 1})`} data-testid="resolution" data-resolution={id}>
          <input type="radio" name="resolution" value={id} checked={id === selected} onChange={() => onSelect(id)} aria-label={name} aria-keyshortcuts={String(at + 1)} />
          <span>{label}</span>
        </label>
      ))}
    </fieldset>
  );
}
