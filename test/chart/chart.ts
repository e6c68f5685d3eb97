/** What Helm makes of the chart. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import { present } from "../../src/lib/assert.ts";
import { requirePrograms } from "../lab/kubernetes/programs.ts";

export type Json = Readonly<Record<string, unknown>>;
export type ChartObject = {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly spec?: Json;
};
export type Container = {
  readonly name: string;
  readonly image: string;
  readonly args?: readonly string[];
  readonly command?: readonly string[];
  readonly resources?: Json;
  readonly securityContext?: Json;
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string }[];
};
export type PodSpec = Json & {
  readonly containers: readonly Container[];
  readonly initContainers?: readonly Container[];
  readonly securityContext?: Json;
  readonly affinity?: Json;
};

const root = join(import.meta.dirname, "../..");
export const chartPath = join(root, "charts/twinrun");
/** Where every example has it. */
export const systemNamespace = "twinrun";

type Ran = { readonly status: number | null; readonly stdout: string; readonly stderr: string };

export function runHelm(...args: string[]): Ran {
  const helm = present(requirePrograms(["helm"]).get("helm"), "helm");
  return spawnSync(helm, args, { encoding: "utf8", maxBuffer: 64 * 2 ** 20 });
}

/** What `helm template` prints, or says why it does not. */
export function templateChart(values: Json = {}, ...more: string[]): Ran {
  const directory = mkdtempSync(join(tmpdir(), "twinrun-chart-"));
  try {
    const file = join(directory, "values.json");
    writeFileSync(file, JSON.stringify(values));
    return runHelm("template", "twinrun", chartPath, "--namespace", systemNamespace, "--values", file, ...more);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

export function renderChart(values: Json = {}, ...more: string[]): ChartObject[] {
  const { status, stdout, stderr } = templateChart(values, ...more);
  if (status !== 0) {
    throw new Error(`helm template failed: ${stderr}`);
  }
  return parseObjects(stdout);
}

export function parseObjects(text: string): ChartObject[] {
  return parseAllDocuments(text).flatMap((document) => {
    const value = document.toJS() as ChartObject | null;
    return value === null ? [] : [value];
  });
}

/** Everything of the chart that makes pods, and their spec. */
export function listPodSpecs(objects: readonly ChartObject[]): { readonly name: string; readonly spec: PodSpec }[] {
  return objects.flatMap(({ kind, metadata, spec }) => {
    const template = spec?.["template"] as { readonly spec: PodSpec } | undefined;
    const pod = kind === "Pod" ? (spec as PodSpec) : template?.spec;
    return pod === undefined ? [] : [{ name: `${kind} ${metadata.name}`, spec: pod }];
  });
}

export function findPodSpec(objects: readonly ChartObject[], name: string): PodSpec {
  return present(listPodSpecs(objects).find((each) => each.name === name)?.spec, name);
}
