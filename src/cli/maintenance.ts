/**
 * The maintenance of a node, judged from the Node, its peers and the GuestPairs: whether it may begin, how far it is, whether the
 * node may be switched off. The mark on the Node asks the operator to empty it, and each pair says when that is done.
 */
import { MAINTENANCE_ANNOTATION, SETTLED_ANNOTATION } from "../api/requests.ts";
import { vmiAnnotations } from "../api/vmi-contract.ts";
import { encodeMaintenance, findMaintenance, type Maintenance, nameMaintenance } from "../decide/maintenance.ts";
import { type PairLike, summarizePair } from "../decide/pair-brief.ts";
import { writeAgeOf } from "./duration.ts";
import { type Step } from "./follow.ts";
import { isTrue, type Json, type Node } from "./kube-objects.ts";
import { type Paint } from "./paint.ts";
import { type Column } from "./table.ts";

export type MaintenanceFacts = {
  readonly node: Node;
  readonly nodes: readonly Node[];
  readonly pairs: readonly PairLike[];
};

/** A guest with a side on the node. */
export type GuestOnNode = {
  /** `NAMESPACE/NAME` of its ProtectedVM. */
  readonly guest: string;
  readonly here: "primary" | "standby" | "resting";
  /** Undefined while nobody says so, and when it rests. */
  readonly runsOn: string | undefined;
  readonly otherNode: string;
  readonly isInSync: boolean;
  /** Undefined when the node may go, as far as this guest is concerned. */
  readonly awaits: string | undefined;
};

export function listGuestsOn({ node, nodes, pairs }: MaintenanceFacts): readonly GuestOnNode[] {
  const { name } = node.metadata;
  const maintenance = findMaintenance(node);
  const readyNodes = new Set(nodes.filter(isReady).map(({ metadata }) => metadata.name));
  return pairs
    .flatMap((pair) => {
      const places = (pair.spec?.sides ?? []).map((side) => side.node);
      return places.includes(name) ? [viewGuest({ name, maintenance, places, readyNodes }, pair)] : [];
    })
    .toSorted((one, other) => (one.guest < other.guest ? -1 : 1));
}

type Place = {
  readonly name: string;
  readonly maintenance: Maintenance | undefined;
  readonly places: readonly string[];
  readonly readyNodes: ReadonlySet<string>;
};

const isReady = ({ status }: Node): boolean => isTrue(status?.conditions, "Ready");

function viewGuest({ name, maintenance, places, readyNodes }: Place, pair: PairLike): GuestOnNode {
  const { primary, isWhole } = summarizePair(pair);
  const { annotations = {} } = pair.metadata;
  const rests = isWhole && primary === undefined;
  const otherNode = places.find((each) => each !== name) ?? "";
  const settled = maintenance !== undefined && annotations[SETTLED_ANNOTATION] === nameMaintenance(name, maintenance);
  const isMoving = maintenance !== undefined && !settled;
  return {
    guest: annotations[vmiAnnotations.protectedVm] ?? pair.metadata.name,
    here: rests ? "resting" : primary === name ? "primary" : "standby",
    runsOn: primary,
    otherNode,
    isInSync: isWhole && !rests,
    awaits: findAwaited(
      { name, otherNode, isMoving, isOtherReady: readyNodes.has(otherNode) },
      { primary, isWhole, rests },
    ),
  };
}

type Sight = { readonly primary: string | undefined; readonly isWhole: boolean; readonly rests: boolean };

type Move = {
  readonly name: string;
  readonly otherNode: string;
  readonly isMoving: boolean;
  readonly isOtherReady: boolean;
};

function findAwaited(
  { name, otherNode, isMoving, isOtherReady }: Move,
  { primary, isWhole, rests }: Sight,
): string | undefined {
  if (primary === name) {
    return isWhole ? `its hand-over to ${otherNode}` : `its copy on ${otherNode} to be whole`;
  }
  if (primary === undefined && !rests) {
    return "a side that runs it";
  }
  if (!rests && !isOtherReady) {
    // What it last said may be over, and the copy here the only one.
    return `${otherNode} to be Ready, where it runs`;
  }
  const says = rests ? "the operator" : "the operator, which looks for another place for its standby";
  return isMoving ? says : undefined;
}

export type Verdict = { readonly mayBeSwitchedOff: boolean; readonly says: string };

/** Switched off, the node would take nothing with it that anybody uses. */
export function judgeNode(facts: MaintenanceFacts): Verdict {
  const { name } = facts.node.metadata;
  const guests = listGuestsOn(facts);
  const waiting = guests.filter(({ awaits }) => awaits !== undefined);
  const [first] = waiting;
  if (findMaintenance(facts.node) === undefined) {
    return { mayBeSwitchedOff: false, says: sayNotBegun(name, guests) };
  }
  if (first !== undefined) {
    const others = waiting.length === 1 ? "" : `, and ${waiting.length - 1} more`;
    return {
      mayBeSwitchedOff: false,
      says: `${name} must not be switched off yet: ${first.guest} awaits ${first.awaits ?? ""}${others}`,
    };
  }
  const unprotected = guests.filter(({ here }) => here === "standby").map(({ guest }) => guest);
  const price = unprotected.length === 0 ? "" : `; unprotected until it is back: ${unprotected.join(", ")}`;
  return { mayBeSwitchedOff: true, says: `${name} may be switched off now${price}` };
}

function sayNotBegun(name: string, guests: readonly GuestOnNode[]): string {
  const running = guests.filter(({ here }) => here === "primary").length;
  return `${name} is not in maintenance; guests with a side there: ${guests.length}, of which run there: ${running}`;
}

export type Beginning =
  | { readonly tag: "refused"; readonly says: string }
  | { readonly tag: "begun" }
  | { readonly tag: "possible"; readonly explains: readonly string[] };

export function decideBeginning(facts: MaintenanceFacts): Beginning {
  const { node, nodes } = facts;
  const { name } = node.metadata;
  const other = nodes.find((each) => each.metadata.name !== name && findMaintenance(each) !== undefined);
  if (other !== undefined) {
    return { tag: "refused", says: sayOther(name, other) };
  }
  if (findMaintenance(node) !== undefined) {
    return { tag: "begun" };
  }
  const guests = listGuestsOn(facts);
  const kept = guests.find(({ here, isInSync }) => here === "primary" && !isInSync);
  const lost = guests.find(({ here, runsOn }) => here !== "resting" && runsOn === undefined);
  if (kept !== undefined || lost !== undefined) {
    return { tag: "refused", says: kept === undefined ? sayLost(lost?.guest ?? "") : sayKept(name, kept) };
  }
  return { tag: "possible", explains: explainBeginning(name, guests) };
}

function sayOther(name: string, other: Node): string {
  const { by, since } = findMaintenance(other) ?? { by: "", since: "" };
  const begun = `${since === "" ? "" : ` since ${since}`}${by === "" ? "" : `, by ${by}`}`;
  return (
    `${other.metadata.name} is in maintenance${begun}, and without both nodes guests would be lost; end it before ${name} ` +
    `begins: kubectl twinrun maintenance ${other.metadata.name} end`
  );
}

const sayKept = (name: string, { guest, otherNode }: GuestOnNode): string =>
  `the only whole copy of ${guest} is on ${name}: wait until ${otherNode} has one (${statusOf(guest)} --watch), or shut the ` +
  "guest down from inside";
const sayLost = (guest: string): string =>
  `nobody says which side runs ${guest}: look at it first (${statusOf(guest)})`;

function statusOf(guest: string): string {
  const [namespace = "", name = ""] = guest.split("/");
  return `kubectl twinrun status ${name} -n ${namespace}`;
}

const SHOWN_MAX = 10;

function explainBeginning(name: string, guests: readonly GuestOnNode[]): readonly string[] {
  const moving = guests.filter(({ here }) => here === "primary");
  const shown = moving.slice(0, SHOWN_MAX).map(({ guest, otherNode }) => `  ${guest} moves to ${otherNode}`);
  const standbys = guests.filter(({ here }) => here === "standby").length;
  return [
    moving.length === 0
      ? `${name} is cordoned; no guest runs there.`
      : `${name} is cordoned. Guests that run there leave it, one after the other; clients keep their connections:`,
    ...shown,
    ...(moving.length > SHOWN_MAX ? [`  and ${moving.length - SHOWN_MAX} more`] : []),
    ...(standbys === 0 ? [] : [`Guests with their standby there: ${standbys}.`]),
    "A standby gets another node where placement allows one; a guest without is unprotected until the maintenance ends.",
  ];
}

/** A merge patch of the Node. */
export function encodeBeginning(node: Node, { by, since, reason }: Omit<Maintenance, "wasCordoned">): Json {
  const wasCordoned = node.spec?.unschedulable === true;
  const mark = encodeMaintenance({ by, since, reason, wasCordoned });
  return {
    metadata: { uid: node.metadata.uid, annotations: { [MAINTENANCE_ANNOTATION]: mark } },
    spec: { unschedulable: true },
  };
}

/** One that was cordoned before stays so. */
export function encodeEnd(node: Node): Json {
  const wasCordoned = findMaintenance(node)?.wasCordoned === true;
  return {
    metadata: { annotations: { [MAINTENANCE_ANNOTATION]: null } },
    ...(wasCordoned ? {} : { spec: { unschedulable: null } }),
  };
}

/** How far the way is until the node may be switched off. */
export function decideEmptied(facts: MaintenanceFacts): Step {
  if (findMaintenance(facts.node) === undefined) {
    return { tag: "refused", says: "somebody ended the maintenance meanwhile" };
  }
  const { mayBeSwitchedOff, says } = judgeNode(facts);
  return { tag: mayBeSwitchedOff ? "done" : "waiting", says };
}

/** How far the way is until every guest with a side on the node is protected again. */
export function decideWhole(facts: MaintenanceFacts): Step {
  const { name } = facts.node.metadata;
  const guests = listGuestsOn(facts);
  const broken = guests.filter(({ isInSync, here }) => !isInSync && here !== "resting");
  return broken.length === 0
    ? { tag: "done", says: `${name} works again, and every guest with a side there is protected` }
    : {
        tag: "waiting",
        says: `${guests.length - broken.length} of ${guests.length} guests are protected; the next is ${broken[0]?.guest ?? ""}`,
      };
}

export function sayMaintenance({ metadata }: Node, { by, since, reason }: Maintenance, nowMs: number): string {
  const when = since === "" ? "" : ` since ${since} (${writeAgeOf(since, nowMs)})`;
  const who = by === "" ? "" : `, by ${by}`;
  return `${metadata.name} is in maintenance${when}${who}${reason === "" ? "" : `: ${reason}`}`;
}

const paintAwaited = ({ awaits }: GuestOnNode): keyof Paint => (awaits === undefined ? "good" : "doubtful");

export const guestColumns: readonly Column<GuestOnNode>[] = [
  { head: "GUEST", cell: ({ guest }) => guest },
  { head: "HERE", cell: ({ here }) => here },
  { head: "RUNS-ON", cell: ({ runsOn }) => runsOn ?? "<none>" },
  { head: "OTHER-SIDE", cell: ({ otherNode }) => otherNode },
  { head: "IN-SYNC", cell: ({ isInSync }) => (isInSync ? "yes" : "no") },
  { head: "AWAITS", cell: ({ awaits }) => awaits ?? "nothing", paint: paintAwaited },
];
