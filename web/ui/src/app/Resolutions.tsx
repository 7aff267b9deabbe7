import type { ReactNode } from "react";
import { RESOLUTIONS } from "../client";

interface Props {
  readonly selected: string;
  readonly onSelect: (id: string) => void;
}

export function Resolutions({ selected, onSelect }: Props): ReactNode {
  return (
    <fieldset className="resolutions" data-testid="resolutions">
      <legend className="unseen">Resolution</legend>
      {RESOLUTIONS.map(({ id, label, name }) => (
        <label key={id} title={name} data-testid="resolution" data-resolution={id}>
          <input type="radio" name="resolution" value={id} checked={id === selected} onChange={() => onSelect(id)} aria-label={name} />
          <span>{label}</span>
        </label>
      ))}
    </fieldset>
  );
}
