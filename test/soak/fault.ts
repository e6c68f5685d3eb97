/** What a fault of the soak is: how it is done to a running pair, and how it is undone. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Random } from "../../src/lib/random.ts";
import { type Cluster } from "../lab/cluster.ts";
import { type PairHost } from "../lab/placement.ts";
import { type FaultyDisks } from "./faulty-disks.ts";

/** Of one of the tables beside this file. */
export type FaultName = string;

export type Situation = {
  readonly cluster: Cluster;
  readonly disks: FaultyDisks;
  readonly guest: string;
  /** Who runs `guest` now. */
  readonly primary: PairHost;
  readonly random: Random;
};

export type Struck = {
  readonly atMs: number;
  /** What does not heal by itself. */
  readonly heal?: () => Promise<void> | void;
  /** It waits until everything is protected, so for the end of every other fault. */
  readonly isHealedLast?: true;
};

export type Fault = {
  /** How often it comes beside the others of its table. */
  readonly weight: number;
  /** Whether it is survived while the standby is not in sync yet. */
  readonly duringCopy: boolean;
  /** The host whose power it takes: every QEMU there dies, also that of another guest. */
  readonly powersOff?: (primary: PairHost) => PairHost;
  /** How long it lasts before it is healed. */
  readonly lastsMs?: readonly [number, number];
  readonly says: (primary: PairHost) => string;
  /** Returns when it struck, and for a fault that might go by unseen only then. */
  readonly strike: (situation: Situation) => Promise<Struck>;
};

export const label = (host: PairHost): string => host.toUpperCase();

/** From shorter than any detection to much longer. */
const USUAL_MS = [50, 3000] as const;

/** As many short ones as long ones: each doubling is as likely as the next. */
export function lastSome(random: Random, [leastMs, mostMs]: readonly [number, number] = USUAL_MS): Promise<void> {
  return sleep(leastMs * (mostMs / leastMs) ** random.fraction());
}

/** What was to be killed or moved is not there any more, because of another fault at the same time. */
export class NobodyThere extends Error {}
