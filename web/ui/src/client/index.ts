/** Live bars without any framework: connect, subscribe, keep, resume, paint. */

export { Api, ApiError, type Health, type Local, type Market } from "./api";
export { attach, type Attached, type AttachOptions, type CandleSeries, onSeries } from "./attach";
export { Client, type Lease } from "./client";
export { Connection, type ConnectionState, isAway } from "./connection";
export { type Answer, browserHost, type Host, type Socket } from "./host";
export { type Canvas, Painter } from "./painter";
export { DEFAULT_RESOLUTION, type Resolution, resolution, RESOLUTIONS, spanOf } from "./resolutions";
export { BarStream, type StreamPhase, type StreamState } from "./stream";
export type { Bar, Position } from "./wire";
