/**
 * The pair of a guest that has none yet. Nodes are chosen once, so everything that has a say in it has to be known by then. What
 * can still change is where the volumes of an adopted VirtualMachine are: KubeVirt may be starting it in the same moment, on a
 * node of its own choice. So it is held first, and only then placed.
 */
import {
  ALLOW_RESTART_ANNOTATION,
  findStranger,
  isHeld,
  mayHaveGuest,
  mayRestart,
  ORIGINAL_ANNOTATION,
  planHold,
  planReturn,
} from "./adoption.ts";
import { type Vmi } from "./cluster-objects.ts";
import { viewGroup } from "./guest-group.ts";
import { listFullLinks } from "./link-room.ts";
import { encodeNewPair, type Placed, type Subject } from "./pair-spec.ts";
import { listOwnQuorums } from "./pair-quorum.ts";
import { listFaults } from "./pair-view.ts";
import { planRemains } from "./placed-anew.ts";
import { decidePlacement, type PlacementInput } from "./placement.ts";
import { encodePlacementInput } from "./placement-input.ts";
import { type Action, type PlannedEvent } from "./protected-vm-plan.ts";
import { type Findings } from "./protected-vm-status.ts";
import { findLastNode, findUnreachable, listOriginalClaims } from "./volume-places.ts";

export type PartialPlan = {
  readonly actions: readonly Action[];
  readonly findings: Omit<Findings, "guest" | "view" | "faults">;
  readonly events: readonly PlannedEvent[];
};

export function planCreation(subject: Subject): PartialPlan {
  const { observed, source, identity } = subject;
  const stranger = findStranger(observed, source, identity.guest);
  if (stranger !== undefined && mayHaveGuest(stranger) && !mayRestart(observed)) {
    return stall(sayRestart(stranger), planRelinquish(subject));
  }
  const placement = decidePlacement(encodeFirstPlacement(subject, stranger));
  if (placement.tag === "stalled") {
    return stall(placement, planRelinquish(subject));
  }
  const remains = planRemains(subject);
  if (remains !== undefined) {
    return { actions: remains.actions, findings: { waitsFor: remains.waitsFor }, events: [] };
  }
  const { actions, waitsFor, settlesInMs } = planHold(observed, source, stranger);
  return waitsFor === undefined
    ? planPair(subject, placement)
    : { actions, findings: { waitsFor, settlesInMs }, events: [] };
}

const stall = (stalled: NonNullable<Findings["stalled"]>, actions: readonly Action[] = []): PartialPlan => ({
  actions,
  findings: { stalled },
  events: [],
});

function sayRestart({ metadata }: Vmi): NonNullable<Findings["stalled"]> {
  const message =
    `${metadata.name} runs without Twinrun's hook and has to be restarted once: shut it down, or annotate the ` +
    `ProtectedVM with ${ALLOW_RESTART_ANNOTATION}=true`;
  return { reason: "RestartNeeded", message };
}

/** One that was held in vain is not kept from running. */
function planRelinquish({ observed, source, identity }: Subject): readonly Action[] {
  const isHeld = source.virtualMachine?.metadata.annotations?.[ORIGINAL_ANNOTATION] !== undefined;
  return isHeld ? planReturn(observed, identity.guest) : [];
}

function encodeFirstPlacement(subject: Subject, stranger: Vmi | undefined): PlacementInput {
  const { observed, source } = subject;
  const group = viewGroup(observed);
  const hasCheckpoints = observed.protectedVm.spec.mode === "FaultTolerant";
  const claims = listOriginalClaims(observed, source);
  const unreachable = observed.nodes.flatMap((node) => {
    const why = findUnreachable(observed, claims, node);
    return why === undefined ? [] : [[node.metadata.name, why] as const];
  });
  return encodePlacementInput(subject, {
    faults: listFaults(observed, []),
    current: stranger?.status?.nodeName ?? findLastNode(claims),
    unreachable: new Map(unreachable),
    group: group?.nodes && { name: group.name, nodes: group.nodes, first: group.node ?? "" },
    fullLinks: hasCheckpoints ? listFullLinks(observed.linkUses, observed.nodes) : new Map(),
  });
}

function planPair(subject: Subject, placement: Placed): PartialPlan {
  const [first, second] = [placement.first.metadata.name, placement.second.metadata.name];
  const pair = encodeNewPair(subject, placement);
  if (pair === undefined) {
    const { low, high } = subject.observed.settings.ports;
    const message =
      `${first} and ${second} have no port from ${low} to ${high} that is free on both: install Twinrun with a larger ` +
      "range (agent.enginePorts), or place the guest on other nodes";
    return stall({ reason: "PortsMissing", message });
  }
  const { observed, source, identity } = subject;
  // Of a pair that was given up there may be a record, which says that another node is to run the guest.
  const quorums = listOwnQuorums(observed.splitSitePair);
  const forgets = isHeld(source) ? [{ tag: "deleteRecord", guest: identity.guest, quorums } as const] : [];
  return {
    actions: [...forgets, { tag: "applyPair", pair }],
    findings: { waitsFor: "the GuestPair" },
    events: [{ type: "Normal", reason: "Placed", message: `the guest starts on ${first}, its standby on ${second}` }],
  };
}
