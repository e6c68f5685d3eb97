/** kubectl as a user of the cluster has it. */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { join } from "node:path";
import { type Readable } from "node:stream";
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

const plugin = join(import.meta.dirname, "../../src/main/kubectl-twinrun.sh");

/** `kubectl twinrun` as a person types it. */
export function spawnTwinrun(
  { lab }: Platform,
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): ChildProcessByStdio<null, Readable, Readable> {
  const env = { ...process.env, KUBECONFIG: lab.kubeconfigPath, ...environment };
  return spawn(plugin, args, { env, stdio: ["ignore", "pipe", "pipe"] });
}

/** What it printed, or a failure with what it said. */
export function twinrun(platform: Platform, ...args: readonly string[]): Promise<string> {
  return collectOutput(spawnTwinrun(platform, args), ["kubectl", "twinrun", ...args], "here");
}
