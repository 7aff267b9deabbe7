/** What the page asks over HTTP. Every failure is an ApiError whose message can be shown. */

import type { Answer, Host } from "./host";
import { type Bar, bar, isFields, isNumber } from "./wire";

const PATIENCE = 25_000;

export interface Market {
  readonly symbol: string;
  readonly ticker: string;
  readonly description: string;
  readonly exchange: string;
  readonly type: string;
}

export interface Health {
  readonly demo: boolean;
  readonly degraded: boolean;
  readonly version: string;
}

export interface History {
  readonly bars: readonly Bar[];
  readonly nextTime: number | null; // where older bars are, when the window had none
}

export interface HistoryWindow {
  readonly from: number;
  readonly to: number; // exclusive
  readonly countback: number;
}

export class ApiError extends Error {}

export class Api {
  readonly #host: Host;

  constructor(host: Host) {
    this.#host = host;
  }

  /** Markets that match `query`, best first; an empty query lists. */
  async markets(query: string, limit: number, signal?: AbortSignal): Promise<Market[]> {
    const body = await this.#json("search", `api/tradingview/search?${new URLSearchParams({ query, limit: String(limit) })}`, signal);
    if (!Array.isArray(body)) throw new ApiError("search: expected a list of markets");
    return body.map(market).filter((one) => one !== null);
  }

  /** Bars before `to`, ascending; `countback` of them where there are that many. */
  async history(symbol: string, resolution: string, window: HistoryWindow, signal?: AbortSignal): Promise<History> {
    const query = new URLSearchParams({
      symbol,
      resolution,
      from: String(window.from),
      to: String(window.to),
      countback: String(window.countback),
    });
    const body = await this.#json("history", `api/tradingview/history?${query}`, signal);
    if (!isFields(body)) throw new ApiError("history: expected an object");
    if (body["s"] === "no_data") return { bars: [], nextTime: isNumber(body["nextTime"]) ? body["nextTime"] : null };
    return { bars: columns(body), nextTime: null };
  }

  /** How the daemon says it is; answered with its body also while degraded. */
  async health(signal?: AbortSignal): Promise<Health> {
    const { text } = await this.#get("api/charts/health", signal);
    const body = decoded("health", text);
    if (!isFields(body)) throw new ApiError("health: expected an object");
    const { version } = body;
    return {
      demo: body["demo"] === true,
      degraded: body["status"] === "degraded",
      version: typeof version === "string" ? version : "",
    };
  }

  async #json(what: string, path: string, signal?: AbortSignal): Promise<unknown> {
    const { status, text } = await this.#get(path, signal);
    const failed = status < 200 || status > 299;
    let body: unknown;
    try {
      body = decoded(what, text);
    } catch (error) {
      throw failed ? answered(status) : error;
    }
    if (isFields(body) && body["s"] === "error") throw refusal(body["errmsg"], status);
    if (failed) throw answered(status);
    return body;
  }

  async #get(path: string, signal?: AbortSignal): Promise<Answer> {
    const deadline = new AbortController();
    const cancel = this.#host.after(PATIENCE, () => deadline.abort());
    const both = signal ? AbortSignal.any([signal, deadline.signal]) : deadline.signal;
    try {
      return await this.#host.get(path, both);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(
        deadline.signal.aborted ? `no answer within ${PATIENCE / 1000} s` : "the server cannot be reached",
        { cause: error },
      );
    } finally {
      cancel();
    }
  }
}

function decoded(what: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(`${what}: the answer is not JSON`);
  }
}

function refusal(message: unknown, status: number): ApiError {
  return typeof message === "string" && message !== "" ? new ApiError(message) : answered(status);
}

function answered(status: number): ApiError {
  return new ApiError(`the server answered ${status}`);
}

function market(fields: unknown): Market | null {
  if (!isFields(fields) || typeof fields["symbol"] !== "string") return null;
  const text = (name: string): string => (typeof fields[name] === "string" ? fields[name] : "");
  return {
    symbol: fields["symbol"],
    ticker: text("ticker") || fields["symbol"],
    description: text("description"),
    exchange: text("exchange"),
    type: text("type"),
  };
}

function columns(body: Record<string, unknown>): Bar[] {
  const { t, o, h, l, c, v } = body;
  if (!Array.isArray(t) || !Array.isArray(c)) throw new ApiError("history: expected columns of bars");
  const cell = (column: unknown, at: number): unknown => (Array.isArray(column) ? column[at] : undefined);
  return t.map((time: unknown, at) => {
    const close: unknown = c[at];
    const one = bar({
      time,
      close,
      open: cell(o, at) ?? close,
      high: cell(h, at) ?? close,
      low: cell(l, at) ?? close,
      volume: cell(v, at) ?? 0,
      closed: true,
    });
    if (!one) throw new ApiError(`history: bar ${at} is not made of numbers`);
    return one;
  });
}
