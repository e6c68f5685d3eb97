/** `maintenance NODE begin|end|status`: the mark on the node, and the waiting for what the operator makes of it. */
import { findMaintenance } from "../decide/maintenance.ts";
import { hasKubeCode } from "../kube/kube-failure.ts";
import { type KubeObject } from "../kube/kube-object.ts";
import { CliFailure, usageWrong } from "./cli-failure.ts";
import { MAINTENANCE_STEPS } from "./command-table.ts";
import { confirm } from "./confirm.ts";
import { type Step, waitUntil } from "./follow.ts";
import { type Json, type Node } from "./kube-objects.ts";
import {
  decideBeginning,
  decideEmptied,
  decideWhole,
  encodeBeginning,
  encodeEnd,
  guestColumns,
  judgeNode,
  listGuestsOn,
  type MaintenanceFacts,
  sayMaintenance,
} from "./maintenance.ts";
import { encodeOutput } from "./output.ts";
import { type ShownPair } from "./protected-vms.ts";
import { FIELD_MANAGER, isWaiting } from "./run-changes.ts";
import { kinds, listObjects, type Session, sortObjects } from "./session.ts";
import { writeTable } from "./table.ts";

const WAIT_MS = 30 * 60_000;

export function runMaintenance(session: Session): Promise<number> {
  const [name = "", step = ""] = session.invocation.names;
  switch (step) {
    case "begin":
      return begin(session, name);
    case "end":
      return end(session, name);
    case "status":
      return showStatus(session, name);
    default:
      throw usageWrong(`maintenance needs ${MAINTENANCE_STEPS.join(", ")} after the node, not ${step}`);
  }
}

async function readFacts(session: Session, name: string): Promise<MaintenanceFacts> {
  const { systemNamespace } = session;
  const [nodes, pairs] = await Promise.all([
    listObjects<Node>(session, kinds.node),
    listObjects<ShownPair>(session, kinds.guestPair, { namespace: systemNamespace }),
  ]);
  const node = nodes.find(({ metadata }) => metadata.name === name);
  if (node === undefined) {
    const names = sortObjects(nodes).map(({ metadata }) => metadata.name);
    throw new CliFailure("Failed", `there is no node ${name}; there are ${names.join(", ")}`);
  }
  return { node, nodes, pairs };
}

async function begin(session: Session, name: string): Promise<number> {
  const facts = await readFacts(session, name);
  const beginning = decideBeginning(facts);
  if (beginning.tag === "refused") {
    throw new CliFailure("Refused", beginning.says);
  }
  if (beginning.tag === "possible") {
    await confirm(session, { explains: beginning.explains, asks: `Begin the maintenance of ${name}?` });
    await mark(session, facts);
  }
  if (!isWaiting(session)) {
    session.terminal.print([`the maintenance of ${name} has begun; see: kubectl twinrun maintenance ${name} status`]);
    return 0;
  }
  return wait(session, name, decideEmptied);
}

/** Of two that begin on two nodes at once neither may: each looks again, and takes its mark back. */
async function mark(session: Session, { node }: MaintenanceFacts): Promise<void> {
  const reason = session.invocation.texts.get("reason") ?? "";
  const since = new Date().toISOString();
  const { name } = node.metadata;
  await patchNode(session, name, encodeBeginning(node, { by: await readOwnName(session), since, reason }));
  const after = await readFacts(session, name);
  const answer = decideBeginning(after);
  if (answer.tag === "refused") {
    await patchNode(session, name, encodeEnd(after.node));
    throw new CliFailure("Refused", answer.says);
  }
}

async function patchNode({ cluster, call }: Session, name: string, patch: Json): Promise<void> {
  await cluster.patch({ kind: kinds.node, name }, patch, { ...call, fieldManager: FIELD_MANAGER });
}

type SelfReview = KubeObject & { readonly status?: { readonly userInfo?: { readonly username?: string } } };

/** As the API server knows the caller. */
async function readOwnName({ cluster, call }: Session): Promise<string> {
  const review = { apiVersion: "authentication.k8s.io/v1", kind: "SelfSubjectReview", metadata: { name: "self" } };
  try {
    return (await cluster.create<SelfReview>(review, call)).status?.userInfo?.username ?? "";
  } catch (error) {
    if (hasKubeCode(error, "Forbidden", "NotFound")) {
      return "";
    }
    throw error;
  }
}

async function end(session: Session, name: string): Promise<number> {
  const { node } = await readFacts(session, name);
  if (findMaintenance(node) === undefined) {
    session.terminal.print([`${name} is not in maintenance`]);
    return 0;
  }
  await patchNode(session, name, encodeEnd(node));
  if (!isWaiting(session)) {
    session.terminal.print([`the maintenance of ${name} has ended`]);
    return 0;
  }
  return wait(session, name, decideWhole);
}

async function wait(session: Session, name: string, decide: (facts: MaintenanceFacts) => Step): Promise<number> {
  const says = await waitUntil(session, {
    timeoutMs: session.invocation.numbers.get("timeout") ?? WAIT_MS,
    stays: `it goes on without you; look with: kubectl twinrun maintenance ${name} status`,
    look: async () => decide(await readFacts(session, name)),
  });
  session.terminal.print([says]);
  return 0;
}

async function showStatus(session: Session, name: string): Promise<number> {
  const facts = await readFacts(session, name);
  const { terminal, invocation } = session;
  const output = invocation.texts.get("output");
  const maintenance = findMaintenance(facts.node);
  const guests = listGuestsOn(facts);
  const verdict = judgeNode(facts);
  if (output === "json" || output === "yaml") {
    const { mayBeSwitchedOff, says } = verdict;
    terminal.print([
      encodeOutput({ node: name, maintenance: maintenance ?? null, mayBeSwitchedOff, says, guests }, output),
    ]);
    return 0;
  }
  if (maintenance !== undefined) {
    terminal.print([sayMaintenance(facts.node, maintenance, Date.now())]);
  }
  if (guests.length > 0) {
    terminal.print(writeTable(guestColumns, guests, { paint: terminal.paint }));
  }
  terminal.print([verdict.says]);
  return 0;
}
