import { createRoot } from "react-dom/client";
import { App } from "./app/App";
import { Boundary } from "./app/Boundary";
import { browserHost, Client } from "./client";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/frame.css";
import "./styles/markets.css";
import "./styles/chart.css";
import "./styles/notices.css";

const host = browserHost();
const client = new Client(host);
client.start();
// For the console: `candled.lease("GOLD", "1").stream.bars`.
Object.assign(window, { candled: client });

const root = document.getElementById("root");
if (!root) throw new Error("index.html has no element with the id 'root'");
createRoot(root).render(
  <Boundary>
    <App client={client} host={host} />
  </Boundary>,
);
