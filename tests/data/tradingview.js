// Asks what TradingView's stock UDF adapter and the chart behind it ask, in their order, and the storage of charts.
globalThis.Datafeeds = {
    UDFCompatibleDatafeed: function (base, every, response) {
        Object.assign(this, { base, every, response });
    },
};

globalThis.TradingView = {
    widget: function (options) {
        globalThis.asked = chart(options);
    },
};

async function chart({ datafeed, symbol, interval, ...options }) {
    const asked = async (verb, query = {}) => {
        const text = new URLSearchParams(query).toString();
        return (await fetch(`${datafeed.base}/${verb}${text && "?" + text}`)).json();
    };
    const config = await asked("config");
    const clock = await asked("time");
    const info = await asked("symbols", { symbol });
    const bars = (from, to, countback) =>
        asked("history", { symbol: info.ticker, resolution: interval, from, to, countback });
    const first = await bars(clock + 60 - 300 * 60, clock + 60, 300);
    const older = await bars(first.t[0] - 300 * 60, first.t[0], 300);
    const polled = await bars(clock - 600, clock, 2);
    const window = { symbol: info.ticker, resolution: interval, from: first.t[0], to: first.t.at(-1) };
    const marks = await asked("marks", window);
    const scale = await asked("timescale_marks", window);
    const found = await asked("search", { query: "GO", type: "", exchange: "", limit: 30 });

    const whose = new URLSearchParams({ client: options.client_id, user: options.user_id });
    const charts = `${options.charts_storage_url}/${options.charts_storage_api_version}/charts?${whose}`;
    const form = new FormData();
    form.append("name", "Mine");
    form.append("content", "{}");
    form.append("symbol", symbol);
    form.append("resolution", interval);
    const saved = await (await fetch(charts, { method: "POST", body: form })).json();
    const listed = await (await fetch(charts)).json();
    const { every, response } = datafeed;
    return { config, info, first, older, polled, marks, scale, found, saved, listed, every, response };
}
