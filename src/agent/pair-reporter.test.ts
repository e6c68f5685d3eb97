import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, expect, test } from "@jest/globals";
import { until } from "../../test/build/agent-host.ts";
import { buildReport } from "../../test/build/engine-report.ts";
import { type SideStatus } from "../decide/side-status.ts";
import { type EngineReport } from "../protocol/assignment.ts";
import { silentLog } from "../telemetry/log.ts";
import { type GuestStatus } from "./guest-runner.ts";
import { type AppliedStatus, PairReporter } from "./pair-reporter.ts";

/** The API server as a test wants it. */
class Server {
  readonly applied: AppliedStatus[] = [];
  isAway = false;
  attempts = 0;
  readonly managers = new Set<string>();
  report: EngineReport | null = buildReport();
  isAssigned = true;
  isListed = true;
  written: SideStatus | undefined;
  readonly reporter = new PairReporter({
    node: "node-a",
    apiVersion: "twinrun.dev/v1alpha1",
    readGuest: () => (this.isAssigned ? statusOf(this.report) : undefined),
    readObject: () => ({ namespace: "twinrun", name: "web", generation: 2 }),
    readTrouble: () => undefined,
    readFaults: () => [],
    isListed: () => this.isListed,
    readWritten: () => (this.isListed ? this.written : undefined),
    applyStatus: (object, manager) => this.#take(object, manager),
    log: silentLog,
  });

  async #take(object: AppliedStatus, manager: string): Promise<void> {
    this.attempts += 1;
    await sleep(1);
    if (this.isAway) {
      throw new Error("no route to host");
    }
    this.managers.add(manager);
    this.applied.push(object);
  }

  say(report: EngineReport | null): void {
    this.report = report;
    this.reporter.guestChanged("web");
  }

  get states(): readonly (string | undefined)[] {
    return this.applied.map(({ status }) => status.sides?.[0]?.state);
  }
}

function statusOf(report: EngineReport | null): GuestStatus {
  return {
    guest: "web",
    mode: "FaultTolerant",
    peerNode: "node-b",
    disks: ["disk0"],
    links: ["direct"],
    supervision: "running",
    enginePid: 7,
    engineRestartsCount: 0,
    qemu: null,
    changePending: false,
    wantedShape: null,
    trouble: null,
    report,
  };
}

let server = new Server();
afterEach(() => {
  server.reporter.close();
  server = new Server();
});

test("news is written at once, once, by this node's own manager; nothing else is", async () => {
  server.say(buildReport());
  await until("it is written", () => server.applied.length > 0 || undefined);
  server.say(buildReport({ epoch: 50 }));
  server.say(buildReport({ epoch: 51 }));
  server.say(buildReport({ state: "alone" }));
  await until("the change is written", () => server.applied.length > 1 || undefined);
  await sleep(30);
  expect(server.states).toEqual(["protected", "alone"]);
  expect([...server.managers]).toEqual(["twinrun-agent-node-a"]);
  expect(server.applied[0]).toMatchObject({
    apiVersion: "twinrun.dev/v1alpha1",
    kind: "GuestPair",
    metadata: { namespace: "twinrun", name: "web" },
  });
});

test("what changes while a write is under way follows it", async () => {
  server.say(buildReport());
  server.say(buildReport({ state: "syncing" }));
  server.say(buildReport({ state: "alone" }));
  await until("the last state is written", () => server.states.at(-1) === "alone" || undefined);
  expect(server.states).toEqual(["protected", "alone"]);
});

test("through an outage only the newest is kept, and written when the server is back", async () => {
  server.isAway = true;
  server.say(buildReport());
  for (const state of ["alone", "syncing", "declaring", "protected"]) {
    server.say(buildReport({ state, term: 4 }));
    await sleep(10);
  }
  expect(server.attempts).toBeLessThan(3);
  server.isAway = false;
  await until("it is written", () => server.applied.length > 0 || undefined);
  expect(server.applied).toHaveLength(1);
  expect(server.applied[0]?.status.sides?.[0]).toMatchObject({
    state: "protected",
    term: 4,
  });
});

test("a takeover is told with its cause", async () => {
  const step = { role: "standby", term: 4, epoch: 41 } as const;
  server.reporter.noteTransition("web", {
    ...step,
    from: "holding",
    to: "asking",
    cause: "received",
  });
  server.reporter.noteTransition("web", {
    ...step,
    from: "asking",
    to: "activating",
    cause: "quorumAnswered",
  });
  server.reporter.noteTransition("web", {
    ...step,
    from: "activating",
    to: "alone",
    cause: "activated",
  });
  server.say(buildReport({ state: "alone", term: 4 }));
  await until("it is written", () => server.applied.length > 0 || undefined);
  server.say(buildReport({ state: "syncing", term: 4 }));
  await until("the next one is written", () => server.applied.length > 1 || undefined);
  for (const { status } of server.applied) {
    expect(status.sides?.[0]).toMatchObject({
      takeoversCount: 1,
      lastTakeover: { cause: "the primary's QEMU died", term: 4, epoch: 41 },
    });
  }
});

test("of a guest that is not assigned any more nothing is written", async () => {
  server.isAssigned = false;
  server.say(buildReport());
  await sleep(30);
  expect(server.attempts).toBe(0);
});

test("an agent that starts while the API server is away forgets nothing of what the one before it wrote", async () => {
  server.say(buildReport());
  await until("it is written", () => server.applied.length > 0 || undefined);
  const written = server.applied[0]?.status.sides?.[0];
  const next = new Server();
  next.written = written === undefined ? undefined : { ...written, term: 7, takeoversCount: 3 };
  next.isListed = false;
  next.say(null);
  await sleep(10);
  expect(next.attempts).toBe(0);
  next.isListed = true;
  next.say(null);
  await until("the next one writes", () => next.applied.length > 0 || undefined);
  expect(next.applied[0]?.status.sides?.[0]).toMatchObject({ term: 7, primaryNode: "host-a", takeoversCount: 3 });
  next.reporter.close();
});
