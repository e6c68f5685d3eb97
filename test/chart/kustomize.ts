/**
 * config/kustomize/base/twinrun.yaml is what Helm makes of the chart as it is, for those who have no Helm: written by running
 * this file (make generate does), checked by templates.test.ts.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { findRemedy } from "../lab/kubernetes/programs.ts";
import { templateChart } from "./chart.ts";

export const kustomizeBasePath = join(import.meta.dirname, "../../config/kustomize/base/twinrun.yaml");

const head = "# Made of charts/twinrun by make generate, with the values it has: change it there.\n";

/** Without hooks: kustomize knows none. */
export function renderKustomizeBase(): string {
  const { status, stdout, stderr } = templateChart({}, "--no-hooks");
  if (status !== 0) {
    throw new Error(`helm template failed: ${stderr}`);
  }
  return `${head}${stdout.replaceAll("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kustomize")}`;
}

if (import.meta.main) {
  const remedy = findRemedy(["helm"]);
  if (remedy === undefined) {
    writeFileSync(kustomizeBasePath, renderKustomizeBase());
  } else {
    process.stderr.write(`config/kustomize is left as it is: ${remedy}\n`);
  }
}
