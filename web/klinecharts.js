// A data loader for KLineChart 10, of the candled that this comes from:
//   import { dataLoader } from "http://localhost:8000/api/klinecharts/loader.js";
//   chart.setDataLoader(dataLoader({ reset: () => chart.resetData() }));
const PAGE = 500;
const PAUSE = 2000; // ms before what could not be had is asked for again
const UNITS = { second: "s", minute: "m", hour: "h", day: "d", week: "w", month: "M" };

const timeframe = ({ type, span }) => (type === "year" ? `${12 * span}M` : `${span}${UNITS[type]}`);
const shown = ({ timestamp, time, open, high, low, close, volume }) =>
    ({ timestamp: 1000 * (timestamp ?? time), open, high, low, close, volume });

// `reset` has the chart load everything again: it cannot change a bar before its last one.
export function dataLoader({ reset, base = new URL(import.meta.url).origin }) {
    let socket, held, tell;

    const take = ({ op, bar }) => (op === "upsert" ? tell(shown(bar)) : reset());

    // Before the bars are fetched, so that nothing is missed between the two.
    const connect = (query) => new Promise((done) => {
        const ours = socket = new WebSocket(`${base.replace(/^http/, "ws")}/api/lightweight/realtime?${query}`);
        [held, tell] = [[], null];
        ours.onopen = done;
        ours.onmessage = ({ data }) => {
            const message = JSON.parse(data);
            if (!message.op || ours !== socket) return;
            if (tell) take(message); else held.push(message);
        };
        ours.onclose = () => {
            done();
            if (ours === socket) setTimeout(() => ours === socket && reset(), PAUSE);
        };
    });

    return {
        async getBars({ type, timestamp, symbol, period, callback }) {
            if (type === "backward") { callback([], false); return; } // the newest ones are there
            const chosen = { symbol: symbol.ticker, timeframe: timeframe(period) };
            if (type === "init") await connect(new URLSearchParams(chosen));
            const query = new URLSearchParams({ ...chosen, from: 0, limit: PAGE });
            if (type === "forward") query.set("to", timestamp / 1000);
            const answer = await fetch(`${base}/api/lightweight/ohlcv?${query}`).then((found) => found.json()).catch(() => null);
            if (!answer || ["rate_limited", "unavailable"].includes(answer.error?.code)) {
                setTimeout(() => this.getBars({ type, timestamp, symbol, period, callback }), PAUSE);
                return;
            }
            if (!answer.success) console.error(answer.error.message);
            callback((answer.data ?? []).map(shown), { forward: Boolean(answer.meta?.truncated), backward: false });
        },
        subscribeBar({ callback }) {
            tell = callback;
            held.splice(0).forEach(take);
        },
        unsubscribeBar() {
            const last = socket;
            socket = undefined;
            last?.close();
        },
    };
}
