/** `version`: of this program and of what it talks to. */
import { componentOf } from "./facts.ts";
import { type Known, type KubeVirt, type Workload } from "./kube-objects.ts";
import { encodeOutput } from "./output.ts";
import { OURS } from "./read-facts.ts";
import { ask, kinds, listObjects, type Session } from "./session.ts";

type Versions = Readonly<Record<string, string>>;

export async function runVersion(session: Session): Promise<number> {
  const { invocation, terminal, ownVersion } = session;
  const versions: Versions = {
    kubectlTwinrun: ownVersion,
    node: process.version,
    ...(invocation.switches.has("client") ? {} : await readVersions(session)),
  };
  const output = invocation.texts.get("output");
  if (output === "json" || output === "yaml") {
    terminal.print([encodeOutput(versions, output)]);
  } else {
    const width = Math.max(...Object.keys(versions).map((name) => name.length));
    terminal.print(Object.entries(versions).map(([name, version]) => `${`${name}:`.padEnd(width + 2)} ${version}`));
  }
  return 0;
}

async function readVersions(session: Session): Promise<Versions> {
  const { cluster, call, systemNamespace: namespace } = session;
  // Asked first and without excuse: who asks for versions wants to hear that there is no cluster.
  const { gitVersion } = await cluster.readServerVersion(call);
  const [kubevirts, deployments, daemonSets] = await Promise.all([
    ask(listObjects<KubeVirt>(session, kinds.kubevirt)),
    ask(listObjects<Workload>(session, kinds.deployment, { namespace, labelSelector: OURS })),
    ask(listObjects<Workload>(session, kinds.daemonSet, { namespace, labelSelector: OURS })),
  ]);
  return {
    kubernetes: gitVersion,
    kubevirt: write(kubevirts, ([first]) => first?.status?.observedKubeVirtVersion),
    operator: writePart(deployments, "operator"),
    agent: writePart(daemonSets, "agent"),
    quorum: writePart(deployments, "quorum"),
  };
}

function write<Value>(fact: Known<Value>, make: (value: Value) => string | undefined): string {
  return fact.tag === "unknown"
    ? "unknown (it may not be read)"
    : fact.tag === "absent"
      ? "none"
      : (make(fact.value) ?? "none");
}

/** What its label says, and which image it is. */
function writePart(fact: Known<readonly Workload[]>, component: string): string {
  return write(fact, (workloads) => {
    const found = workloads.find((each) => componentOf(each) === component);
    return found && `${found.metadata.labels?.["app.kubernetes.io/version"] ?? "unknown"} (${findImage(found)})`;
  });
}

const findImage = ({ spec }: Workload): string => spec?.template?.spec?.containers?.[0]?.image ?? "image unknown";
