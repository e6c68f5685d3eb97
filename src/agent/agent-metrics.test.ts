import { expect, test } from "@jest/globals";
import { buildReport } from "../../test/build/engine-report.ts";
import { parsePrometheusText, type PrometheusFamily } from "../../test/build/prometheus-text.ts";
import { type FaultEvent, type FaultRecord, stepFaults } from "../decide/fault-log.ts";
import { AgentMetrics } from "./agent-metrics.ts";

const ended = { reason: undefined, message: "", livedMs: 1 };

function valueOf(
  families: ReadonlyMap<string, PrometheusFamily>,
  name: string,
  labels: Readonly<Record<string, string>>,
): number | undefined {
  const family = families.get(name.replace(/_(sum|count)$/, "")) ?? families.get(name);
  return family?.samples.find(
    (sample) => sample.name === name && Object.entries(labels).every(([label, text]) => sample.labels[label] === text),
  )?.value;
}

function scrape(metrics: AgentMetrics, faults: readonly FaultRecord[] = []): ReadonlyMap<string, PrometheusFamily> {
  const rtt = { p50Ms: 1, p99Ms: 2, maxMs: 3, sumMs: 4, count: 5 };
  return parsePrometheusText(
    metrics.write({
      guests: [{ guest: "web", enginePid: process.pid, faults }],
      links: [{ peer: "host-b", link: "direct", alive: true, rtt, problem: null }],
      uplinks: [{ name: "eth0", up: false }],
    }),
  );
}

test("every figure of a report can be scraped, in base units", () => {
  const metrics = new AgentMetrics("host-a");
  metrics.assignmentsRead(true);
  metrics.reported("web", buildReport());
  const families = scrape(metrics);
  const web = { guest: "web" };
  const expected: readonly [string, Record<string, string>, number][] = [
    ["twinrun_checkpoint_phase_seconds", { ...web, phase: "pause", quantile: "0.99" }, 0.008],
    ["twinrun_checkpoint_phase_seconds_count", { ...web, phase: "stop" }, 100],
    ["twinrun_checkpoint_dirty_pages", { ...web, quantile: "0.5" }, 120],
    ["twinrun_checkpoints_total", web, 100],
    ["twinrun_checkpoints_per_second", web, 25],
    ["twinrun_sent_bytes_total", { ...web, kind: "memory" }, 1_000_000],
    ["twinrun_added_latency_seconds", { ...web, quantile: "0.5" }, 0.01],
    ["twinrun_replication_lag_seconds", web, 0.0125],
    ["twinrun_sync_ratio", web, 1],
    ["twinrun_disk_sync_ratio", { ...web, disk: "disk0" }, 0.5],
    ["twinrun_guest_role", { ...web, role: "primary" }, 1],
    ["twinrun_guest_role", { ...web, role: "standby" }, 0],
    ["twinrun_guest_term", web, 3],
    ["twinrun_takeovers_total", web, 1],
    ["twinrun_link_rtt_seconds", { ...web, link: "direct" }, 0.0002],
    ["twinrun_guest_condition", { ...web, type: "InSync", status: "True" }, 1],
    ["twinrun_node_link_up", { peer: "host-b", link: "direct" }, 1],
    ["twinrun_node_link_rtt_seconds_count", { peer: "host-b" }, 5],
    ["twinrun_node_uplink_up", { uplink: "eth0" }, 0],
    ["twinrun_engine_up", web, 1],
    ["twinrun_assignments_good", {}, 1],
  ];
  for (const [name, labels, value] of expected) {
    expect([name, labels, valueOf(families, name, labels)]).toEqual([name, labels, value]);
  }
  expect(valueOf(families, "twinrun_process_resident_memory_bytes", { process: "agent" })).toBeGreaterThan(1e7);
});

test("counters go on over a restart of the engine, gauges do not outlive it", () => {
  const metrics = new AgentMetrics("host-a");
  const checkpoint = buildReport().checkpoint;
  metrics.reported("web", buildReport({ takeoversCount: 1, checkpoint: { ...checkpoint, count: 100 } }));
  metrics.reported("web", buildReport({ takeoversCount: 1, checkpoint: { ...checkpoint, count: 150 } }));
  metrics.engineEnded("web", ended);
  const between = scrape(metrics);
  expect(valueOf(between, "twinrun_guest_term", { guest: "web" })).toBeUndefined();
  expect(valueOf(between, "twinrun_checkpoints_total", { guest: "web" })).toBe(150);
  metrics.reported("web", buildReport({ takeoversCount: 0, checkpoint: { ...checkpoint, count: 7 } }));
  const families = scrape(metrics);
  expect(valueOf(families, "twinrun_checkpoints_total", { guest: "web" })).toBe(157);
  expect(valueOf(families, "twinrun_takeovers_total", { guest: "web" })).toBe(1);
  expect(valueOf(families, "twinrun_engine_ends_total", { guest: "web", reason: "crashed" })).toBe(1);
});

test("a state that passed and a guest that left leave no series", () => {
  const metrics = new AgentMetrics("host-a");
  metrics.reported("web", buildReport({ state: "syncing", lagMs: 5 }));
  metrics.reported("web", buildReport({ state: "protected", lagMs: null }));
  metrics.reported("mail", buildReport());
  const families = scrape(metrics);
  expect(valueOf(families, "twinrun_guest_state", { guest: "web", state: "syncing" })).toBeUndefined();
  expect(valueOf(families, "twinrun_guest_state", { guest: "web", state: "protected" })).toBe(1);
  expect(valueOf(families, "twinrun_replication_lag_seconds", { guest: "web" })).toBeUndefined();
  metrics.guestRemoved("mail");
  expect(
    [...scrape(metrics).values()].flatMap(({ samples }) => samples).some(({ labels }) => labels["guest"] === "mail"),
  ).toBe(false);
});

test("faults are counted, and a component that has failed shows whether it works", () => {
  const metrics = new AgentMetrics("host-a");
  const disk = { node: "host-a", component: "disk/system" } as const;
  const failed: FaultEvent = { tag: "faulted", ...disk, code: "DiskFailed", message: "EIO" };
  let records: readonly FaultRecord[] = [];
  const take = (event: FaultEvent): ReadonlyMap<string, PrometheusFamily> => {
    const step = stepFaults(records, event, Date.now());
    records = step.records;
    metrics.faultsChanged("web", step.effects);
    return scrape(metrics, records);
  };
  const countOf = (families: ReadonlyMap<string, PrometheusFamily>): number | undefined =>
    valueOf(families, "twinrun_faults_total", { guest: "web", ...disk, code: "DiskFailed" });
  const stateOf = (families: ReadonlyMap<string, PrometheusFamily>, state: string): number | undefined =>
    valueOf(families, "twinrun_component_state", { guest: "web", ...disk, state });
  expect(countOf(take(failed))).toBe(1);
  const out = take(failed);
  expect([countOf(out), stateOf(out, "OutOfService"), stateOf(out, "InService")]).toEqual([2, 1, 0]);
  const back = take({ tag: "repaired", ...disk });
  expect([countOf(back), stateOf(back, "OutOfService"), stateOf(back, "InService")]).toEqual([2, 0, 1]);
});
