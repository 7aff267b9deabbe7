/** The surroundings of the client: clock, chance, network. Tests bring their own. */

export interface Socket {
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: (() => void) | null;
  send(text: string): void;
  close(): void;
}

export interface Host {
  now(): number; // milliseconds
  random(): number; // 0 ≤ x < 1
  after(milliseconds: number, run: () => void): () => void; // returns what cancels it
  socket(): Socket;
  get(path: string, signal: AbortSignal, key: string | null): Promise<Answer>;
  online(): boolean;
  /** Calls back when the network comes or goes and when the page is looked at again; returns what stops that. */
  onWake(run: () => void): () => void;
}

export interface Answer {
  readonly status: number;
  readonly text: string;
  readonly retryAfter: number | null; // seconds
}

/** The browser, with every address relative to the page's own. */
export function browserHost(base: string = document.baseURI): Host {
  return {
    now: () => Date.now(),
    random: () => Math.random(),
    after(milliseconds, run) {
      const timer = setTimeout(run, milliseconds);
      return () => clearTimeout(timer);
    },
    socket() {
      const address = new URL("ws", base);
      address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
      return new WebSocket(address) as Socket;
    },
    async get(path, signal, key) {
      const headers = { accept: "application/json", ...(key === null ? {} : { authorization: `Bearer ${key}` }) };
      const response = await fetch(new URL(path, base), { signal, headers });
      return { status: response.status, text: await response.text(), retryAfter: seconds(response.headers.get("retry-after")) };
    },
    online: () => navigator.onLine,
    onWake(run) {
      addEventListener("online", run);
      addEventListener("offline", run);
      addEventListener("pageshow", run);
      document.addEventListener("visibilitychange", run);
      return () => {
        removeEventListener("online", run);
        removeEventListener("offline", run);
        removeEventListener("pageshow", run);
        document.removeEventListener("visibilitychange", run);
      };
    },
  };
}

/** The seconds of a Retry-After header; null where it names none. */
function seconds(header: string | null): number | null {
  return header !== null && /^[0-9]+$/.test(header) ? Number(header) : null;
}
