/**
 * What goes wrong: a plan drawn from the seed. Some plans wait for protection after each fault, others do not. Some faults come
 * at a moment, some at a step of the protocol: just before or
 * after a side performs a certain effect. Every lasting fault heals; when the plan is over everything is healed.
 */
import { type Effect } from "../../src/protocol/side-state.ts";
import { type SimHost } from "./host.ts";
import { LINKS, type NodeName } from "./network.ts";
import { type World } from "./world.ts";

export type FaultName =
  | "engineKilled"
  | "qemuKilled"
  | "agentKilled"
  | "powerLost"
  | "bothPowerLost"
  | "engineFrozen"
  | "linkCut"
  | "linkCutOneWay"
  | "allLinksCut"
  | "allLinksCutOneWay"
  | "linkSlow"
  | "linkLossy"
  | "connectionBroken"
  | "quorumDown"
  | "quorumSlow"
  | "quorumCut"
  | "quorumCutOneWay"
  | "clientCut"
  | "diskSlow"
  | "standbyDiskFailed"
  | "switchover"
  | "drained"
  | "impaired"
  | "quorumMoved"
  | "guestShutDown";

/** Name and how often it is drawn compared to the others. */
const WEIGHTS: readonly (readonly [FaultName, number])[] = [
  ["engineKilled", 14],
  ["qemuKilled", 12],
  ["agentKilled", 6],
  ["powerLost", 8],
  ["bothPowerLost", 2],
  ["engineFrozen", 6],
  ["linkCut", 6],
  ["linkCutOneWay", 6],
  ["allLinksCut", 12],
  ["allLinksCutOneWay", 10],
  ["linkSlow", 4],
  ["linkLossy", 4],
  ["connectionBroken", 6],
  ["quorumDown", 8],
  ["quorumSlow", 8],
  ["quorumCut", 10],
  ["quorumCutOneWay", 10],
  ["clientCut", 3],
  ["diskSlow", 6],
  ["standbyDiskFailed", 3],
  ["switchover", 8],
  ["drained", 3],
  ["impaired", 6],
  ["quorumMoved", 6],
  ["guestShutDown", 0.4],
];
const WEIGHT_SUM = WEIGHTS.reduce((sum, [, weight]) => sum + weight, 0);

/** Steps of the protocol at which a fault is worth most. */
const STEPS = [
  "declareInSync",
  "runAlone",
  "takeOver",
  "handOver",
  "create",
  "activate",
  "openOutput",
  "beginSync",
  "startEpochs",
  "captureFinal",
  "commitEpoch",
  "releaseOutput",
  "endSession",
  "beginReceiving",
  "readRecord",
  "startGuest",
  "killGuest",
  "pauseGuest",
  "resumeGuest",
  "openLinks",
  "closeLink",
  "exit",
] as const;

/** Faults that count as two: nothing here can help a client that is cut off from a host. */
const NOT_TOLERATED: ReadonlySet<FaultName> = new Set(["bothPowerLost", "guestShutDown", "clientCut"]);
const CALM_MS = 1_000;

/** A fault at a step of the protocol; `there` is the side that does not take the step. */
export type Trigger = {
  readonly step: string;
  readonly when: "before" | "after";
  readonly fault: FaultName;
  readonly at: "here" | "there";
  readonly delayMs: number;
  skips: number;
};

export class Faults {
  count = 0;
  /** Faults since the pair was last protected with everything healthy; undefined until it has been. */
  sinceProtected: number | undefined;
  readonly #world: World;
  readonly #healings = new Set<() => void>();
  #triggers: Trigger[] = [];
  #isOver = false;
  #lastMs = -Infinity;
  #beforeLastMs = -Infinity;

  constructor(world: World) {
    this.#world = world;
  }

  /** A plan that waits for protection after each fault, or two that come together: every fault meets a protected pair. */
  planPatiently(left: number): void {
    const { random, clock } = this.#world;
    clock.after(30 + random.below(400), () => {
      if (!this.#world.isProtected()) {
        this.planPatiently(left);
        return;
      }
      this.apply(this.#draw(), random.chance(0.5) ? "a" : "b");
      if (random.chance(0.3)) {
        clock.after(random.below(random.chance(0.5) ? 20 : 600), () => {
          this.apply(this.#draw(), random.chance(0.5) ? "a" : "b");
        });
      }
      if (left > 1) {
        this.planPatiently(left - 1);
      }
    });
  }

  /** Draws the plan for the time until `endMs`. */
  plan(startMs: number, endMs: number): void {
    const { random, clock } = this.#world;
    const count = 2 + random.below(random.chance(0.4) ? 30 : 8);
    let burstMs = startMs;
    for (let index = 0; index < count; index += 1) {
      const fault = this.#draw();
      if (random.chance(0.35)) {
        this.#drawTrigger(fault, startMs);
        continue;
      }
      // Faults like company: half of them come soon after another.
      const atMs = random.chance(0.5) ? burstMs + random.below(800) : startMs + random.below(endMs - startMs);
      burstMs = atMs;
      clock.after(Math.min(atMs, endMs) - clock.nowMs, () => {
        this.apply(fault, random.chance(0.5) ? "a" : "b");
      });
    }
  }

  #draw(): FaultName {
    let at = this.#world.random.fraction() * WEIGHT_SUM;
    for (const [fault, weight] of WEIGHTS) {
      at -= weight;
      if (at < 0) {
        return fault;
      }
    }
    return "engineKilled";
  }

  arm(trigger: Trigger): void {
    this.#triggers.push(trigger);
  }

  #drawTrigger(fault: FaultName, startMs: number): void {
    const { random, clock } = this.#world;
    const trigger: Trigger = {
      step: STEPS[random.below(STEPS.length)] ?? "activate",
      when: random.chance(0.5) ? "before" : "after",
      fault,
      at: random.chance(0.5) ? "here" : "there",
      delayMs: random.chance(0.5) ? 0 : random.below(60),
      skips: random.chance(0.6) ? 0 : random.below(6),
    };
    clock.after(startMs * random.fraction() - clock.nowMs, () => {
      this.arm(trigger);
    });
  }

  /** A side is about to perform an effect, or just has. */
  meet(host: SimHost, effect: Effect, when: "before" | "after"): void {
    if (this.#triggers.length === 0 || this.#isOver) {
      return;
    }
    const step = effect.tag === "askQuorum" ? effect.request.change.tag : effect.tag;
    const due = this.#triggers.find((trigger) => trigger.step === step && trigger.when === when);
    if (due === undefined) {
      return;
    }
    if (due.skips > 0) {
      due.skips -= 1;
      return;
    }
    this.#triggers = this.#triggers.filter((trigger) => trigger !== due);
    const node = due.at === "here" ? host.node : host.node === "a" ? "b" : "a";
    if (due.delayMs === 0) {
      this.apply(due.fault, node);
    } else {
      this.#world.clock.after(due.delayMs, () => {
        this.apply(due.fault, node);
      });
    }
  }

  /** `givenMs`: how long it lasts, if it does, instead of what chance says. */
  apply(fault: FaultName, node: NodeName, givenMs?: number): void {
    if (this.#isOver) {
      return;
    }
    this.count += 1;
    this.#noteFault(NOT_TOLERATED.has(fault) ? 2 : 1);
    const { random } = this.#world;
    const drawnMs = random.chance(0.5) ? 50 + random.below(900) : 500 + random.below(6_000);
    const lastsMs = givenMs ?? drawnMs;
    this.#world.log(() => `FAULT ${fault} ${node}, for ${lastsMs} ms if it lasts`);
    if (!this.#applyToProcess(fault, this.#world.hosts[node], lastsMs)) {
      this.#applyToNetwork(fault, this.#world.hosts[node], lastsMs);
    }
  }

  /** Whether exactly one fault came after that moment, none had for a second before, and it struck a protected pair. */
  hasStruckAloneSince(sinceMs: number): boolean {
    const { sinceProtected } = this;
    return sinceProtected === 1 && this.#lastMs >= sinceMs && this.#beforeLastMs < sinceMs - CALM_MS;
  }

  #noteFault(weight: number): void {
    this.#beforeLastMs = this.#lastMs;
    this.#lastMs = this.#world.clock.nowMs;
    if (this.#healings.size === 0 && this.#world.isProtected()) {
      this.sinceProtected = 0;
    }
    if (this.sinceProtected !== undefined) {
      this.sinceProtected += weight;
    }
  }

  #applyToProcess(fault: FaultName, host: SimHost, lastsMs: number): boolean {
    switch (fault) {
      case "engineKilled":
        host.killEngine();
        return true;
      case "qemuKilled":
        host.killGuest();
        return true;
      case "agentKilled":
        host.killAgent();
        this.#heal(lastsMs, () => {
          host.startAgent();
        });
        return true;
      case "powerLost":
        this.#losePower(host, lastsMs);
        return true;
      case "bothPowerLost":
        this.#losePower(this.#world.hosts.a, lastsMs);
        this.#losePower(this.#world.hosts.b, this.#world.random.below(5_000));
        return true;
      case "engineFrozen": {
        const { engine } = host;
        engine?.freeze();
        this.#heal(lastsMs, () => {
          engine?.thaw();
        });
        return true;
      }
      case "standbyDiskFailed":
        host.engine?.enter(() => {
          host.engine?.failDisk();
        });
        return true;
      case "switchover":
        this.#tell(host, "switchoverAsked");
        return true;
      case "drained":
        host.drain(lastsMs);
        return true;
      case "impaired":
        this.#tellHealth(host, true);
        this.#heal(lastsMs, () => {
          this.#tellHealth(host, false);
        });
        return true;
      case "guestShutDown":
        this.#shutDown(host);
        return true;
      default:
        return false;
    }
  }

  #applyToNetwork(fault: FaultName, host: SimHost, lastsMs: number): void {
    const { random, quorum } = this.#world;
    const link = LINKS[random.below(LINKS.length)] ?? "one";
    const out = this.#world.way(link, host.node);
    const both = [this.#world.way(link, "a"), this.#world.way(link, "b")];
    const all = LINKS.flatMap((name) => [this.#world.way(name, "a"), this.#world.way(name, "b")]);
    switch (fault) {
      case "linkCut":
        this.#set(both, { isCut: true }, lastsMs);
        return;
      case "linkCutOneWay":
        this.#set([out], { isCut: true }, lastsMs);
        return;
      case "allLinksCut":
        this.#set(all, { isCut: true }, lastsMs);
        return;
      case "allLinksCutOneWay":
        this.#set(
          LINKS.map((name) => this.#world.way(name, host.node)),
          { isCut: true },
          lastsMs,
        );
        return;
      case "linkSlow":
        this.#set(both, { slowMs: 20 + random.below(300) }, lastsMs);
        return;
      case "linkLossy":
        this.#set(both, { loss: 0.3 * random.fraction() }, lastsMs);
        return;
      case "connectionBroken":
        host.engine?.breakConnection(link);
        return;
      case "quorumMoved":
        quorum.move();
        return;
      case "quorumDown":
        this.#set([quorum], { isUp: false }, lastsMs);
        return;
      case "quorumSlow":
        this.#set([quorum], { slowMs: 50 + random.below(2_500), duplicateChance: 0.5 }, lastsMs);
        return;
      case "quorumCut":
        this.#set([host.quorumPath], { to: false, from: false }, lastsMs);
        return;
      case "quorumCutOneWay":
        this.#set([host.quorumPath], random.chance(0.3) ? { to: false } : { from: false }, lastsMs);
        return;
      case "clientCut":
        this.#set([host.clientPath], random.chance(0.5) ? { to: false } : { from: false }, lastsMs);
        return;
      case "diskSlow":
        this.#set([host], { slowDiskMs: 5 + random.below(150) }, lastsMs);
        return;
      default:
        this.#world.checks.fail(`a fault that nobody knows: ${fault}`);
    }
  }

  #losePower(host: SimHost, lastsMs: number): void {
    if (host.isOn) {
      host.powerOff();
      this.#heal(300 + lastsMs, () => {
        host.powerOn();
      });
    }
  }

  #shutDown(host: SimHost): void {
    const { engine, guest } = host;
    if (guest?.isRunning === true && engine !== undefined) {
      guest.stop();
      this.#tell(host, "guestShutDown");
    }
  }

  #tell(host: SimHost, tag: "switchoverAsked" | "guestShutDown"): void {
    const { engine } = host;
    engine?.enter(() => {
      engine.post({ tag });
    });
  }

  #tellHealth({ engine }: SimHost, isImpaired: boolean): void {
    engine?.enter(() => {
      engine.post({ tag: "healthChanged", isImpaired });
    });
  }

  #set<Thing extends object>(things: readonly Thing[], change: Partial<Thing>, lastsMs: number): void {
    for (const thing of things) {
      Object.assign(thing, change);
    }
    this.#heal(lastsMs, () => {
      for (const thing of things) {
        Object.assign(thing, planHealthy(change));
      }
    });
  }

  #heal(afterMs: number, heal: () => void): void {
    this.#healings.add(heal);
    this.#world.clock.after(afterMs, () => {
      if (this.#healings.delete(heal)) {
        heal();
      }
    });
  }

  /** Everything heals now, and nothing breaks any more. */
  end(): void {
    this.#isOver = true;
    this.#triggers = [];
    for (const heal of this.#healings) {
      heal();
    }
    this.#healings.clear();
  }
}

const HEALTHY: Readonly<Record<string, unknown>> = {
  isCut: false,
  slowMs: 0,
  loss: 0.002,
  isUp: true,
  duplicateChance: 0.03,
  to: true,
  from: true,
  slowDiskMs: 0,
};

function planHealthy(change: object): object {
  return Object.fromEntries(Object.keys(change).map((key) => [key, HEALTHY[key]]));
}
