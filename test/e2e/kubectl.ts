/** kubectl as a user of the cluster has it. */
import { spawn } from "node:child_process";
import { present } from "../../src/lib/assert.ts";
import { collectOutput } from "../lab/command-output.ts";
import { requirePrograms } from "../lab/kubernetes/programs.ts";
import { type Platform } from "./platform.ts";

/** What it printed, or a failure with what it said. */
export function kubectl({ lab }: Platform, ...command: readonly string[]): Promise<string> {
  const program = present(requirePrograms(["kubectl"]).get("kubectl"), "kubectl");
  const args = ["--kubeconfig", lab.kubeconfigPath, ...command];
  return collectOutput(spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] }), ["kubectl", ...command], "here");
}
