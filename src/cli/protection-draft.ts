/** The ProtectedVM that `protect` makes, from the command line. */
import { API_VERSION } from "../api/custom-resource.ts";
import { parseProtectedVm } from "../api/protected-vm.ts";
import { usageWrong } from "./cli-failure.ts";
import { type Invocation } from "./command-line.ts";
import { ALLOW_RESTART_ANNOTATION } from "./guest-checks.ts";
import { type KubeObject } from "./kube-objects.ts";
import { type ShownVm } from "./protected-vms.ts";

export type Draft = {
  /** As it is sent: without what has a default. */
  readonly object: KubeObject & { readonly spec: Readonly<Record<string, unknown>> };
  /** With defaults, for checks. */
  readonly vm: ShownVm;
};

/** Throws UsageWrong, or an InputFailure that names the field. */
export function parseDraft({ names, texts, numbers, switches }: Invocation, namespace: string): Draft {
  const [virtualMachine = ""] = names;
  const [maxAddedLatencyMs, detectionTimeoutMs] = [numbers.get("max-added-latency"), numbers.get("detection-timeout")];
  const object = {
    apiVersion: API_VERSION,
    kind: "ProtectedVM",
    metadata: {
      name: texts.get("name") ?? virtualMachine,
      namespace,
      ...(switches.has("allow-restart") ? { annotations: { [ALLOW_RESTART_ANNOTATION]: "true" } } : {}),
    },
    spec: {
      mode: texts.get("mode") ?? "FaultTolerant",
      virtualMachineRef: { name: virtualMachine },
      placement: parsePlacement(texts.get("nodes"), texts.get("selector")),
      ...(maxAddedLatencyMs === undefined ? {} : { checkpoint: { maxAddedLatencyMs } }),
      ...(detectionTimeoutMs === undefined ? {} : { failover: { detectionTimeoutMs } }),
    },
  };
  const { apiVersion, kind, metadata, spec } = parseProtectedVm(object, "the ProtectedVM of this command line");
  return { object, vm: { apiVersion, kind, metadata, spec } };
}

function parsePlacement(nodes: string | undefined, selector: string | undefined): Readonly<Record<string, unknown>> {
  if (nodes !== undefined && selector !== undefined) {
    throw usageWrong("--nodes and --selector do not go together: name the two nodes, or labels to choose them by");
  }
  if (selector !== undefined) {
    return { nodeSelector: parseSelector(selector) };
  }
  const names = (nodes ?? "").split(",").map((name) => name.trim());
  if (names.length !== 2 || names.includes("") || names[0] === names[1]) {
    throw usageWrong(`--nodes must name two different nodes, as in --nodes node-a,node-b; found "${nodes ?? ""}"`);
  }
  return { nodes: names };
}

function parseSelector(text: string): Readonly<Record<string, string>> {
  const pairs = text.split(",").map((pair) => {
    const [, key, value] = /^([^=!\s]+)==?([^=\s]*)$/.exec(pair.trim()) ?? [];
    if (key === undefined || value === undefined) {
      throw usageWrong(`--selector must be KEY=VALUE,..., and "${pair}" is no such pair`);
    }
    return [key, value] as const;
  });
  return Object.fromEntries(pairs);
}
