/** The agents and engines of a simulated cluster, and the quorum's records they work by. */
import { type GuestPair } from "../../src/api/guest-pair.ts";
import { qemuDeviceOf, vmiAnnotations } from "../../src/api/vmi-contract.ts";
import { type OverrideRequest, parseOverrideRequest, requestAnnotations } from "../../src/api/requests.ts";
import { type Vmi } from "../../src/decide/cluster-objects.ts";
import { type FaultRecord, stepFaults } from "../../src/decide/fault-log.ts";
import { type PeerWatch, stepPeers } from "../../src/decide/peer-watch.ts";
import { PLANNED } from "../../src/decide/takeover-track.ts";
import { type Json, readText } from "../../src/lib/json-merge.ts";
import { type Fault } from "../../src/protocol/faults.ts";
import { type QuorumSeat } from "../../src/protocol/quorum-record.ts";
import { nameOf, type SimulatedCluster } from "./cluster.ts";

type Record = {
  term: number;
  owner: string;
  peer: string;
  isInSync: boolean;
  syncSeconds: number;
  /** Of the session with the standby. */
  mode: GuestPair["spec"]["mode"];
  /** For so long memory has been copied to a standby that had none. */
  raisedSeconds: number;
  seat?: QuorumSeat;
  override?: OverrideRequest;
};
type Side = {
  role: string;
  state: string;
  hasGuest: boolean;
  ended: boolean;
  wanted: string | undefined;
  takeover: Json | undefined;
  report: string;
  watch: PeerWatch;
  faults: readonly FaultRecord[];
};

export type Traffic = {
  readonly mibPerSecond: number;
  readonly nodePeakMiBPerSecond: number;
  readonly isLate: boolean;
};

const SYNC_SECONDS = 3;
/** As heartbeats have it. */
const SILENT_SECONDS = 3;

export class SimulatedAgents {
  readonly #cluster: SimulatedCluster;
  readonly #records = new Map<string, Record>();
  readonly #sides = new Map<string, Side>();
  readonly #offSeconds = new Map<string, number>();
  /** Owners that refuse to hand over, with what they say. */
  readonly refusals = new Map<string, string>();
  /** What guests put on the links, by ProtectedVM. */
  readonly traffic = new Map<string, Traffic>();
  /** `NODE SEAT`: a quorum that is not reached from there. */
  readonly blind = new Set<string>();

  constructor(cluster: SimulatedCluster) {
    this.#cluster = cluster;
  }

  run(): void {
    for (const node of this.#cluster.listKind("Node").map(({ metadata }) => metadata.name)) {
      this.#offSeconds.set(node, this.#cluster.isOff(node) ? (this.#offSeconds.get(node) ?? 0) + 1 : 0);
    }
    for (const pair of this.#cluster.listPairs()) {
      this.#moveRecord(pair);
      this.#override(pair);
      for (const { node } of pair.spec.sides) {
        this.#wake(pair, node);
        this.#runSide(pair, node);
      }
    }
  }

  #reaches(node: string, seat: QuorumSeat): boolean {
    return !this.#cluster.isOff(node) && !this.blind.has(`${node} ${seat}`);
  }

  /** Whoever reaches both. */
  #moveRecord({ spec }: GuestPair): void {
    const record = this.#records.get(spec.guest);
    const wanted = spec.quorum?.inForce;
    const seat = record?.seat ?? "preferred";
    if (record === undefined || wanted === undefined || wanted === seat) {
      return;
    }
    const mover = spec.sides.find(({ node }) => this.#reaches(node, seat) && this.#reaches(node, wanted));
    if (mover !== undefined) {
      record.seat = wanted;
      this.#cluster.say(mover.node, `moves the record to the ${wanted} quorum`);
    }
  }

  /** A standby that has nothing of the guest but the disks starts it anew from them. */
  #override(pair: GuestPair): void {
    const { metadata, spec } = pair;
    const override = parseOverrideRequest(metadata.annotations?.[requestAnnotations.forceOwner]);
    const record = this.#records.get(spec.guest);
    if (override === undefined || record === undefined || record.override?.at === override.at) {
      return;
    }
    const { node } = override;
    if (!this.#cluster.isOff(node)) {
      const peer = spec.sides.find((side) => side.node !== node)?.node ?? "";
      Object.assign(record, { term: record.term + 1, owner: node, peer, isInSync: false, syncSeconds: 0, override });
      this.#cluster.say(node, `owns the guest, because ${override.who} said so`);
      this.#kill(pair, node);
    }
  }

  /** As a guest does that is shut down from inside. */
  end(node: string): void {
    for (const [key, side] of this.#sides) {
      if (key.endsWith(` ${node}`) && side.hasGuest) {
        side.ended = true;
      }
    }
  }

  fault(node: string, fault: Fault): void {
    const atMs = this.#cluster.nowMs;
    for (const pair of this.#cluster.listPairs().filter(({ spec }) => spec.sides.some((side) => side.node === node))) {
      const side = this.#sideOf(pair, node);
      const { records } = stepFaults(side.faults, { tag: "faulted", node, ...fault }, atMs);
      side.faults = stepFaults(records, { tag: "repaired", node, ...fault }, atMs).records;
    }
  }

  #wake(pair: GuestPair, node: string): void {
    const side = this.#sideOf(pair, node);
    if (pair.metadata.annotations?.[requestAnnotations.start] === "true" && side.role === "ended") {
      Object.assign(side, { ended: false, hasGuest: false, role: "starting", state: "starting" });
      Object.assign(this.#records.get(pair.spec.guest) ?? {}, { isInSync: false, syncSeconds: 0 });
      this.#kill(pair, node);
      this.#cluster.say(node, "does not rest any more");
    }
  }

  #sideOf(pair: GuestPair, node: string): Side {
    const key = `${pair.spec.guest} ${node}`;
    const fresh: Side = {
      ...{ role: "starting", state: "starting", hasGuest: false, ended: false },
      ...{ wanted: undefined, takeover: undefined, report: "", watch: [], faults: [] },
    };
    const side = this.#sides.get(key) ?? fresh;
    this.#sides.set(key, side);
    return side;
  }

  #runSide(pair: GuestPair, node: string): void {
    const side = this.#sideOf(pair, node);
    if (this.#cluster.isOff(node)) {
      Object.assign(side, { role: "starting", state: "starting", hasGuest: false, watch: [] });
      return;
    }
    this.#watchPeer(pair, node, side);
    const record = this.#records.get(pair.spec.guest);
    if (record === undefined) {
      this.#begin(pair, node, side);
    } else if (record.owner === node) {
      this.#own(pair, { node, side, record });
    } else {
      this.#follow(pair, { node, side, record });
    }
    this.#report(pair, node, side);
  }

  #watchPeer(pair: GuestPair, node: string, side: Side): void {
    const peer = pair.spec.sides.find((each) => each.node !== node)?.node ?? "";
    const alive = (this.#offSeconds.get(peer) ?? 0) < SILENT_SECONDS;
    const seen = [{ peer, links: [{ name: "node", alive, wasClosed: false }] }];
    const { watch, events } = stepPeers(side.watch, seen, { node, nowMs: this.#cluster.nowMs });
    side.watch = watch;
    for (const { event } of events) {
      side.faults = stepFaults(side.faults, event, this.#cluster.nowMs).records;
    }
  }

  #findQemu(pair: GuestPair, node: string): { readonly vmi: Vmi; readonly shape: string } | undefined {
    const name = pair.spec.sides.find((each) => each.node === node)?.vmi;
    const vmi = name === undefined ? undefined : (this.#cluster.get("VirtualMachineInstance", name) as Vmi | undefined);
    const shape = vmi?.metadata.annotations?.[vmiAnnotations.startedAs];
    if (vmi?.status?.phase !== "Running" || shape === undefined || this.#cluster.isOff(node)) {
      return undefined;
    }
    const isAlive = readText(vmi.status, "qemu") !== "dead" && vmi.metadata.deletionTimestamp === undefined;
    return isAlive ? { vmi, shape } : undefined;
  }

  #kill(pair: GuestPair, node: string): void {
    const qemu = this.#findQemu(pair, node);
    if (qemu !== undefined) {
      this.#cluster.setStatus("VirtualMachineInstance", nameOf(qemu.vmi), { qemu: "dead" });
    }
  }

  #isFresh(pair: GuestPair, node: string, shape: string): boolean {
    const qemu = this.#findQemu(pair, node);
    return qemu?.shape === shape && readText(qemu.vmi.status, "qemu") === "fresh";
  }

  #take(pair: GuestPair, node: string): void {
    const qemu = this.#findQemu(pair, node);
    if (qemu !== undefined) {
      this.#cluster.setStatus("VirtualMachineInstance", nameOf(qemu.vmi), { qemu: "taken" });
    }
  }

  #begin(pair: GuestPair, node: string, side: Side): void {
    const isFirst = pair.spec.roles.primary === node;
    const shape = isFirst ? "primary" : "standby";
    if (!this.#isFresh(pair, node, shape)) {
      Object.assign(side, { role: "starting", state: "starting", wanted: shape });
      return;
    }
    side.wanted = undefined;
    if (isFirst) {
      const peer = pair.spec.sides.find((each) => each.node !== node)?.node ?? "";
      this.#records.set(pair.spec.guest, {
        ...{ term: 1, owner: node, peer, isInSync: false, syncSeconds: 0 },
        ...{ mode: pair.spec.mode, raisedSeconds: 0 },
      });
      this.#start(pair, node, side);
    }
  }

  #start(pair: GuestPair, node: string, side: Side, says = "runs the guest"): void {
    Object.assign(side, { role: "primary", state: "alone", hasGuest: true, wanted: undefined });
    this.#take(pair, node);
    this.#cluster.say(node, says);
  }

  #own(pair: GuestPair, { node, side, record }: { node: string; side: Side; record: Record }): void {
    if (side.ended || side.role === "released") {
      side.role = side.ended ? "ended" : "released";
      return;
    }
    if (side.hasGuest && this.#findQemu(pair, node) === undefined) {
      Object.assign(side, { hasGuest: false, role: "starting", state: "starting" });
      this.#cluster.say(node, "lost its QEMU");
    }
    if (side.hasGuest) {
      this.#protect(pair, { node, side, record });
    } else if (record.isInSync && this.#canTakeOver(pair, record.peer)) {
      side.wanted = undefined; // The standby is quicker.
    } else if (this.#isFresh(pair, node, "primary")) {
      Object.assign(record, { isInSync: false, syncSeconds: 0 });
      this.#start(pair, node, side);
    } else {
      Object.assign(side, { wanted: "primary", role: "primary", state: "booting" });
    }
  }

  #canTakeOver = (pair: GuestPair, node: string): boolean =>
    this.#sideOf(pair, node).role === "standby" && this.#findQemu(pair, node) !== undefined;

  #protect(pair: GuestPair, { node, side, record }: { node: string; side: Side; record: Record }): void {
    const peer = pair.spec.sides.find((each) => each.node !== node)?.node ?? "";
    if (record.peer !== peer) {
      Object.assign(record, { peer, isInSync: false, syncSeconds: 0 });
    }
    this.#followMode(pair, node, record);
    if (!this.#canTakeOver(pair, peer)) {
      if (record.isInSync) {
        this.#cluster.say(node, "goes on alone");
      }
      Object.assign(record, { isInSync: false, syncSeconds: 0 });
      side.state = "alone";
    } else if (!record.isInSync) {
      record.syncSeconds += 1;
      record.isInSync = record.syncSeconds > SYNC_SECONDS;
      side.state = record.isInSync ? "protected" : "syncing";
    }
    if (pair.spec.intent === "Release") {
      side.role = "released";
      this.#cluster.say(node, "lets the guest go on without protection");
    } else if (record.isInSync) {
      this.#obey(pair, { node, peer, record });
    }
  }

  /** Memory is copied beside what goes on; without it the standby is synchronised anew, by the difference. */
  #followMode(pair: GuestPair, node: string, record: Record): void {
    if (!record.isInSync || record.mode === pair.spec.mode) {
      record.mode = pair.spec.mode;
      record.raisedSeconds = 0;
    } else if (pair.spec.mode === "HighAvailability") {
      this.#cluster.say(node, "gives the copy of the memory up");
      Object.assign(record, { mode: pair.spec.mode, isInSync: false, syncSeconds: 0 });
    } else {
      record.raisedSeconds += 1;
      if (record.raisedSeconds > SYNC_SECONDS) {
        this.#cluster.say(node, "has copied the guest's memory as well");
        record.mode = pair.spec.mode;
      }
    }
  }

  #obey(pair: GuestPair, { node, peer, record }: { node: string; peer: string; record: Record }): void {
    if (pair.metadata.annotations?.[requestAnnotations.failoverFrom] === node) {
      this.#kill(pair, node);
    } else if (pair.spec.roles.term > record.term && pair.spec.roles.primary === peer && !this.refusals.has(node)) {
      this.#cluster.say(node, `hands over to ${peer}`);
      this.#change(pair, { record, next: peer, cause: undefined });
      this.#kill(pair, node);
    }
  }

  #change(pair: GuestPair, { record, next, cause }: { record: Record; next: string; cause: string | undefined }): void {
    Object.assign(record, { term: record.term + 1, peer: record.owner, owner: next, isInSync: false, syncSeconds: 0 });
    const [old, side] = [this.#sideOf(pair, record.peer), this.#sideOf(pair, next)];
    Object.assign(old, { hasGuest: false, role: "fenced", state: "fenced" });
    const isBoot = cause !== undefined && record.mode === "HighAvailability";
    this.#start(pair, next, side, isBoot ? "boots the guest from its disks" : undefined);
    side.takeover = {
      cause: cause ?? PLANNED,
      at: this.#cluster.iso(),
      durationMs: 900,
      term: record.term,
      epoch: this.#cluster.seconds * 25,
    };
  }

  #follow(pair: GuestPair, { node, side, record }: { node: string; side: Side; record: Record }): void {
    if (this.#sideOf(pair, record.owner).ended) {
      Object.assign(side, { role: "ended", wanted: undefined });
      return;
    }
    const isOwnerGone = this.#findQemu(pair, record.owner) === undefined;
    if (record.peer === node && record.isInSync && isOwnerGone && this.#canTakeOver(pair, node)) {
      this.#change(pair, { record, next: node, cause: `${record.owner} is silent` });
    } else if (side.role === "standby" && this.#findQemu(pair, node) !== undefined) {
      side.wanted = undefined;
    } else if (this.#isFresh(pair, node, "standby")) {
      this.#take(pair, node);
      Object.assign(side, { role: "standby", state: "waiting", hasGuest: false, wanted: undefined });
    } else {
      Object.assign(side, { role: "starting", state: "starting", hasGuest: false, wanted: "standby" });
    }
  }

  #report(pair: GuestPair, node: string, side: Side): void {
    const record = this.#records.get(pair.spec.guest);
    const item: Json = {
      node,
      observedGeneration: pair.metadata.generation ?? 1,
      role: side.role,
      state: side.state,
      term: record?.term ?? 0,
      epoch: 0,
      ...(record === undefined ? {} : { primaryNode: record.owner }),
      ...(side.wanted === undefined ? {} : { wantedShape: side.wanted }),
      ...(this.refusals.has(node) ? { trouble: this.refusals.get(node) } : {}),
      ...this.#sayOfQuorums(pair, node, record),
      syncPercent: record?.isInSync === true ? 100 : 50,
      outputMode: outputModeOf(record),
      tracker: "userfaultfd",
      disks: pair.spec.disks.map((disk) => ({
        id: qemuDeviceOf(disk),
        syncPercent: record?.isInSync === true ? 100 : 50,
        dirtyBytes: 0,
      })),
      links: [],
      traffic: this.#trafficOf(pair),
      takeoversCount: 0,
      ...(side.takeover === undefined ? {} : { lastTakeover: side.takeover }),
      faults: side.faults,
      conditions: this.#listConditions(side, record, this.#trafficOf(pair)),
    };
    const text = JSON.stringify(item);
    if (text === side.report && this.#cluster.seconds % 10 !== 0) {
      return;
    }
    side.report = text;
    const stored = this.#cluster.get("GuestPair", pair.metadata);
    if (stored !== undefined) {
      const others = ((stored.status?.["sides"] ?? []) as readonly Json[]).filter((each) => each["node"] !== node);
      stored.status = { sides: [...others, { ...item, reportedAt: this.#cluster.iso() }] };
    }
  }

  #trafficOf({ spec }: GuestPair): Traffic | undefined {
    return [...this.traffic].find(([name]) => spec.guest.startsWith(`${name}-`))?.[1];
  }

  #sayOfQuorums({ spec }: GuestPair, node: string, record: Record | undefined): Json {
    const quorums = (["preferred", "alternate"] as const).map((seat) => {
      return { seat, reachable: this.#reaches(node, seat), inForce: seat === (record?.seat ?? "preferred") };
    });
    return {
      ...(spec.quorum === undefined ? {} : { quorums }),
      ...(record?.override === undefined ? {} : { override: { ...record.override, term: record.term } }),
    };
  }

  #listConditions({ role, state }: Side, record: Record | undefined, traffic?: Traffic): readonly Json[] {
    const isPrimary = role === "primary" || role === "released";
    const isInSync = isPrimary && record?.isInSync === true;
    const reason = isInSync ? "Protected" : state === "syncing" ? "Synchronising" : "Unprotected";
    const inSync = { status: isInSync ? "True" : "False", reason, message: `this side is ${state}` };
    const healthy = (type: string, reason: string, isSo = true): Json => ({
      ...{ type, reason, message: "" },
      status: isSo ? "True" : "False",
    });
    return [
      { type: "InSync", ...inSync },
      ...[
        healthy("QuorumReachable", "Reachable"),
        healthy("LatencyWithinBound", "WithinBound", traffic?.isLate !== true),
      ],
      ...[healthy("DisksHealthy", "Healthy"), healthy("LinksHealthy", "Healthy")],
    ].map((condition) => ({ ...condition, lastTransitionTime: "2026-11-27T12:00:00Z" }));
  }
}

const outputModeOf = (record: Record | undefined): string => (record?.mode === "HighAvailability" ? "leased" : "held");
