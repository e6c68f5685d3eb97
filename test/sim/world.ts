/**
 * One simulated pair, its quorum and its client, from a seed: same seed, same run.
 *
 *   start -> faults -> everything healed -> protection and replies are back, within LIVENESS_MS
 */
import { step } from "../../src/protocol/side.ts";
import { type AvailabilityMode } from "../../src/protocol/messages.ts";
import { type QuorumRecord, type QuorumRequest } from "../../src/protocol/quorum-record.ts";
import { planTiming, type Timing } from "../../src/protocol/timing.ts";
import { Random } from "../../src/lib/random.ts";
import { Checks, type Counts } from "./checks.ts";
import { SimClient } from "./client.ts";
import { Clock } from "./clock.ts";
import { Faults } from "./faults.ts";
import { type Packet } from "./guest.ts";
import { SimHost } from "./host.ts";
import { type LinkName, type NodeName, Way } from "./network.ts";
import { productionRules, SimQuorum } from "./quorum.ts";

export const GUEST = "web";
/** After the faults have stopped. */
export const LIVENESS_MS = 60_000;
const SETTLED_MS = 200;

/** The code under test; a test may put a broken one in its place. */
export const PRODUCTION = { ...productionRules, step };
export type Rules = typeof PRODUCTION;

export type WorldOptions = {
  readonly rules?: Rules;
  /** Takes lines of a log for people. */
  readonly log?: (line: string) => void;
  readonly keepsTraces?: boolean;
  readonly mode?: AvailabilityMode;
  /** Somebody changes the mode now and then. */
  readonly changesMode?: boolean;
  /** What goes wrong, instead of what the seed says. */
  readonly plan?: (world: World) => void;
  /** When everything is healed, and how far apart the hosts are, instead of what the seed says. */
  readonly healedMs?: number;
  readonly roundTripMs?: number;
};

export type Outcome = Readonly<Counts> & {
  readonly seed: number;
  readonly virtualMs: number;
  readonly events: number;
  readonly faults: number;
  readonly replies: number;
  readonly outageMs: number;
  /** From the end of the faults to protection; undefined when the guest has shut itself down. */
  readonly recoveredMs: number | undefined;
  readonly violation: string | undefined;
  readonly traces: Readonly<Record<NodeName, string>>;
};

export class World {
  readonly seed: number;
  readonly rules: Rules;
  readonly clock = new Clock();
  readonly random: Random;
  readonly timing: Timing;
  readonly keepsTraces: boolean;
  readonly checks: Checks;
  readonly quorum: SimQuorum;
  readonly hosts: Readonly<Record<NodeName, SimHost>>;
  readonly client: SimClient;
  readonly faults: Faults;
  /** What the assignments say now. */
  mode: AvailabilityMode;
  /** Whether one fault may cost the guest its memory. */
  readonly mayLoseMemory: boolean;
  readonly #changesMode: boolean;
  readonly #ways: Readonly<Record<string, Way>>;
  readonly #plan: ((world: World) => void) | undefined;
  readonly #log: ((line: string) => void) | undefined;
  readonly #healedMs: number | undefined;
  #ids = 0;
  #events = 0;

  constructor(seed: number, options: WorldOptions = {}) {
    const { rules = PRODUCTION, log, keepsTraces = false, plan, mode = "FaultTolerant", changesMode = false } = options;
    this.mode = mode;
    this.#changesMode = changesMode;
    this.mayLoseMemory = changesMode || mode === "HighAvailability";
    this.seed = seed;
    this.rules = rules;
    this.random = new Random(seed);
    this.timing = planTiming(this.random.chance(0.7) ? undefined : 200 + this.random.below(2_000));
    this.keepsTraces = keepsTraces;
    this.#log = log;
    this.#plan = plan;
    this.checks = new Checks(this);
    this.quorum = new SimQuorum(this);
    this.hosts = { a: new SimHost(this, "a"), b: new SimHost(this, "b") };
    this.client = new SimClient(this);
    this.faults = new Faults(this);
    this.#healedMs = options.healedMs;
    const drawnMs = this.random.chance(0.7) ? 0 : 5 * this.random.fraction();
    const distanceMs = options.roundTripMs === undefined ? drawnMs : options.roundTripMs / 2;
    const way = (): Way => new Way(distanceMs);
    this.#ways = { "one.a": way(), "one.b": way(), "two.a": way(), "two.b": way() };
  }

  nextId(): number {
    this.#ids += 1;
    return this.#ids;
  }

  /** One direction of a link, by the node that sends. */
  way(link: LinkName, from: NodeName): Way {
    return this.#ways[`${link}.${from}`] ?? this.checks.fail(`no link ${link}`);
  }

  log(line: () => string): void {
    this.#log?.(`${(this.clock.nowMs / 1000).toFixed(4)} ${line()}`);
  }

  whenRecordChanges(record: QuorumRecord, request: QuorumRequest): void {
    const { version, term, owner, peerState } = record;
    this.log(() => `quorum: ${request.requestId} granted: version ${version}, term ${term}, ${owner}, ${peerState}`);
    this.checks.noteRecord(record);
    if (request.change.tag === "handOver") {
      this.checks.counts.switchovers += 1;
    }
  }

  expose(host: SimHost, packet: Packet): void {
    this.checks.noteExposed(host, packet);
    this.client.carry(host.node, packet);
  }

  run(): Outcome {
    const { clock, random } = this;
    let recoveredMs: number | undefined;
    let violation: string | undefined;
    clock.after(random.below(300), () => {
      this.hosts.a.startAgent();
    });
    clock.after(random.below(300), () => {
      this.hosts.b.startAgent();
    });
    this.client.start();
    if (this.#changesMode) {
      this.#changeModeLater();
    }
    const startMs = random.chance(0.25) ? random.below(1_500) : 1_500 + random.below(1_500);
    const drawnMs = startMs + 1_500 + random.below(random.chance(0.3) ? 20_000 : 6_000);
    const endMs = this.#healedMs ?? drawnMs;
    if (this.#plan !== undefined) {
      this.#plan(this);
    } else if (random.chance(0.4)) {
      this.faults.planPatiently(12);
    } else {
      this.faults.plan(startMs, endMs);
    }
    try {
      this.#runUntil(endMs, () => false);
      this.faults.end();
      this.log(() => "all faults are healed");
      recoveredMs = this.#runToProtection(endMs);
    } catch (error) {
      violation = error instanceof Error ? (error.stack ?? error.message) : String(error);
      this.log(() => `VIOLATION ${error instanceof Error ? error.message : String(error)}`);
    }
    const { a, b } = this.hosts;
    return {
      ...this.checks.counts,
      seed: this.seed,
      virtualMs: clock.nowMs,
      events: this.#events,
      faults: this.faults.count,
      replies: this.client.taken,
      outageMs: this.client.outageMs,
      recoveredMs,
      violation,
      traces: { a: (a.trace ?? []).join(""), b: (b.trace ?? []).join("") },
    };
  }

  /** Each side hears of it at its own time. */
  #changeModeLater(): void {
    this.clock.after(2_000 + this.random.below(6_000), () => {
      this.mode = this.mode === "FaultTolerant" ? "HighAvailability" : "FaultTolerant";
      this.log(() => `the mode becomes ${this.mode}`);
      for (const host of [this.hosts.a, this.hosts.b]) {
        this.clock.after(this.random.below(300), () => {
          host.engine?.enter(() => host.engine?.followMode());
        });
      }
      this.#changeModeLater();
    });
  }

  #runToProtection(healedMs: number): number | undefined {
    let protectedMs: number | undefined;
    let repliesBefore = 0;
    this.#runUntil(healedMs + LIVENESS_MS, () => {
      if (this.#isAtRest()) {
        return true;
      }
      if (!this.isProtected()) {
        protectedMs = undefined;
        return false;
      }
      if (protectedMs === undefined) {
        protectedMs = this.clock.nowMs;
        repliesBefore = this.client.taken;
      }
      return this.clock.nowMs - protectedMs >= SETTLED_MS && this.client.taken > repliesBefore;
    });
    if (this.#isAtRest()) {
      return undefined;
    }
    if (protectedMs === undefined || this.clock.nowMs >= healedMs + LIVENESS_MS) {
      const { a, b } = this.hosts;
      const states = `a is ${a.engine?.state ?? "down"}, b is ${b.engine?.state ?? "down"}`;
      const replies = `${this.client.taken} replies`;
      this.checks.fail(`no protection ${LIVENESS_MS} ms after the last fault: ${states}, ${replies}`);
    }
    return protectedMs - healedMs;
  }

  isProtected(): boolean {
    const { a, b } = this.hosts;
    const states = [a.engine?.state, b.engine?.state];
    const haveGuests = a.guest?.isAlive === true && b.guest?.isAlive === true;
    return haveGuests && states.includes("protected") && states.includes("holding");
  }

  /** The guest switched itself off: one side rests, and the other must not run it on. */
  #isAtRest(): boolean {
    const { a, b } = this.hosts;
    return a.isAtRest || b.isAtRest;
  }

  #runUntil(untilMs: number, isOver: () => boolean): void {
    while (this.clock.nowMs < untilMs && !isOver()) {
      if (!this.clock.step()) {
        this.checks.fail("nothing is left to happen");
      }
      this.#events += 1;
      this.checks.afterEvent();
    }
  }
}
