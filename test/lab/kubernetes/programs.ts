/**
 * Where the programs of Kubernetes are on this machine. First wins:
 *
 *   kube-apiserver         KUBEBUILDER_ASSETS if it has both this and etcd, what build.sh built
 *   etcd                   the same KUBEBUILDER_ASSETS, PATH
 *   kubectl                PATH, the same KUBEBUILDER_ASSETS, what build.sh built
 *   helm                   PATH, what build.sh built
 *   all others             what build.sh built
 */
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Failure } from "../../../src/lib/failure.ts";
import { cachePath } from "../images.ts";

export type ProgramName =
  | "etcd"
  | "kube-apiserver"
  | "kube-controller-manager"
  | "kube-scheduler"
  | "kubelet"
  | "kube-proxy"
  | "kubectl"
  | "helm";

export class ProgramsMissing extends Failure<{
  readonly code: "ProgramsMissing";
  readonly names: readonly ProgramName[];
}> {}

export type Programs = ReadonlyMap<ProgramName, string>;

/** Paths of the programs that there are. */
export function findPrograms(names: readonly ProgramName[]): Programs {
  return new Map(
    names.flatMap((name) => {
      const path = listCandidates(name).find(isExecutable);
      return path === undefined ? [] : [[name, path] as const];
    }),
  );
}

/** What to do for those of `names` that are not there; undefined when all are. */
export function findRemedy(names: readonly ProgramName[]): string | undefined {
  const found = findPrograms(names);
  const missing = names.filter((name) => !found.has(name));
  const toBuild = missing.filter((name) => name !== "etcd");
  const remedies = [
    ...(missing.includes("etcd") ? ["make setup"] : []),
    ...(toBuild.length > 0 ? [`make lab-binaries PROGRAMS="${toBuild.join(" ")}"`] : []),
  ];
  return missing.length === 0 ? undefined : `there is no ${missing.join(", no ")}: ${remedies.join(" and ")}`;
}

/** Paths of all of `names`, or a failure that says how to get what is missing. */
export function requirePrograms(names: readonly ProgramName[]): Programs {
  const remedy = findRemedy(names);
  const found = findPrograms(names);
  if (remedy !== undefined) {
    throw new ProgramsMissing({ code: "ProgramsMissing", names: names.filter((name) => !found.has(name)) }, remedy);
  }
  return found;
}

function listCandidates(name: ProgramName): string[] {
  const inPath = (process.env["PATH"] ?? "").split(":").map((directory) => join(directory, name));
  const built = name === "etcd" ? [] : [join(builtDirectory(), name)];
  switch (name) {
    case "kube-apiserver":
      return [...listAssets(name), ...built];
    case "etcd":
      return [...listAssets(name), ...inPath];
    case "kubectl":
      return [...inPath, ...listAssets(name), ...built];
    case "helm":
      return [...inPath, ...built];
    default:
      return built;
  }
}

/** Half a set would pair an etcd and an API server that nobody has tried together. */
function listAssets(name: ProgramName): string[] {
  const directory = process.env["KUBEBUILDER_ASSETS"];
  const isSet =
    directory !== undefined && ["kube-apiserver", "etcd"].every((each) => isExecutable(join(directory, each)));
  return isSet ? [join(directory, name)] : [];
}

/** What build.sh unpacked of Debian: containerd, runc, the CNI plugins, busybox; undefined when it did not yet. */
export function findDebianRoot(): string | undefined {
  const root = join(cachePath(), "kubernetes/debian");
  return existsSync(root) ? root : undefined;
}

export function requireDebianRoot(): string {
  const root = findDebianRoot();
  if (root === undefined) {
    const remedy = "there is no containerd: make lab-binaries PROGRAMS=debian";
    throw new ProgramsMissing({ code: "ProgramsMissing", names: [] }, remedy);
  }
  return root;
}

/** For programs of {@link requireDebianRoot} that are to find each other. */
export function debianEnvironment(): NodeJS.ProcessEnv {
  const root = requireDebianRoot();
  return { ...process.env, PATH: `${root}/usr/bin:${root}/usr/sbin:${process.env["PATH"] ?? ""}` };
}

/** Where build.sh puts what it builds. */
const builtDirectory = (): string => join(cachePath(), "kubernetes", readVersion());

function readVersion(): string {
  const text = readFileSync(join(import.meta.dirname, "go.mod"), "utf8");
  return /^(?:require)?\s+k8s[.]io\/kubernetes (v\S+)/m.exec(text)?.[1] ?? "";
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
