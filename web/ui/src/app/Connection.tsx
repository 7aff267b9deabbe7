import type { ReactNode } from "react";
import type { Client, ConnectionState } from "../client";
import { sentence } from "../format";
import { useNow } from "./hooks";

const LABELS = { connecting: "Connecting", live: "Live", locked: "Key needed", reconnecting: "Reconnecting", offline: "Offline" };

/** The state of the connection, always in view. */
export function ConnectionBadge({ connection }: { connection: ConnectionState }): ReactNode {
  const { phase } = connection;
  return (
    <div className={`badge ${phase}`} role="status" data-testid="connection" data-state={phase} title={"reason" in connection ? connection.reason : undefined}>
      <span className="dot" aria-hidden="true" />
      {LABELS[phase]}
    </div>
  );
}

/** While the connection is away: why, what is waited for, and a way to not wait. */
export function ConnectionNotice({ client, connection }: { client: Client; connection: ConnectionState }): ReactNode {
  const waiting = "reason" in connection;
  const now = useNow(waiting && connection.retryAt !== null ? 250 : 0);
  if (!waiting) return null;
  const { reason, retryAt } = connection;
  const left = retryAt === null ? 0 : Math.max(1, Math.ceil((retryAt - now) / 1000));
  return (
    <div className={`strip ${connection.phase}`} data-testid="connection-notice">
      <p>
        <strong>{sentence(reason)}</strong>{" "}
        <span className="strip-more">What you see is the last known state. </span>
        <span data-testid="connection-wait" aria-hidden="true">
          {retryAt === null ? "Connecting now…" : `Next attempt in ${left} s.`}
        </span>
      </p>
      <button type="button" className="button small" onClick={() => client.connection.retry()} disabled={retryAt === null}>
        Try now
      </button>
    </div>
  );
}
