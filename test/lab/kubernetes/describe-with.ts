/** Tests that want a real Kubernetes: skipped, with the way to mend that, where its programs are missing. */
import { describe } from "@jest/globals";
import { basename } from "node:path";
import { findRemedy, type ProgramName } from "./programs.ts";

export function describeWith(names: readonly ProgramName[], file: string): typeof describe | typeof describe.skip {
  const remedy = findRemedy(names);
  if (remedy !== undefined) {
    process.stderr.write(`SKIPPED in ${basename(file)}: ${remedy}\n`);
  }
  return remedy === undefined ? describe : describe.skip;
}
