/** A pair in a few words, for whoever has to do with another one. */
import { type GuestPairSpec, type GuestPairStatus } from "../api/guest-pair.ts";
import { type PairReport } from "./cluster-objects.ts";
import { parseNotes } from "./guest-notes.ts";

export type PairBrief = {
  readonly guest: string;
  readonly nodes: readonly string[];
  /** The node that runs it, by its own account. */
  readonly primary: string | undefined;
  /** It would survive the loss of either side, or rests. */
  readonly isWhole: boolean;
  readonly turnAt: string | undefined;
};

/** A GuestPair, checked or as somebody's newer version wrote it. */
export type PairLike = {
  readonly metadata: {
    readonly name: string;
    readonly annotations?: Readonly<Record<string, string>> | undefined;
  };
  readonly spec?: Partial<GuestPairSpec> | undefined;
  readonly status?: Partial<GuestPairStatus> | undefined;
};

export function summarizePair(pair: PairLike): PairBrief {
  const latest = listLatest(pair);
  const primary = latest.find(({ role, node, primaryNode }) => role === "primary" && (primaryNode ?? node) === node);
  const isWhole = primary === undefined ? latest.some(({ role }) => role === "ended") : isInSync(primary);
  return {
    guest: pair.metadata.name,
    nodes: pair.spec?.sides?.map(({ node }) => node) ?? [],
    primary: primary?.node,
    isWhole,
    turnAt: parseNotes(pair)?.turnAt,
  };
}

/** What is said of earlier terms does not count. */
export function listLatest({ status }: PairLike): readonly PairReport[] {
  const reports = status?.sides ?? [];
  const term = Math.max(1, ...reports.map((report) => report.term));
  return reports.filter((report) => report.term === term);
}

const isInSync = ({ conditions }: PairReport): boolean =>
  conditions.some(({ type, status }) => type === "InSync" && status === "True");
