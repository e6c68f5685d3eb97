/**
 * The figures of one node for Prometheus. Names are `twinrun_*`, units seconds and bytes, every guest's series carry
 * `guest`.
 *
 * Counters go on over the restarts of an engine: an engine counts from its own start, so what it reports is added to what
 * its predecessors reported. They start anew with the agent, as Prometheus expects. Gauges of an engine that ended are
 * removed: no figure is better than an old one.
 */
import { type FaultEffect, type FaultRecord } from "../decide/fault-log.ts";
import {
  type CheckpointFigures,
  type DurationFigures,
  type EngineReport,
  type EngineTransition,
} from "../protocol/assignment.ts";
import { type Gauge, MetricsRegistry, type SummaryValue } from "../telemetry/metrics.ts";
import { type EngineEnded } from "./engine-process.ts";
import { type GuestListener } from "./guest-runner.ts";
import { type PeerLinkStatus } from "./node-heartbeat.ts";
import { readUsage } from "./linux-process.ts";
import { type UplinkStatus } from "./uplinks.ts";

const ROLES = ["starting", "primary", "standby", "fenced"] as const;
const OUTPUT_MODES = ["open", "held", "closed", "leased"] as const;
const CONDITION_STATUSES = ["True", "False", "Unknown"] as const;

/** The part of a guest's status that is not in its reports. */
export type GuestProcesses = {
  readonly guest: string;
  readonly enginePid: number | null;
  readonly faults: readonly FaultRecord[];
};

export type NodeView = {
  readonly guests: readonly GuestProcesses[];
  readonly links: readonly PeerLinkStatus[];
  readonly uplinks: readonly UplinkStatus[];
};

export class AgentMetrics implements Pick<GuestListener, "reported" | "changed" | "engineEnded"> {
  readonly #registry = new MetricsRegistry();
  readonly #gauges: GuestGauges;
  readonly #counters: GuestCounters;
  readonly #faults: FaultMetrics;
  readonly #node: NodeGauges;
  /** Reports since the last scrape: most are replaced by the next before anybody looks. */
  readonly #unwritten = new Map<string, EngineReport>();

  constructor(node: string) {
    this.#node = new NodeGauges(this.#registry);
    this.#node.info.set(1, { node });
    this.#gauges = new GuestGauges(this.#registry);
    this.#counters = new GuestCounters(this.#registry);
    this.#faults = new FaultMetrics(this.#registry);
  }

  reported(guest: string, report: EngineReport): void {
    this.#unwritten.set(guest, report);
    this.#counters.take(guest, report);
  }

  changed(guest: string, { to }: EngineTransition): void {
    this.#counters.transitions.add(1, { guest, to });
  }

  engineEnded(guest: string, { reason }: EngineEnded): void {
    this.#unwritten.delete(guest);
    this.#gauges.remove(guest);
    this.#counters.engineEnded(guest, reason ?? "crashed");
  }

  faultsChanged(guest: string, effects: readonly FaultEffect[]): void {
    this.#faults.take(guest, effects);
  }

  guestRemoved(guest: string): void {
    this.#unwritten.delete(guest);
    this.#registry.remove({ guest });
    this.#counters.forget(guest);
  }

  assignmentsRead(areGood: boolean): void {
    this.#node.assignmentsGood.set(areGood ? 1 : 0);
  }

  /** The text of a scrape. What costs a system call is read now, not before. */
  write({ guests, links, uplinks }: NodeView): string {
    for (const [guest, report] of this.#unwritten) {
      this.#gauges.set(guest, report);
    }
    this.#unwritten.clear();
    this.#node.setProcesses(guests);
    this.#faults.set(guests);
    this.#node.setLinks(links);
    this.#node.setUplinks(uplinks);
    return this.#registry.write();
  }
}

/** Facts about the node: the agent itself, the engines as processes, the links to other agents. */
class NodeGauges {
  readonly info: Gauge;
  readonly assignmentsGood: Gauge;
  readonly #engineUp: Gauge;
  readonly #resident: Gauge;
  readonly #cpu: Gauge;
  readonly #linkUp: Gauge;
  readonly #linkRtt;
  readonly #uplinkUp: Gauge;

  constructor(registry: MetricsRegistry) {
    this.info = registry.gauge({ name: "twinrun_agent_info", help: "1, with the agent's node.", labelNames: ["node"] });
    this.assignmentsGood = registry.gauge({
      name: "twinrun_assignments_good",
      help: "1 when the newest assignments are in use, 0 while an earlier version has to serve.",
    });
    this.#engineUp = registry.gauge({
      name: "twinrun_engine_up",
      help: "1 while an engine process of the guest runs on this node.",
      labelNames: ["guest"],
    });
    const labelNames = ["process", "guest"];
    this.#resident = registry.gauge({
      name: "twinrun_process_resident_memory_bytes",
      help: "Resident memory of the agent and of each engine.",
      labelNames,
    });
    this.#cpu = registry.gauge({
      name: "twinrun_process_cpu_seconds",
      help: "CPU time used by the agent and by each engine since that process started.",
      labelNames,
    });
    this.#uplinkUp = registry.gauge({
      name: "twinrun_node_uplink_up",
      help: "1 while the node's own way to the guests' clients works.",
      labelNames: ["uplink"],
    });
    const linkLabels = ["peer", "link"];
    this.#linkUp = registry.gauge({
      name: "twinrun_node_link_up",
      help: "1 while heartbeats of the peer's agent arrive over the link.",
      labelNames: linkLabels,
    });
    this.#linkRtt = registry.summary({
      name: "twinrun_node_link_rtt_seconds",
      help: "Round trip of heartbeats between the agents, over the last minute.",
      labelNames: linkLabels,
    });
  }

  setProcesses(guests: readonly GuestProcesses[]): void {
    this.#engineUp.remove({});
    this.#resident.remove({});
    this.#cpu.remove({});
    this.#setUsage("agent", "", process.pid);
    for (const { guest, enginePid } of guests) {
      this.#engineUp.set(enginePid === null ? 0 : 1, { guest });
      if (enginePid !== null) {
        this.#setUsage("engine", guest, enginePid);
      }
    }
  }

  setUplinks(uplinks: readonly UplinkStatus[]): void {
    for (const { name, up } of uplinks) {
      this.#uplinkUp.set(up ? 1 : 0, { uplink: name });
    }
  }

  setLinks(links: readonly PeerLinkStatus[]): void {
    this.#linkUp.remove({});
    this.#linkRtt.remove({});
    for (const { peer, link, alive, rtt } of links) {
      this.#linkUp.set(alive ? 1 : 0, { peer, link });
      this.#linkRtt.set(inSeconds(rtt), { peer, link });
    }
  }

  #setUsage(name: string, guest: string, pid: number): void {
    const usage = readUsage(pid);
    if (usage !== undefined) {
      this.#resident.set(usage.residentBytes, { process: name, guest });
      this.#cpu.set(usage.cpuSeconds, { process: name, guest });
    }
  }
}

/** What is true of a guest now; every series goes away with its engine. */
class GuestGauges {
  readonly #registry = new Map<string, Gauge>();
  readonly #phases;
  readonly #latency;
  readonly #dirtyPages;

  constructor(registry: MetricsRegistry) {
    const gauge = (name: string, help: string, ...labelNames: string[]): void => {
      this.#registry.set(name, registry.gauge({ name, help, labelNames: ["guest", ...labelNames] }));
    };
    gauge("twinrun_guest_role", "1 for the role this node has for the guest, 0 for the others.", "role");
    gauge("twinrun_guest_state", "1, with the state the engine is in.", "state");
    gauge("twinrun_guest_term", "Term of the quorum record as this side knows it.");
    gauge("twinrun_guest_epoch", "Newest epoch: taken on the primary, held whole on the standby.");
    gauge("twinrun_guest_output_mode", "1 for what becomes of packets the guest sends, 0 for the others.", "mode");
    gauge("twinrun_guest_held_packets", "Packets waiting for an acknowledgement.");
    gauge("twinrun_guest_condition", "1 for the status a condition has, 0 for the others.", "type", "status");
    gauge("twinrun_guest_tracker", "1, with the method that finds dirty pages.", "method");
    gauge("twinrun_sync_ratio", "Share of the guest that the standby holds, 0 to 1.");
    gauge("twinrun_disk_sync_ratio", "Share of the disk that the standby holds, 0 to 1.", "disk");
    gauge("twinrun_disk_dirty_bytes", "Bytes of the disk that the standby does not hold yet.", "disk");
    gauge("twinrun_replication_lag_seconds", "Age of the newest state the standby acknowledged.");
    gauge("twinrun_checkpoints_per_second", "Checkpoints per second of late.");
    gauge(
      "twinrun_link_share_bytes_per_second",
      "What the engine may put on the links; absent while there is no limit.",
    );
    gauge(
      "twinrun_link_share_used_up",
      "1 while the guest is slowed down, for it changes more than its share carries.",
    );
    gauge("twinrun_link_up", "1 while the link to the peer's engine carries heartbeats.", "link");
    gauge("twinrun_link_rtt_seconds", "Round trip over the link to the peer's engine.", "link");
    this.#phases = registry.summary({
      name: "twinrun_checkpoint_phase_seconds",
      help: "Time spent in each part of a checkpoint; the guest stands still in all of phase=pause.",
      labelNames: ["guest", "phase"],
    });
    this.#latency = registry.summary({
      name: "twinrun_added_latency_seconds",
      help: "Time for which protection held a packet back.",
      labelNames: ["guest"],
    });
    this.#dirtyPages = registry.summary({
      name: "twinrun_checkpoint_dirty_pages",
      help: "Pages of memory that a checkpoint had to copy.",
      labelNames: ["guest"],
    });
  }

  set(guest: string, report: EngineReport): void {
    this.remove(guest);
    this.#setPlain(guest, report);
    this.#setLabelled(guest, report);
    this.#setSummaries(guest, report.checkpoint, report.addedLatency);
  }

  remove(guest: string): void {
    for (const family of [...this.#registry.values(), this.#phases, this.#latency, this.#dirtyPages]) {
      family.remove({ guest });
    }
  }

  #setPlain(guest: string, report: EngineReport): void {
    this.#gauge("twinrun_guest_term").set(report.term, { guest });
    this.#gauge("twinrun_guest_epoch").set(report.epoch, { guest });
    this.#gauge("twinrun_guest_held_packets").set(report.heldPacketsCount, { guest });
    this.#gauge("twinrun_sync_ratio").set(report.syncPercent / 100, { guest });
    this.#gauge("twinrun_checkpoints_per_second").set(report.checkpoint.perSecond, { guest });
    if (report.linkShare !== undefined) {
      this.#gauge("twinrun_link_share_bytes_per_second").set(report.linkShare.bytesPerSecond, { guest });
      this.#gauge("twinrun_link_share_used_up").set(report.linkShare.isHeldTo ? 1 : 0, { guest });
    }
    if (report.lagMs !== null) {
      this.#gauge("twinrun_replication_lag_seconds").set(report.lagMs / 1000, { guest });
    }
  }

  #setLabelled(guest: string, report: EngineReport): void {
    const choose = (name: string, label: string, values: readonly string[], chosen: string): void => {
      for (const value of values) {
        this.#gauge(name).set(value === chosen ? 1 : 0, { guest, [label]: value });
      }
    };
    choose("twinrun_guest_role", "role", ROLES, report.role);
    choose("twinrun_guest_output_mode", "mode", OUTPUT_MODES, report.outputMode);
    choose("twinrun_guest_state", "state", [report.state], report.state);
    choose("twinrun_guest_tracker", "method", [report.tracker], report.tracker);
    for (const { type, status } of report.conditions) {
      for (const each of CONDITION_STATUSES) {
        this.#gauge("twinrun_guest_condition").set(each === status ? 1 : 0, { guest, type, status: each });
      }
    }
    for (const { id, syncPercent, dirtyBytes } of report.disks) {
      this.#gauge("twinrun_disk_sync_ratio").set(syncPercent / 100, { guest, disk: id });
      this.#gauge("twinrun_disk_dirty_bytes").set(dirtyBytes, { guest, disk: id });
    }
    for (const { name, alive, rttMs } of report.links) {
      this.#gauge("twinrun_link_up").set(alive ? 1 : 0, { guest, link: name });
      if (rttMs !== null) {
        this.#gauge("twinrun_link_rtt_seconds").set(rttMs / 1000, { guest, link: name });
      }
    }
  }

  #setSummaries(guest: string, checkpoint: CheckpointFigures, addedLatency: DurationFigures): void {
    for (const [phase, figures] of Object.entries(checkpoint.phases)) {
      this.#phases.set(inSeconds(figures), { guest, phase });
    }
    this.#latency.set(inSeconds(addedLatency), { guest });
    this.#dirtyPages.set(
      {
        quantiles: { "0.5": checkpoint.dirtyPagesP50, "1": checkpoint.dirtyPagesMax },
        sum: checkpoint.dirtyPagesCount,
        count: checkpoint.count,
      },
      { guest },
    );
  }

  #gauge(name: string): Pick<Gauge, "set"> {
    return this.#registry.get(name) ?? { set: () => undefined };
  }
}

/** Counters that outlive engines: each engine's own count is added on top of its predecessors'. */
class GuestCounters {
  readonly transitions;
  readonly #takeovers;
  readonly #checkpoints;
  readonly #sentBytes;
  readonly #ends;
  /** What the living engine reported last, by guest and counter. */
  readonly #last = new Map<string, Map<string, number>>();

  constructor(registry: MetricsRegistry) {
    const labelNames = ["guest"];
    this.#takeovers = registry.counter({
      name: "twinrun_takeovers_total",
      help: "Takeovers of the guest by this node.",
      labelNames,
    });
    this.#checkpoints = registry.counter({
      name: "twinrun_checkpoints_total",
      help: "Checkpoints taken on this node.",
      labelNames,
    });
    this.#sentBytes = registry.counter({
      name: "twinrun_sent_bytes_total",
      help: "Bytes sent to the standby, by what they were.",
      labelNames: ["guest", "kind"],
    });
    this.#ends = registry.counter({
      name: "twinrun_engine_ends_total",
      help: "Ends of engine processes, by reason; all but stopped and ended are followed by a restart.",
      labelNames: ["guest", "reason"],
    });
    this.transitions = registry.counter({
      name: "twinrun_transitions_total",
      help: "Changes of state, by the state entered.",
      labelNames: ["guest", "to"],
    });
  }

  take(guest: string, { takeoversCount, checkpoint }: EngineReport): void {
    this.#takeovers.add(this.#grown(guest, "takeovers", takeoversCount), { guest });
    this.#checkpoints.add(this.#grown(guest, "checkpoints", checkpoint.count), { guest });
    this.#sentBytes.add(this.#grown(guest, "memory", checkpoint.sentBytes), { guest, kind: "memory" });
    this.#sentBytes.add(this.#grown(guest, "disk", checkpoint.diskBytes), { guest, kind: "disk" });
  }

  engineEnded(guest: string, reason: string): void {
    this.#ends.add(1, { guest, reason });
    this.#last.delete(guest);
  }

  forget(guest: string): void {
    this.#last.delete(guest);
  }

  #grown(guest: string, counter: string, value: number): number {
    const last = this.#last.get(guest) ?? new Map<string, number>();
    this.#last.set(guest, last);
    const grown = Math.max(0, value - (last.get(counter) ?? 0));
    last.set(counter, value);
    return grown;
  }
}

const FAULT_STATES = ["InService", "OutOfService"] as const;

/** What failed of the guests' sides, on this node or seen from it; the series of a component are there once it has failed. */
class FaultMetrics {
  readonly #faults;
  readonly #states;

  constructor(registry: MetricsRegistry) {
    this.#faults = registry.counter({
      name: "twinrun_faults_total",
      help: "Faults seen of parts of the guest's sides, by the node they belong to.",
      labelNames: ["guest", "node", "component", "code"],
    });
    this.#states = registry.gauge({
      name: "twinrun_component_state",
      help: "1 for the state that a part of the guest's sides is in since it failed, 0 for the others.",
      labelNames: ["guest", "node", "component", "state"],
    });
  }

  take(guest: string, effects: readonly FaultEffect[]): void {
    for (const { record } of effects.filter(({ tag }) => tag !== "backInService")) {
      const { node, component, code } = record;
      this.#faults.add(1, { guest, node, component, code });
    }
  }

  set(guests: readonly GuestProcesses[]): void {
    this.#states.remove({});
    for (const { guest, faults } of guests) {
      for (const { node, component } of faults) {
        const ofComponent = faults.filter((each) => each.node === node && each.component === component);
        const isOut = ofComponent.some(({ state }) => state === "OutOfService");
        for (const state of FAULT_STATES) {
          this.#states.set((state === "OutOfService") === isOut ? 1 : 0, { guest, node, component, state });
        }
      }
    }
  }
}

function inSeconds({ p50Ms, p99Ms, maxMs, sumMs, count }: DurationFigures): SummaryValue {
  return { quantiles: { "0.5": p50Ms / 1000, "0.99": p99Ms / 1000, "1": maxMs / 1000 }, sum: sumMs / 1000, count };
}
