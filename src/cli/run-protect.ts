/** `protect`: checks first, then makes the ProtectedVM. */
import { CliFailure, usageWrong } from "./cli-failure.ts";
import { checkCluster } from "./cluster-checks.ts";
import { type ClusterFacts } from "./facts.ts";
import { countFindings, type FindingGroup, writeFinding } from "./findings.ts";
import { type Step, waitForVm } from "./follow.ts";
import { checkGuest, writeCondition } from "./guest-checks.ts";
import { type VirtualMachine } from "./kube-objects.ts";
import { listFitNodes } from "./node-checks.ts";
import { encodeOutput } from "./output.ts";
import { type Draft, parseDraft } from "./protection-draft.ts";
import { findCondition, findSyncPercent, type ShownVm } from "./protected-vms.ts";
import { readClusterFacts, readGuestFacts } from "./read-facts.ts";
import { FIELD_MANAGER } from "./run-changes.ts";
import { ask, findObject, kinds, listObjects, readNamespace, type Session } from "./session.ts";

const WAIT_MS = 30 * 60_000;

export async function runProtect(session: Session): Promise<number> {
  const { invocation, cluster, terminal, call } = session;
  const namespace = await readNamespace(session);
  const facts = await readClusterFacts(session, { readsSecrets: false });
  assertPlacement(session, facts);
  const draft = parseDraft(invocation, namespace);
  const isDry = invocation.switches.has("dry-run");
  const { name } = draft.object.metadata;
  await assertVirtualMachine(session, namespace);
  await assertUnprotected(session, namespace);
  const groups = [onlyWrong(checkCluster(facts)), checkGuest(facts, await readGuestFacts(session, draft.vm))];
  showGroups(session, groups);
  const mustMend = countFindings(groups).failure;
  if (mustMend > 0 && !invocation.switches.has("force")) {
    throw new CliFailure("Refused", `nothing was made: ${mustMend} to mend first (--force makes it all the same)`);
  }
  await cluster.create(draft.object, { ...call, fieldManager: FIELD_MANAGER, dryRun: isDry });
  if (isDry) {
    terminal.print([encodeOutput(draft.object, "yaml")]);
    terminal.say("dry run: nothing was made");
    return 0;
  }
  terminal.print([`protectedvm.twinrun.dev/${name} created`]);
  if (invocation.switches.has("wait")) {
    const timeoutMs = invocation.numbers.get("timeout") ?? WAIT_MS;
    terminal.print([await waitForVm(session, { ...waitForReady(namespace, draft), timeoutMs })]);
  } else {
    terminal.say(`follow it with: kubectl twinrun status -n ${namespace} ${name} --watch`);
  }
  return 0;
}

/** What is well in the cluster is of no interest here. */
const onlyWrong = ({ subject, findings }: FindingGroup): FindingGroup => ({
  subject,
  findings: findings.filter(({ level }) => level === "failure"),
});

function showGroups({ terminal }: Session, groups: readonly FindingGroup[]): void {
  const shown = groups.flatMap(({ findings }) => findings).filter(({ level }) => level !== "ok" && level !== "unknown");
  for (const line of shown.flatMap((finding) => writeFinding(finding, terminal.saysPaint))) {
    terminal.say(line);
  }
}

/** Which nodes there are is the first question of whoever names none. */
function assertPlacement({ invocation: { texts } }: Session, facts: ClusterFacts): void {
  if (!texts.has("nodes") && !texts.has("selector")) {
    const fit = listFitNodes(facts).map(({ metadata }) => metadata.name);
    const advice = fit.length < 2 ? "kubectl twinrun doctor says what nodes lack" : `fit are: ${fit.join(", ")}`;
    throw usageWrong(`protect needs --nodes A,B or --selector KEY=VALUE; ${advice}`);
  }
}

async function assertVirtualMachine(session: Session, namespace: string): Promise<void> {
  const [name = ""] = session.invocation.names;
  const found = await ask(findObject<VirtualMachine>(session, { kind: kinds.virtualMachine, namespace, name }));
  if (found.tag === "absent") {
    throw new CliFailure(
      "Failed",
      `there is no VirtualMachine ${name} in namespace ${namespace}: kubectl get vm -A shows all`,
    );
  }
}

/** The operator would say it too, in a condition of the second one. */
async function assertUnprotected(session: Session, namespace: string): Promise<void> {
  const [vm = ""] = session.invocation.names;
  const others = await listObjects<ShownVm>(session, kinds.protectedVm, { namespace });
  const other = others.find(({ spec }) => spec?.virtualMachineRef?.name === vm);
  if (other !== undefined) {
    const { name } = other.metadata;
    throw new CliFailure(
      "Refused",
      `VirtualMachine ${vm} is protected by ProtectedVM ${name} already: kubectl twinrun describe ${name} -n ${namespace}`,
    );
  }
}

function waitForReady(namespace: string, { object }: Draft): Omit<Parameters<typeof waitForVm>[1], "timeoutMs"> {
  const { name } = object.metadata;
  return { namespace, name, stays: "it goes on without you; look with: kubectl twinrun status", decide: decideReady };
}

export function decideReady(vm: ShownVm | undefined): Step {
  if (vm === undefined) {
    return { tag: "refused", says: "the ProtectedVM was deleted meanwhile" };
  }
  const [ready, stalled] = [findCondition(vm, "Ready"), findCondition(vm, "Stalled")];
  if (ready?.status === "True") {
    return { tag: "done", says: `protected: ${writeCondition(ready)}` };
  }
  if (stalled?.status === "True") {
    return { tag: "refused", says: `it waits for you: ${writeCondition(stalled)}` };
  }
  return { tag: "waiting", says: writeCreation(ready?.message, findSyncPercent(vm)) };
}

function writeCreation(says = "waiting for the operator", percent: number | undefined): string {
  return percent === undefined ? says : `${says} (disks ${Math.floor(percent)}%)`;
}
