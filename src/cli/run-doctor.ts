/** `doctor`: reads, checks, says. */
import { hasKubeCode } from "../kube/kube-failure.ts";
import { EXIT_STATUSES } from "./cli-failure.ts";
import { checkCluster } from "./cluster-checks.ts";
import { type ClusterFacts } from "./facts.ts";
import { cannotTell, countFindings, type FindingGroup, hasFailure, note, writeFindings } from "./findings.ts";
import { checkGuest } from "./guest-checks.ts";
import { type Known } from "./kube-objects.ts";
import { checkNodes } from "./node-checks.ts";
import { encodeOutput } from "./output.ts";
import { type ShownVm } from "./protected-vms.ts";
import { readClusterFacts, readGuestFacts } from "./read-facts.ts";
import { ask, readNamespace, readScope, readVms, type Session } from "./session.ts";

export async function runDoctor(session: Session): Promise<number> {
  const { terminal, invocation } = session;
  // Whether there is a cluster at all is no finding among others.
  await session.cluster.readServerVersion(session.call).catch((error: unknown) => {
    if (!hasKubeCode(error, "Forbidden")) {
      throw error;
    }
  });
  const vms = await askVms(session);
  const groups = await examine(session, await readClusterFacts(session, { readsSecrets: true }), vms);
  const output = invocation.texts.get("output") ?? "table";
  if (output === "json" || output === "yaml") {
    terminal.print([encodeOutput(encodeReport(groups), output)]);
  } else {
    terminal.print(writeFindings(groups, terminal.paint, output === "wide"));
  }
  return hasFailure(groups) ? EXIT_STATUSES.Failed.status : 0;
}

/** All there are, unless told; for whoever may not see all, those of the own namespace. */
async function askVms(session: Session): Promise<Known<readonly ShownVm[]>> {
  const { texts, names } = session.invocation;
  if (texts.has("namespace") || names.length > 0) {
    const vms = readVms(session, await readScope(session));
    return names.length > 0 ? { tag: "known", value: await vms } : ask(vms);
  }
  const all = await ask(readVms(session, undefined));
  return all.tag === "unknown" ? ask(readVms(session, await readNamespace(session))) : all;
}

/** So many at once that a large cluster is quick and its API server does not notice. */
const AT_ONCE = 8;

export async function examine(
  session: Session,
  facts: ClusterFacts,
  vms: Known<readonly ShownVm[]>,
): Promise<readonly FindingGroup[]> {
  const groups: FindingGroup[] = [checkCluster(facts), ...checkNodes(facts)];
  if (vms.tag !== "known") {
    return [
      ...groups,
      { subject: "ProtectedVMs", findings: [cannotTell("ProtectedVMs", vms, "list of ProtectedVMs")] },
    ];
  }
  for (let at = 0; at < vms.value.length; at += AT_ONCE) {
    const some = vms.value.slice(at, at + AT_ONCE);
    groups.push(...(await Promise.all(some.map(async (vm) => checkGuest(facts, await readGuestFacts(session, vm))))));
  }
  return vms.value.length === 0
    ? [...groups, { subject: "ProtectedVMs", findings: [note("ProtectedVMs", "nothing is protected yet")] }]
    : groups;
}

/** Stable, for scripts: `findings` is one list with the subject in each. */
export function encodeReport(groups: readonly FindingGroup[]): unknown {
  return {
    healthy: !hasFailure(groups),
    counts: countFindings(groups),
    findings: groups.flatMap(({ subject, findings }) => findings.map((finding) => ({ subject, ...finding }))),
  };
}
