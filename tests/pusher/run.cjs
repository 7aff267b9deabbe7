// Runs the code of a file with the library that is named: node run.cjs LIBRARY FILE
const { readFileSync } = require("node:fs");
const [library, file] = process.argv.slice(2);
const run = new Function("Pusher", `return (async () => {\n${readFileSync(file, "utf8")}\n})()`);
run(require(library)).catch((error) => {
  console.error(error);
  process.exit(1);
});
