/** Candidates for a shell. Whatever goes wrong, there are just fewer of them: nobody reads an error between two keys. */
import { type Cluster } from "../kube/cluster.ts";
import { type Candidate, type CompletionPlan, completeNames, planCompletion, writeCandidates } from "./completion.ts";
import { kinds } from "./session.ts";
import { listContexts, openCluster } from "./connection.ts";
import { type ShownVm } from "./protected-vms.ts";
import { CLEAR_WORD } from "./run-faults.ts";

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

async function askNames(asked: Asked, environment: NodeJS.ProcessEnv): Promise<readonly Candidate[]> {
  const { what, prefix, flags } = asked;
  if (what === "context") {
    return completeNames(await listContexts(flags, environment), prefix);
  }
  const cluster = openCluster(flags, environment);
  try {
    const names =
      what === "fault" ? await listOfFaults(cluster, asked) : await listNames(cluster, what, flags.namespace);
    return completeNames(names, prefix);
  } finally {
    cluster.close();
  }
}

async function listNames(
  cluster: Cluster,
  what: Exclude<Asked["what"], "context" | "fault">,
  given: string | undefined,
): Promise<readonly string[]> {
  const namespaced = { protectedVm: kinds.protectedVm, virtualMachine: kinds.virtualMachine } as const;
  const kind = { ...namespaced, namespace: kinds.namespace, node: kinds.node }[what];
  const namespace = kind.namespaced ? (given ?? (await cluster.readOwnNamespace()) ?? "default") : undefined;
  const { items } = await cluster.list(kind, { namespace }, { timeoutMs: PATIENCE_MS });
  return items.map(({ metadata }) => metadata.name);
}

/** A protected VM or the word `clear`; after that a VM, and then what failed of it. */
async function listOfFaults(cluster: Cluster, { flags, given = [] }: Asked): Promise<readonly string[]> {
  const [word, name] = given;
  if (word !== CLEAR_WORD || name === undefined) {
    const vms = await listNames(cluster, "protectedVm", flags.namespace);
    return word === undefined ? [CLEAR_WORD, ...vms] : vms;
  }
  return given.length > 2 ? [] : listFaultsOf(cluster, name, flags.namespace);
}

async function listFaultsOf(cluster: Cluster, name: string, given: string | undefined): Promise<readonly string[]> {
  const namespace = given ?? (await cluster.readOwnNamespace()) ?? "default";
  const vm = await cluster.read<ShownVm>({ kind: kinds.protectedVm, namespace, name }, { timeoutMs: PATIENCE_MS });
  return [...new Set((vm?.status?.faults ?? []).map(({ node, component }) => `${node}/${component}`))];
}
