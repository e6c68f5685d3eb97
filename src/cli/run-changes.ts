/** `unprotect`, `switchover` and `failover`: what is asked of the operator, and the waiting for it. */
import { CliFailure, usageWrong } from "./cli-failure.ts";
import { confirm, type Question } from "./confirm.ts";
import { listEvents } from "./events.ts";
import { type Step, waitForVm } from "./follow.ts";
import { type KubeEvent } from "./kube-objects.ts";
import { findCondition, isAdopted, listNodes, type ShownVm } from "./protected-vms.ts";
import { annotationOf, countEvents, decideRequest, listNewEvents, type Request, valueOfRequest } from "./requests.ts";
import { type KubeObject } from "../kube/kube-object.ts";
import { kinds, readNamespace, readVm, type Session } from "./session.ts";

export const FIELD_MANAGER = "kubectl-twinrun";
const MINUTE_MS = 60_000;

export const isWaiting = ({ invocation }: Session): boolean => !invocation.refused.has("wait");

async function readNamed(session: Session): Promise<ShownVm> {
  const [name = ""] = session.invocation.names;
  return readVm(session, await readNamespace(session), name);
}

const namespaceOf = ({ metadata }: ShownVm): string => metadata.namespace ?? "default";

export async function runUnprotect(session: Session): Promise<number> {
  const vm = await readNamed(session);
  const { name, uid } = vm.metadata;
  const namespace = namespaceOf(vm);
  await confirm(session, encodeFarewell(vm));
  await session.cluster.remove(
    { kind: kinds.protectedVm, namespace, name },
    { ...session.call, ...(uid === undefined ? {} : { uid }) },
  );
  if (!isWaiting(session)) {
    session.terminal.print([`protectedvm.twinrun.dev/${name} is being taken apart`]);
    return 0;
  }
  const says = await waitForVm(session, {
    ...{ namespace, name, timeoutMs: session.invocation.numbers.get("timeout") ?? 10 * MINUTE_MS },
    stays: "it goes on without you; look with: kubectl twinrun status",
    decide: (now) => decideFarewell(now, vm),
  });
  session.terminal.print([says]);
  return 0;
}

/** What is lost decides how it is asked. */
export function encodeFarewell(vm: ShownVm): Question {
  const { name } = vm.metadata;
  if (isAdopted(vm)) {
    const reference = vm.spec?.virtualMachineRef?.name ?? name;
    return {
      explains: [
        `VirtualMachine ${reference} runs on where it is, unprotected, and gets back the settings it had before.`,
        "Its copy on the other node is deleted, with the volumes that were made for it.",
      ],
      asks: `End the protection of ${name}?`,
    };
  }
  return {
    explains: [
      `The guest of ${name} exists only under protection: it is shut off, on both nodes.`,
      "Its VirtualMachineInstances and the volumes that were made for it are deleted, WITH THEIR CONTENT.",
    ],
    ...{ asks: "Delete the guest?", word: name },
  };
}

export function decideFarewell(now: ShownVm | undefined, before: ShownVm): Step {
  const { name, uid } = before.metadata;
  if (now === undefined || now.metadata.uid !== uid) {
    const rest = isAdopted(before)
      ? `VirtualMachine ${before.spec?.virtualMachineRef?.name ?? name} is as it was before`
      : "the guest and its volumes are gone";
    return { tag: "done", says: `${name} is not protected any more; ${rest}` };
  }
  const messages = [findCondition(now, "Stalled"), findCondition(now, "Reconciling"), findCondition(now, "Ready")]
    .filter((condition) => condition?.status === "True" || condition?.reason === "Deleting")
    .flatMap(({ message } = { type: "", status: "" }) => (message === undefined || message === "" ? [] : [message]));
  return { tag: "waiting", says: messages[0] ?? "the pair is being taken apart" };
}

export async function runSwitchover(session: Session): Promise<number> {
  const vm = await readNamed(session);
  const to = session.invocation.texts.get("to") ?? vm.status?.standby?.node;
  if (to === undefined) {
    throw new CliFailure(
      "Refused",
      `${vm.metadata.name} has no standby to switch over to; see: kubectl twinrun describe ${vm.metadata.name}`,
    );
  }
  if (vm.status?.primary?.node === to) {
    session.terminal.print([`the guest runs on ${to} already`]);
    return 0;
  }
  if (!listNodes(vm).includes(to)) {
    throw usageWrong(`--to must be a node of one of its sides (${listNodes(vm).join(", ")}), not ${to}`);
  }
  return sendRequest(session, vm, { tag: "switchover", to });
}

export async function runFailover(session: Session): Promise<number> {
  const vm = await readNamed(session);
  const owner = session.invocation.texts.get("force-owner");
  return owner === undefined ? failOver(session, vm) : overrideQuorum(session, vm, owner);
}

async function failOver(session: Session, vm: ShownVm): Promise<number> {
  const { name } = vm.metadata;
  const from = vm.status?.primary?.node;
  if (from === undefined) {
    throw new CliFailure("Refused", `nobody knows which node runs ${name}; see: kubectl twinrun describe ${name}`);
  }
  const standby = vm.status?.standby?.node;
  if (standby === undefined || findCondition(vm, "InSync")?.status !== "True") {
    const why = standby === undefined ? "it has no standby" : "its standby is not in sync";
    throw new CliFailure(
      "Refused",
      `${name} cannot fail over: ${why}, and killing its primary would only stop the guest`,
    );
  }
  await confirm(session, {
    explains: [
      `The QEMU of ${name} on ${from} is killed. ${standby} goes on from the last acknowledged checkpoint; clients see a pause.`,
      "The guest is unprotected until a new copy is whole. (switchover does the same without a fault.)",
    ],
    ...{ asks: `Kill the primary of ${name}?`, word: name },
  });
  return sendRequest(session, vm, { tag: "failover", from });
}

/** What the operator would refuse is refused before the question; it looks again when it comes to it. */
async function overrideQuorum(session: Session, vm: ShownVm, node: string): Promise<number> {
  const { invocation } = session;
  const { name } = vm.metadata;
  const why = invocation.texts.get("reason");
  const nodes = listNodes(vm);
  if (why === undefined) {
    throw usageWrong("--force-owner needs --reason: it stays in the guest's record");
  }
  // A side that is away may not be among them; the operator knows.
  if (nodes.length > 1 && !nodes.includes(node)) {
    throw usageWrong(`--force-owner must be a node of one of its sides (${nodes.join(", ")}), not ${node}`);
  }
  const others = nodes.filter((each) => each !== node).join(", ");
  await confirm(session, {
    explains: [
      `${node} becomes the owner of ${name}, whatever the quorum's record says, and runs the guest from what it has.`,
      `If the other side${others === "" ? "" : ` (${others})`} runs the guest or comes back with it, TWO GUESTS ARE SEEN BY CLIENTS, and what one of them wrote is lost.`,
    ],
    ...{ asks: `Is the other side of ${name} down for certain?`, word: name },
  });
  const isCertain = invocation.switches.has("i-know-the-other-side-is-down");
  const who = await readOwnName(session);
  const override = { node, who, why: why.slice(0, 1_024), at: new Date().toISOString(), isCertain };
  return sendRequest(session, vm, { tag: "override", override });
}

type SelfReview = KubeObject & { readonly status?: { readonly userInfo?: { readonly username?: string } } };

/** As the API server knows whoever asks. */
async function readOwnName({ cluster, call }: Session): Promise<string> {
  const review: SelfReview = {
    apiVersion: "authentication.k8s.io/v1",
    kind: "SelfSubjectReview",
    metadata: { name: "self" },
  };
  const { status } = await cluster.create(review, call);
  return status?.userInfo?.username ?? "somebody whom the API server does not name";
}

/** Writes the annotation and waits for what the operator makes of it. */
export async function sendRequest(session: Session, vm: ShownVm, asked: Request): Promise<number> {
  const { cluster, terminal, call } = session;
  const { name, uid } = vm.metadata;
  const namespace = namespaceOf(vm);
  const annotation = annotationOf(asked);
  const before = countEvents(await readEvents(session, vm));
  // Not with the version that was read: figures change it all the time. Another object of that name is refused.
  await cluster.patch(
    { kind: kinds.protectedVm, namespace, name },
    { metadata: { uid, annotations: { [annotation]: valueOfRequest(asked) } } },
    { ...call, fieldManager: FIELD_MANAGER },
  );
  if (!isWaiting(session)) {
    terminal.print([`${asked.tag} of ${name} is asked for`]);
    return 0;
  }
  let goneAtMs: number | undefined;
  const says = await waitForVm(session, {
    ...{ namespace, name, timeoutMs: session.invocation.numbers.get("timeout") ?? 5 * MINUTE_MS },
    stays: `the request stays; take it back with: kubectl annotate pvm -n ${namespace} ${name} ${annotation}-`,
    decide: async (now) => {
      const isThere = now?.metadata.annotations?.[annotation] !== undefined;
      goneAtMs = isThere ? undefined : (goneAtMs ?? performance.now());
      const newEvents = isThere ? [] : listNewEvents(await readEvents(session, vm), before);
      return decideRequest({
        ...{ vm: now, request: asked, newEvents },
        goneForMs: goneAtMs === undefined ? 0 : performance.now() - goneAtMs,
      });
    },
  });
  terminal.print([says]);
  return 0;
}

/** Only its own: the operator answers there. */
async function readEvents(session: Session, vm: ShownVm): Promise<readonly KubeEvent[]> {
  const events = await listEvents(session, [{ ...vm, status: {} }]);
  return events.filter(({ regarding }) => regarding?.kind === "ProtectedVM");
}
