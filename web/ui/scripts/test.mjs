// Bundles the tests to plain JavaScript, which every supported Node runs, and hands them to Node's own test runner.
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const out = join(root, "node_modules", ".cache", "candled-tests");
const sources = readdirSync(join(root, "tests")).filter((name) => name.endsWith(".test.ts"));

rmSync(out, { recursive: true, force: true });
await build({
  root,
  configFile: false,
  logLevel: "warn",
  build: {
    ssr: true,
    outDir: out,
    rollupOptions: {
      input: Object.fromEntries(sources.map((name) => [name.slice(0, -".ts".length), join(root, "tests", name)])),
      output: { entryFileNames: "[name].mjs" },
    },
  },
});

const compiled = sources.map((name) => join(out, name.replace(/\.ts$/, ".mjs")));
const run = spawnSync(process.execPath, ["--test", ...process.argv.slice(2), ...compiled], { stdio: "inherit" });
process.exit(run.status ?? 1);
