/** What the page asks over HTTP. Every failure is an ApiError whose message can be shown. */

import { type Access, sendable } from "./access";
import type { Answer, Host } from "./host";
import { type Bar, bar, isFields, isNumber } from "./wire";

const PATIENCE = 25_000;

export interface Market {
  readonly symbol: string;
  readonly ticker: string;
  readonly description: string;
  readonly exchange: string;
  readonly type: string;
  readonly pricescale: number | null;
}

export interface Health {
  readonly demo: boolean;
  readonly degraded: boolean;
  readonly version: string;
  readonly local: Local | null; // only where the page is looked at on the daemon's machine
}

/** What a shell on the daemon's machine needs. */
export interface Local {
  readonly command: string;
  readonly data: string;
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

export class ApiError extends Error {
  readonly retryAfter: number | null; // seconds for which the daemon does not want to be asked again

  constructor(message: string, about: { cause?: unknown; retryAfter?: number | null } = {}) {
    super(message, { cause: about.cause });
    this.retryAfter = about.retryAfter ?? null;
  }
}

export class Api {
  readonly #host: Host;
  readonly #access: Access;

  constructor(host: Host, access: Access) {
    this.#host = host;
    this.#access = access;
  }

  /** Use this key from now on; an ApiError says why it cannot be. */
  async signIn(key: string): Promise<void> {
    const unknown = "this key is unknown or revoked";
    if (!sendable(key)) throw new ApiError(unknown);
    const { status, retryAfter } = await this.#get("api/tradingview/config", key);
    if (status === 401) throw new ApiError(unknown);
    if (status === 403) throw new ApiError("this key does not allow reading");
    if (status !== 200) throw answered(status, retryAfter);
    this.#access.granted(key);
  }

  /** A market by any name that it goes by. */
  async market(symbol: string, signal?: AbortSignal): Promise<Market | null> {
    return market(await this.#json("symbols", `api/tradingview/symbols?${new URLSearchParams({ symbol })}`, signal));
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
    const { text } = await this.#read("api/charts/health", signal);
    const body = decoded("health", text);
    if (!isFields(body)) throw new ApiError("health: expected an object");
    const { version, local } = body;
    return {
      demo: body["demo"] === true,
      degraded: body["status"] === "degraded",
      version: typeof version === "string" ? version : "",
      local: isFields(local) ? { command: String(local["command"]), data: String(local["data"]) } : null,
    };
  }

  async #json(what: string, path: string, signal?: AbortSignal): Promise<unknown> {
    const { status, text, retryAfter } = await this.#read(path, signal);
    const failed = status < 200 || status > 299;
    let body: unknown;
    try {
      body = decoded(what, text);
    } catch (error) {
      throw failed ? answered(status, retryAfter) : error;
    }
    if (isFields(body) && body["s"] === "error") throw refusal(body["errmsg"], status, retryAfter);
    if (failed) throw answered(status, retryAfter);
    return body;
  }

  async #read(path: string, signal?: AbortSignal): Promise<Answer> {
    const { key } = this.#access;
    const answer = await this.#get(path, key, signal);
    if (answer.status === 401 || answer.status === 403) this.#access.refused(key);
    return answer;
  }

  async #get(path: string, key: string | null, signal?: AbortSignal): Promise<Answer> {
    const deadline = new AbortController();
    const cancel = this.#host.after(PATIENCE, () => deadline.abort());
    const both = signal ? AbortSignal.any([signal, deadline.signal]) : deadline.signal;
    try {
      return await this.#host.get(path, both, key);
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

function refusal(message: unknown, status: number, retryAfter: number | null): ApiError {
  return typeof message === "string" && message !== "" ? new ApiError(message, { retryAfter }) : answered(status, retryAfter);
}

function answered(status: number, retryAfter: number | null): ApiError {
  return new ApiError(`the server answered ${status}`, { retryAfter });
}

function market(fields: unknown): Market | null {
  if (!isFields(fields)) return null;
  const symbol = fields["symbol"] ?? fields["name"]; // as a search says it, and as a symbol is described
  if (typeof symbol !== "string") return null;
  const { pricescale } = fields;
  const text = (name: string): string => (typeof fields[name] === "string" ? fields[name] : "");
  return {
    symbol,
    ticker: text("ticker") || symbol,
    description: text("description"),
    exchange: text("exchange"),
    type: text("type"),
    pricescale: isNumber(pricescale) ? pricescale : null,
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
