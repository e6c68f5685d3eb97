/** Keeps the status of SplitSitePairs; there is nothing else to be done for one. */
import { type GuestPair, parseGuestPair } from "../api/guest-pair.ts";
import { parseSplitSitePair, type SplitSitePairStatus } from "../api/split-site-pair.ts";
import { guestNameOf } from "../decide/guest-names.ts";
import { planSplitSiteStatus, withoutFigures } from "../decide/split-sites.ts";
import { decideStatusWrite } from "../decide/status-write.ts";
import { type Cluster } from "../kube/cluster.ts";
import { hasKubeCode } from "../kube/kube-failure.ts";
import { keyOf } from "../kube/kube-object.ts";
import { FIELD_MANAGER } from "./kube-protected-vm-cluster.ts";
import { type ObjectCaches } from "./object-caches.ts";

export type SplitSiteReconcilerOptions = {
  readonly cluster: Pick<Cluster, "applyStatus">;
  readonly caches: ObjectCaches;
  /** Where GuestPairs are. */
  readonly namespace: string;
  /** Whether nobody else leads at this moment. */
  readonly isLeader: () => boolean;
  /** Milliseconds of the epoch, for times in objects. */
  readonly nowMs: () => number;
};

type Written = { readonly status: SplitSitePairStatus; readonly atMs: number };

export class SplitSitePairReconciler {
  readonly #options: SplitSiteReconcilerOptions;
  /** By name; the copy may be a moment behind. */
  readonly #written = new Map<string, Written>();

  constructor(options: SplitSiteReconcilerOptions) {
    this.#options = options;
  }

  /** Returns when to look again: only if something is known that may not be written yet. */
  async reconcile(name: string): Promise<number | undefined> {
    const { caches, nowMs, isLeader } = this.#options;
    const stored = caches.splitSitePairs.get(name);
    if (stored === undefined) {
      this.#written.delete(name);
      return undefined;
    }
    const splitSitePair = parseSplitSitePair(stored, `SplitSitePair ${name}`);
    const written = this.#written.get(name);
    const previous = written?.status ?? splitSitePair.status;
    const now = nowMs();
    const status = planSplitSiteStatus({
      ...{ splitSitePair, previous, pairs: this.#listPairs(name), nowMs: now },
      ...{ nodes: caches.nodes.list(), agents: caches.agents.list() },
    });
    const decision = decideStatusWrite({ status: previous, atMs: written?.atMs }, status, {
      withoutFigures,
      nowMs: now,
    });
    if (decision.tag === "write" && isLeader()) {
      await this.#write(name, status);
      this.#written.set(name, { status, atMs: now });
    }
    return decision.tag === "later" ? decision.afterMs : undefined;
  }

  #listPairs(sites: string): readonly GuestPair[] {
    const { caches, namespace } = this.#options;
    return caches.protectedVms.listBy("sites", sites).flatMap(({ metadata }) => {
      const guest = guestNameOf(metadata.name, metadata.uid ?? "");
      const stored = caches.pairs.get(keyOf({ namespace, name: guest }));
      return stored === undefined ? [] : [parseGuestPair(stored, guest)];
    });
  }

  async #write(name: string, status: SplitSitePairStatus): Promise<void> {
    const intent = { apiVersion: "twinrun.dev/v1alpha1", kind: "SplitSitePair", metadata: { name }, status };
    try {
      await this.#options.cluster.applyStatus(intent, FIELD_MANAGER);
    } catch (error) {
      if (!hasKubeCode(error, "NotFound")) {
        throw error; // Otherwise it is gone, and nobody will read it.
      }
    }
  }
}
