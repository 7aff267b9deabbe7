import type { ReactNode } from "react";
import { ChartIcon, WarningIcon } from "./icons";

interface Props {
  readonly kind: "error" | "empty";
  readonly title: string;
  readonly children?: ReactNode;
  readonly action?: string;
  readonly onAction?: () => void;
  readonly other?: ReactNode; // another way out
  readonly testid?: string;
}

/** Something to say where the content would be, with the way out. */
export function Notice({ kind, title, children, action, onAction, other, testid }: Props): ReactNode {
  return (
    <div className={`notice ${kind}`} role={kind === "error" ? "alert" : undefined} data-testid={testid}>
      <span className="notice-mark">{kind === "error" ? <WarningIcon /> : <ChartIcon />}</span>
      <h2>{title}</h2>
      <div className="notice-text">{children}</div>
      {action && (
        <button type="button" className="button" onClick={onAction}>
          {action}
        </button>
      )}
      {other && <p className="notice-text">{other}</p>}
    </div>
  );
}
