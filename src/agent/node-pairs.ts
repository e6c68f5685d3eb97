/**
 * The GuestPairs of one node, put together: followed in the cluster, made into assignments and wishes, and reported on.
 *
 *   API server --reflector--> PairAssignmentSource --assignments--> Agent --status, transitions--> PairReporter --> API server
 *                                              \--wishes--> PairWishes --switchover, failover--> Agent
 *
 * The agent is made with the source and the rest needs the agent, so {@link NodePairs.attach} comes in between, before the agent
 * starts.
 */
import { API_VERSION } from "../api/custom-resource.ts";
import { requestAnnotations } from "../api/requests.ts";
import { type PairObject } from "../decide/pair-assignment.ts";
import { type SideStatus, type SideView } from "../decide/side-status.ts";
import { type Cluster } from "../kube/cluster.ts";
import { keyOf, kindOf, type KubeObject } from "../kube/kube-object.ts";
import { Reflector } from "../kube/reflector.ts";
import { type EngineTransition } from "../protocol/assignment.ts";
import { type Log } from "../telemetry/log.ts";
import { PairAssignmentSource, type PairWatch } from "./pair-assignment-source.ts";
import { type AppliedStatus, PairReporter } from "./pair-reporter.ts";
import { PairWishes, type WishControl } from "./pair-wishes.ts";

export type NodePairsOptions = {
  readonly cluster: Pick<Cluster, "listPages" | "watch" | "applyStatus">;
  readonly namespace: string;
  readonly node: string;
  readonly runDirectory: string;
  readonly log: Log;
};

/** What is needed of the agent. */
export interface PairControl extends WishControl {
  readFaults(guest: string): SideView["faults"];
}

type PairAsRead = KubeObject & {
  readonly spec?: unknown;
  readonly status?: { readonly sides?: readonly SideStatus[] };
};

/** A change of one pair is often followed by others: the first list, both agents' reports. */
const SETTLE_MS = 20;
const WRITE_TIMEOUT_MS = 10_000;

export class NodePairs {
  readonly source: PairAssignmentSource;
  readonly #options: NodePairsOptions;
  readonly #watch: ReflectedPairs;
  #wishes: PairWishes | undefined;
  #reporter: PairReporter | undefined;

  constructor(options: NodePairsOptions) {
    const { node, runDirectory, log } = options;
    this.#options = options;
    this.#watch = new ReflectedPairs(options);
    this.source = new PairAssignmentSource({ watch: this.#watch, node, runDirectory, log });
  }

  attach(control: PairControl): void {
    const { node, runDirectory, cluster, log } = this.#options;
    const wishes = new PairWishes({ node, runDirectory, control, log });
    const reporter = new PairReporter({
      node,
      apiVersion: API_VERSION,
      readGuest: (guest) => control.readGuest(guest),
      readObject: (guest) => wishes.readWish(guest)?.object,
      readTrouble: (guest) => wishes.readTrouble(guest),
      readFaults: (guest) => control.readFaults(guest),
      isListed: () => this.#watch.isListed,
      readWritten: (object) => this.#watch.readSide(object),
      applyStatus: (object: AppliedStatus, fieldManager) =>
        cluster.applyStatus(object, fieldManager, { force: true, timeoutMs: WRITE_TIMEOUT_MS }),
      log,
    });
    wishes.onTrouble = (guest): void => {
      reporter.guestChanged(guest);
    };
    this.#wishes = wishes;
    this.#reporter = reporter;
    this.source.onWishes = (all): void => {
      wishes.setWishes(all);
      all.forEach(({ guest }) => {
        reporter.guestChanged(guest);
      });
    };
  }

  /** To be called when the status of a guest may read differently. */
  guestChanged(guest: string): void {
    this.#wishes?.guestChanged(guest);
    this.#reporter?.guestChanged(guest);
  }

  noteTransition(guest: string, transition: EngineTransition): void {
    this.#reporter?.noteTransition(guest, transition);
  }

  close(): void {
    this.source.close();
    this.#reporter?.close();
  }
}

class ReflectedPairs implements PairWatch {
  readonly #reflector: Reflector<PairAsRead>;
  readonly #node: string;
  #timer: NodeJS.Timeout | undefined;

  constructor({ cluster, namespace, node, log }: NodePairsOptions) {
    this.#node = node;
    const keep = (object: PairAsRead): PairAsRead => keepPair(object, node);
    const kind = kindOf(API_VERSION, "GuestPair");
    this.#reflector = new Reflector({ cluster, kind, scope: { namespace }, keep, log });
  }

  start(onChanged: () => void): void {
    const settle = (): void => {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        onChanged();
      }, SETTLE_MS);
    };
    this.#reflector.onChange(settle);
    this.#reflector.start();
    void this.#reflector.synced().then(settle); // An empty list is no change.
  }

  list(): readonly unknown[] | undefined {
    return this.isListed ? this.#reflector.list() : undefined;
  }

  get isListed(): boolean {
    return this.#reflector.isSynced;
  }

  readSide(object: PairObject): SideStatus | undefined {
    return this.#reflector.get(keyOf(object))?.status?.sides?.find(({ node }) => node === this.#node);
  }

  close(): void {
    clearTimeout(this.#timer);
    void this.#reflector.stop();
  }
}

/** Of the status only what this node's agent wrote; the rest is the operator's to read, but for an override all of it counts. */
function keepPair({ apiVersion, kind, metadata, spec, status }: PairAsRead, node: string): PairAsRead {
  const { name, namespace, generation, annotations } = metadata;
  const isOverridden = annotations?.[requestAnnotations.forceOwner] !== undefined;
  const sides = status?.sides?.filter((side) => isOverridden || side.node === node) ?? [];
  return {
    apiVersion,
    kind,
    metadata: { name, namespace, generation, annotations },
    spec,
    ...(sides.length === 0 ? {} : { status: { sides } }),
  };
}
