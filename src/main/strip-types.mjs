/** Lets Node run our TypeScript below a folder node_modules, where it refuses to by itself; types are stripped as it would. */
import { readFileSync } from "node:fs";
import { registerHooks, stripTypeScriptTypes } from "node:module";

const ours = new URL("../", import.meta.url).href;

registerHooks({
  load: (url, context, next) =>
    url.startsWith(ours) && url.endsWith(".ts")
      ? { format: "module", shortCircuit: true, source: stripTypeScriptTypes(readFileSync(new URL(url), "utf8")) }
      : next(url, context),
});
