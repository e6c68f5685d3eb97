/**
 * `node src/main/generate.ts [--dir DIR]`
 *
 * Writes what is generated from src/api into DIR (the checkout unless told): crds/PLURAL.yaml for each custom resource, and
 * the same into charts/twinrun/files/crds, as a chart can read only what is in its own folder.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { stringify } from "yaml";
import { encodeCrd } from "../api/custom-resource.ts";
import { customResources } from "../api/custom-resources.ts";

const HEAD = "# Generated from src/api by make generate: change it there.\n";
const checkout = resolve(import.meta.dirname, "../..");

const { values } = parseArgs({ options: { dir: { type: "string", default: checkout } } });
for (const folder of ["crds", "charts/twinrun/files/crds"]) {
  mkdirSync(join(values.dir, folder), { recursive: true });
  for (const resource of customResources) {
    const yaml = stringify(encodeCrd(resource), { lineWidth: 100, aliasDuplicateObjects: false });
    writeFileSync(join(values.dir, folder, `${resource.plural}.yaml`), HEAD + yaml);
  }
}
