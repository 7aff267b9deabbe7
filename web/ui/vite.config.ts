import { defineConfig } from "vite";

// Where a running candled answers while the page is worked on with `npm run dev`.
const daemon = process.env["CANDLED_URL"] ?? "http://127.0.0.1:8000";

export default defineConfig({
  // Relative addresses: the page also works below a path of a proxy.
  base: "./",
  build: {
    outDir: "../static",
    emptyOutDir: true,
    assetsDir: "assets",
    target: "es2022",
  },
  server: {
    proxy: {
      "/api": daemon,
      "/ws": { target: daemon, ws: true },
    },
  },
});
