/** Candidates for a shell. Whatever goes wrong, there are just fewer of them: nobody reads an error between two keys. */
import { type Cluster } from "../kube/cluster.ts";
import { type Candidate, type CompletionPlan, completeNames, planCompletion, writeCandidates } from "./completion.ts";
import { kinds } from "./session.ts";
import { listContexts, openCluster } from "./connection.ts";

/** As long as somebody waits for a tab. */
const PATIENCE_MS = 2_000;

export async function runComplete(
  words: readonly string[],
  environment: NodeJS.ProcessEnv,
): Promise<readonly string[]> {
  const plan = planCompletion(words);
  if (plan.tag === "files") {
    return writeCandidates("files");
  }
  return writeCandidates(plan.tag === "words" ? plan.candidates : await askNames(plan, environment).catch(() => []));
}

type Asked = Extract<CompletionPlan, { tag: "ask" }>;

async function askNames({ what, prefix, flags }: Asked, environment: NodeJS.ProcessEnv): Promise<readonly Candidate[]> {
  if (what === "context") {
    return completeNames(await listContexts(flags, environment), prefix);
  }
  const cluster = openCluster(flags, environment);
  try {
    return completeNames(await listNames(cluster, what, flags.namespace), prefix);
  } finally {
    cluster.close();
  }
}

async function listNames(
  cluster: Cluster,
  what: Exclude<Asked["what"], "context">,
  given: string | undefined,
): Promise<readonly string[]> {
  const namespaced = { protectedVm: kinds.protectedVm, virtualMachine: kinds.virtualMachine } as const;
  const kind = { ...namespaced, namespace: kinds.namespace, node: kinds.node }[what];
  const namespace = kind.namespaced ? (given ?? (await cluster.readOwnNamespace()) ?? "default") : undefined;
  const { items } = await cluster.list(kind, { namespace }, { timeoutMs: PATIENCE_MS });
  return items.map(({ metadata }) => metadata.name);
}
