/**
 * The quorums of a guest's own, which its SplitSitePair names: those it began with, for its record is there, and which of them is
 * to be in force. The operator only wishes for one; agents that reach both move the record (protocol/quorum-seat.ts).
 */
import { type GuestPair } from "../api/guest-pair.ts";
import { type SplitSitePair } from "../api/split-site-pair.ts";
import { parseHostPort } from "../lib/host-port.ts";
import { chooseSeat, type SeatSight } from "../protocol/quorum-seat.ts";
import { type QuorumSeat } from "../protocol/quorum-record.ts";
import { type PairReport } from "./cluster-objects.ts";
import { type PairView } from "./pair-view.ts";
import { type Observed } from "./protected-vm-plan.ts";

type PairQuorum = NonNullable<GuestPair["spec"]["quorum"]>;
type Address = PairQuorum["preferred"][number];

export type QuorumPlan = {
  readonly quorum: PairQuorum | undefined;
  /** When another one was asked for last. */
  readonly quorumAt: string | undefined;
};

export function planNewQuorum(splitSitePair: SplitSitePair | undefined): PairQuorum | undefined {
  const given = splitSitePair?.spec.quorum;
  return given === undefined
    ? undefined
    : { preferred: listAddresses(given.preferred), ...encodeAlternate(given.alternate), inForce: "preferred" };
}

/** Where the record of a guest that is gone may be: where it began, and where it may have been moved to. */
export function listOwnQuorums(splitSitePair: SplitSitePair | undefined): readonly PairQuorum["preferred"][] {
  const own = planNewQuorum(splitSitePair);
  return own === undefined ? [] : [own.preferred, ...(own.alternate === undefined ? [] : [own.alternate])];
}

export function planQuorum({ splitSitePair, nowMs }: Observed, { pair, sides, notes }: PairView): QuorumPlan {
  const known = pair.spec.quorum;
  if (known === undefined) {
    return { quorum: undefined, quorumAt: undefined };
  }
  const present = { ...known, ...findAlternate(known, planNewQuorum(splitSitePair)) };
  const sights = sides.flatMap(({ report, isSilent }) => (report === undefined || isSilent ? [] : [readSight(report)]));
  const settledForMs = notes.quorumAt === undefined ? Infinity : nowMs - Date.parse(notes.quorumAt);
  const inForce = chooseSeat(present.inForce, sights, settledForMs);
  return inForce === present.inForce
    ? { quorum: present, quorumAt: notes.quorumAt }
    : { quorum: { ...present, inForce }, quorumAt: new Date(nowMs).toISOString() };
}

/** One that is named later may be added; whatever else has changed is for guests to come. */
function findAlternate(known: PairQuorum, given: PairQuorum | undefined): Pick<PairQuorum, "alternate"> {
  const isSame = JSON.stringify(given?.preferred) === JSON.stringify(known.preferred);
  return known.alternate === undefined && isSame ? encodeAlternate(given?.alternate) : {};
}

function readSight({ quorums = [] }: PairReport): SeatSight {
  const find = (seat: QuorumSeat): boolean | undefined => quorums.find((each) => each.seat === seat)?.reachable;
  return { preferred: find("preferred"), alternate: find("alternate") };
}

const encodeAlternate = (given: readonly (string | Address)[] | undefined): Pick<PairQuorum, "alternate"> =>
  given === undefined ? {} : { alternate: listAddresses(given) };

const listAddresses = (given: readonly (string | Address)[]): Address[] =>
  given.flatMap((each) => (typeof each === "string" ? (parseHostPort(each) ?? []) : [each]));
