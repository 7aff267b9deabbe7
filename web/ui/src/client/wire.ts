/** What travels between the page and the daemon, read with care: nothing here throws on bad input. */

export interface Bar {
  readonly time: number; // opening instant, integer epoch seconds
  readonly open: number;
  readonly high: number;
  readonly low: number;
  readonly close: number;
  readonly volume: number;
  readonly trades?: number;
  readonly closed?: boolean;
}

export interface Position {
  readonly epoch: string;
  readonly seq: number;
}

interface OfStream {
  readonly symbol: string;
  readonly resolution: string;
  readonly epoch: string;
  readonly seq: number;
}

export interface Subscribed extends OfStream {
  readonly type: "subscribed";
  readonly id: string | null;
  readonly recovered: boolean;
}

export interface Snapshot extends OfStream {
  readonly type: "snapshot";
  readonly data: readonly Bar[];
  readonly reason: string | null;
}

export interface PutFrame extends OfStream {
  readonly type: "bar";
  readonly op: "upsert" | "amend" | "insert";
  readonly prev_seq: number;
  readonly data: Bar;
}

export interface DeleteFrame extends OfStream {
  readonly type: "bar";
  readonly op: "delete";
  readonly prev_seq: number;
  readonly data: { readonly time: number };
}

export interface Heartbeat extends OfStream {
  readonly type: "heartbeat";
}

export interface Refusal {
  readonly type: "error";
  readonly id: string | null;
  readonly code: string;
  readonly message: string;
}

export type BarFrame = PutFrame | DeleteFrame;
export type StreamMessage = Subscribed | Snapshot | BarFrame | Heartbeat;
export type Message = StreamMessage | Refusal;

type Fields = Record<string, unknown>;

/** The message in a text frame; null for what this client does not know or cannot trust. */
export function parsed(text: unknown): Message | null {
  if (typeof text !== "string") return null;
  let fields: unknown;
  try {
    fields = JSON.parse(text);
  } catch {
    return null;
  }
  if (!isFields(fields)) return null;
  if (fields["type"] === "error") return refusal(fields);
  return fields["channel"] === "bars" ? streamMessage(fields) : null;
}

/** A bar whose numbers are all there and finite; null otherwise. */
export function bar(fields: unknown): Bar | null {
  if (!isFields(fields)) return null;
  const { time, open, high, low, close, trades, closed } = fields;
  const volume = fields["volume"] ?? 0;
  if (!isWhole(time) || !isNumber(open) || !isNumber(high) || !isNumber(low) || !isNumber(close) || !isNumber(volume)) {
    return null;
  }
  return {
    time,
    open,
    high,
    low,
    close,
    volume,
    ...(isNumber(trades) ? { trades } : {}),
    ...(typeof closed === "boolean" ? { closed } : {}),
  };
}

export function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function isWhole(value: unknown): value is number {
  return Number.isInteger(value);
}

function refusal(fields: Fields): Refusal {
  return { type: "error", id: idOf(fields), code: textOr(fields["code"], "error"), message: textOr(fields["message"], "refused") };
}

function streamMessage(fields: Fields): StreamMessage | null {
  const { type, symbol, resolution, epoch, seq } = fields;
  if (typeof symbol !== "string" || typeof resolution !== "string" || typeof epoch !== "string" || !isWhole(seq)) return null;
  const head = { symbol, resolution, epoch, seq };
  switch (type) {
    case "subscribed":
      return { type, ...head, id: idOf(fields), recovered: fields["recovered"] === true };
    case "heartbeat":
      return { type, ...head };
    case "snapshot":
      return snapshot(head, fields);
    case "bar":
      return frame(head, fields);
    default:
      return null;
  }
}

function snapshot(head: OfStream, fields: Fields): Snapshot | null {
  if (!Array.isArray(fields["data"])) return null;
  const data = fields["data"].map(bar);
  if (!data.every((one) => one !== null)) return null;
  return { type: "snapshot", ...head, data, reason: typeof fields["reason"] === "string" ? fields["reason"] : null };
}

function frame(head: OfStream, fields: Fields): BarFrame | null {
  const { op, prev_seq, data } = fields;
  if (!isWhole(prev_seq)) return null;
  if (op === "delete") {
    if (!isFields(data) || !isWhole(data["time"])) return null;
    return { type: "bar", ...head, op, prev_seq, data: { time: data["time"] } };
  }
  if (op !== "upsert" && op !== "amend" && op !== "insert") return null;
  const whole = bar(data);
  return whole && { type: "bar", ...head, op, prev_seq, data: whole };
}

function idOf(fields: Fields): string | null {
  const id = fields["id"];
  return typeof id === "string" || typeof id === "number" ? String(id) : null;
}

function textOr(value: unknown, otherwise: string): string {
  return typeof value === "string" && value !== "" ? value : otherwise;
}
