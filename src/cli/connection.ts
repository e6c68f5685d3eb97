/** The cluster that the flags and the environment name, found as kubectl finds it. */
import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { openKubeconfigs } from "../kube/access.ts";
import { Cluster } from "../kube/cluster.ts";

export type ClusterChoice = { readonly kubeconfig?: string | undefined; readonly context?: string | undefined };

/** Nothing is read before the first request. */
export function openCluster({ kubeconfig, context }: ClusterChoice, environment: NodeJS.ProcessEnv): Cluster {
  return kubeconfig === undefined && context === undefined
    ? Cluster.fromDefault(environment)
    : new Cluster(openKubeconfigs(listKubeconfigs(kubeconfig, environment), context));
}

function listKubeconfigs(given: string | undefined, environment: NodeJS.ProcessEnv): readonly string[] {
  const named = (environment["KUBECONFIG"] ?? "").split(delimiter).filter((path) => path !== "");
  if (given !== undefined) {
    return [given];
  }
  return named.length > 0 ? named : [join(homedir(), ".kube", "config")];
}

/** Names of contexts, for completion; files that are not there have none. */
export async function listContexts(
  { kubeconfig }: ClusterChoice,
  environment: NodeJS.ProcessEnv,
): Promise<readonly string[]> {
  const { parse } = await import("yaml");
  const lists = await Promise.all(
    listKubeconfigs(kubeconfig, environment).map(async (path) => {
      const config = parse(await readFile(path, "utf8").catch(() => "{}")) as {
        readonly contexts?: readonly { readonly name: string }[];
      } | null;
      return (config?.contexts ?? []).map(({ name }) => name);
    }),
  );
  return [...new Set(lists.flat())];
}
