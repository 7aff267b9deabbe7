/** The client's objects as React state. */

import { useCallback, useEffect, useState, useSyncExternalStore } from "react";
import type { BarStream, Client, ConnectionState, Lease, StreamState } from "../client";

const FRAME = 16; // milliseconds in which changes are drawn together

export function useConnection(client: Client): ConnectionState {
  const { connection } = client;
  return useSyncExternalStore(
    useCallback((tell: () => void) => connection.onChange(tell), [connection]),
    () => connection.state,
  );
}

interface Held {
  readonly lease: Lease;
  readonly symbol: string;
  readonly resolution: string;
}

/** The stream of a symbol and resolution for as long as the component shows it; null until it is leased. */
export function useStream(client: Client, symbol: string | null, resolution: string, bars: number): BarStream | null {
  const [held, setHeld] = useState<Held | null>(null);
  useEffect(() => {
    if (symbol === null) return undefined;
    const lease = client.lease(symbol, resolution, bars);
    setHeld({ lease, symbol, resolution });
    return () => {
      // Whoever shows it next takes its lease first, so that moving between views does not end a shared stream.
      setTimeout(() => lease.release(), 0);
    };
  }, [client, symbol, resolution, bars]);
  return held && held.symbol === symbol && held.resolution === resolution ? held.lease.stream : null;
}

interface Seen {
  readonly stream: BarStream;
  readonly state: StreamState;
}

/** The state of a stream, at most once a frame however many changes arrive. */
export function useStreamState(stream: BarStream | null): StreamState | null {
  const [seen, setSeen] = useState<Seen | null>(null);
  useEffect(() => {
    if (!stream) return undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = (): void => {
      timer = undefined;
      setSeen({ stream, state: stream.state });
    };
    const stop = stream.onState(() => {
      timer ??= setTimeout(look, FRAME);
    });
    look();
    return () => {
      stop();
      clearTimeout(timer);
    };
  }, [stream]);
  return seen && seen.stream === stream ? seen.state : (stream?.state ?? null);
}

/** The time of day, refreshed every `milliseconds`; 0 stops it. */
export function useNow(milliseconds: number): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    if (milliseconds === 0) return undefined;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), milliseconds);
    return () => clearInterval(timer);
  }, [milliseconds]);
  return now;
}
