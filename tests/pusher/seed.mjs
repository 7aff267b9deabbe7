// Runs the price client of the first design as it stands, but for where its server is: node seed.mjs FILE HOST PORT SYMBOL
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [file, host, port, symbol] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${process.env.MODULES}/`));
const { transformWithOxc } = await import(pathToFileURL(require.resolve("vite")));

const found = /class PusherChartClient \{[\s\S]*?\n\}\n/.exec(readFileSync(file, "utf8"))[0];
const cluster = "cluster: process.env.NEXT_PUBLIC_PUSHER_CLUSTER!,";
if (!found.includes(cluster)) throw new Error("the class is not what it was");
const reached = `${cluster} wsHost: "${host}", wsPort: ${port}, wssPort: ${port}, forceTLS: false,`;
const { code } = await transformWithOxc(found.replace(cluster, reached), "client.ts");

const Client = new Function("PusherJS", "process", `${code}; return PusherChartClient`)(require("pusher-js"), process);
const client = new Client();
client.subscribeToMarket(symbol, (bar) => {
  process.stdout.write(JSON.stringify(bar) + "\n");
});
client.subscriptions.get(`market-${symbol}`).bind("pusher:subscription_succeeded", () => process.stdout.write('"joined"\n'));
process.stdin.on("data", () => {}).on("end", () => {
  client.disconnect();
  process.exit(0);
});
