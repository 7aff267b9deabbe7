import { defineConfig } from "vite";

// The client alone, for the pages of others: one module that needs nothing else.
export default defineConfig({
  publicDir: false,
  build: {
    outDir: "../static",
    emptyOutDir: false,
    target: "es2022",
    lib: { entry: "src/client/index.ts", formats: ["es"], fileName: () => "client.js" },
  },
});
