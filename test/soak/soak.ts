/**
 * Kills things, again and again, and looks after each time whether anybody lost anything.
 *
 * One round: everything is protected; something random happens at a random moment (now and then something more while the
 * standby is being copied to); everything must be protected again in bounded time; the clients, which never reconnect, have seen
 * no fault; both disks of every guest are equal; no process is left that nobody knows. The first violation ends the run: what
 * comes after it proves nothing.
 *
 * The seed fixes which faults happen and the planned moments; the machine's own timing it cannot fix.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { Random } from "../../src/lib/random.ts";
import { type Cluster, type GuestView, type Takeover } from "../lab/cluster.ts";
import { compareDisks } from "../lab/disk-comparison.ts";
import { countFaults, countReplies, type Witness } from "../lab/load.ts";
import { pairHosts } from "../lab/placement.ts";
import {
  chooseFault,
  FailPointDeck,
  failPointNames,
  faultNames,
  findFault,
  plainFaultNames,
  type FaultName,
} from "./faults.ts";

export type Kill = {
  readonly number: number;
  readonly fault: FaultName;
  readonly guest: string;
  readonly says: string;
  /** Struck while the standby was still being copied to. */
  readonly duringCopy: boolean;
  readonly atMs: number;
  readonly takeover: Takeover | undefined;
  readonly protectedAfterMs: number;
};

export type Violation = { readonly afterKill: number; readonly what: string };

export type SoakOptions = {
  readonly cluster: Cluster;
  readonly witnesses: readonly Witness[];
  readonly killsMax: number;
  readonly seed: number;
  /** Only these; all when left out. */
  readonly faults?: readonly FaultName[];
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
};

export type SoakOutcome = {
  readonly kills: readonly Kill[];
  readonly violation: Violation | undefined;
  readonly disksComparedCount: number;
};

/** Longer than the detection of a silent peer, and than the report of any change takes. */
const settleMs = 1000;
const protectTimeoutMs = 90_000;
const orphanTimeoutMs = 5_000;
const compareTimeoutMs = 10_000;

export class Soak {
  readonly #options: SoakOptions;
  readonly #random: Random;
  readonly #kills: Kill[] = [];
  readonly #failPoints: FailPointDeck;
  #disksComparedCount = 0;
  #current = "";

  constructor(options: SoakOptions) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.#failPoints = new FailPointDeck(this.#random, failPointNames);
  }

  async run(): Promise<SoakOutcome> {
    const { killsMax, signal, say } = this.#options;
    let violation = await this.#check(0);
    while (violation === undefined && this.#kills.length < killsMax && !signal.aborted) {
      violation = await this.#strike();
    }
    if (violation !== undefined && !signal.aborted) {
      say(`VIOLATION after kill ${violation.afterKill}: ${violation.what}`);
    }
    return { kills: this.#kills, violation, disksComparedCount: this.#disksComparedCount };
  }

  async #strike(): Promise<Violation | undefined> {
    await sleep(this.#random.between(0, 800));
    const number = this.#kills.length + 1;
    try {
      const kill = await this.#kill(number);
      this.#tell(kill);
      const violation = await this.#check(number);
      return violation;
    } catch (cause) {
      return { afterKill: number, what: `${this.#current}: ${cause instanceof Error ? cause.message : String(cause)}` };
    }
  }

  /** Every other kill at a named step of the protocol, the others at random moments; unless only certain ones are wanted. */
  #choose(number: number): FaultName {
    const { faults } = this.#options;
    if (faults !== undefined) {
      return chooseFault(this.#random, faults);
    }
    return number % 2 === 0 ? this.#failPoints.draw() : chooseFault(this.#random, plainFaultNames);
  }

  async #kill(number: number): Promise<Kill> {
    const { cluster } = this.#options;
    const guest = present(cluster.guests[this.#random.below(cluster.guests.length)], "a guest").name;
    const fault = this.#choose(number);
    const alsoDuringCopy = this.#random.chance(0.2);
    // A slow machine may have lost its protection by itself while we slept.
    const views = await cluster.waitUntilProtected(protectTimeoutMs);
    const primary = present(views.find(({ name }) => name === guest)?.primary, `a primary of ${guest}`);
    const says = `${findFault(fault).says(primary)} (${guest})`;
    this.#current = says;
    const atMs = await findFault(fault).strike({ cluster, guest, primary, random: this.#random });
    if (alsoDuringCopy) {
      await this.#strikeDuringCopy(guest);
    }
    // What an agent says right after the fault is what was before it.
    await sleep(settleMs);
    await cluster.waitUntilProtected(protectTimeoutMs);
    const takeover = pairHosts
      .map((host) => cluster.findTakeover(host, guest, atMs))
      .find((found) => found !== undefined);
    const kill = { number, fault, guest, says, duringCopy: alsoDuringCopy, atMs, takeover };
    const done = { ...kill, protectedAfterMs: findProtectedAgain(cluster, atMs) - atMs };
    this.#kills.push(done);
    return done;
  }

  /** Once the guest runs on one side and the other is being copied to, something that this must survive. */
  async #strikeDuringCopy(guest: string): Promise<void> {
    const { cluster } = this.#options;
    const seen: GuestView[] = await cluster.waitFor(
      `${guest} is being copied, or protected again`,
      (views) => views.some(({ name, report }) => name === guest && isCopyingOrDone(report?.state)),
      protectTimeoutMs,
    );
    const view = present(
      seen.find(({ name }) => name === guest),
      guest,
    );
    // A host that runs another guest, one without a standby at the moment, is spared: by the rules that guest would be down.
    const isAllowed = (name: FaultName): boolean => {
      const { duringCopy, powersOff } = findFault(name);
      const darkened = view.primary === undefined ? undefined : powersOff?.(view.primary);
      return (
        duringCopy &&
        !seen.some(
          (other) => other !== view && darkened !== undefined && other.primary === darkened && !other.isProtected,
        )
      );
    };
    const allowed = (this.#options.faults ?? faultNames).filter(isAllowed);
    const hasStandby = pairHosts.every((host) => (view.sides[host]?.qemu ?? null) !== null);
    if (view.primary === undefined || view.report?.state !== "syncing" || !hasStandby || allowed.length === 0) {
      return;
    }
    const fault = chooseFault(this.#random, allowed);
    this.#options.say(`     and during the copy: ${findFault(fault).says(view.primary)}`);
    await findFault(fault).strike({ cluster, guest, primary: view.primary, random: this.#random });
  }

  /** What must hold whenever everything is protected. */
  async #check(afterKill: number): Promise<Violation | undefined> {
    const { cluster, witnesses } = this.#options;
    const before = witnesses.map(({ client }) => client.progress.repliesCount);
    if (countFaults(witnesses) > 0) {
      return { afterKill, what: "a client saw a fault (its result says which)" };
    }
    const unequal = await this.#compareAll();
    if (unequal !== undefined) {
      return { afterKill, what: unequal };
    }
    const orphans = await this.#findOrphans();
    if (orphans.length > 0) {
      return { afterKill, what: `processes that belong to nobody: ${orphans.join("; ")}` };
    }
    // Clients report every second: silence means that nobody is served.
    await cluster.waitFor(
      "the clients of every guest go on",
      () => witnesses.every(({ client }, index) => client.progress.repliesCount > (before[index] ?? 0)),
      15_000,
    );
    return undefined;
  }

  async #compareAll(): Promise<string | undefined> {
    for (const guest of this.#options.cluster.guests) {
      for (const [index, { id, path }] of guest.specs.a.disks.entries()) {
        const other = present(guest.specs.b.disks[index], `disk ${id} on B`).path;
        const { differingOffsets } = await compareDisks(path, other, compareTimeoutMs);
        this.#disksComparedCount += 1;
        if (differingOffsets.length > 0) {
          return `${guest.name} ${id}: ${differingOffsets.length} blocks differ, the first at byte ${differingOffsets[0] ?? 0}`;
        }
      }
    }
    return undefined;
  }

  /** A process that is just being ended or replaced is no orphan: what is still there a little later is. */
  async #findOrphans(): Promise<string[]> {
    const deadlineMs = Date.now() + orphanTimeoutMs;
    for (;;) {
      const found = await Promise.all(pairHosts.map((host) => this.#options.cluster.listOrphans(host)));
      const orphans = found.flat();
      if (orphans.length === 0 || Date.now() > deadlineMs) {
        return orphans;
      }
      await sleep(200);
    }
  }

  #tell({ number, says, takeover, protectedAfterMs }: Kill): void {
    const { killsMax, witnesses, say } = this.#options;
    const width = String(killsMax).length;
    const moved = takeover === undefined ? "no takeover" : `takeover ${takeover.totalMs} ms`;
    const again =
      protectedAfterMs === 0
        ? "protected all the time"
        : `protected again after ${(protectedAfterMs / 1000).toFixed(1)} s`;
    say(
      `${String(number).padStart(width)}/${killsMax} ${says}: ${moved}, ${again}, ${countReplies(witnesses)} replies`,
    );
  }
}

/** When the last guest became protected after a fault; the time of the fault when it did not take anybody's protection. */
function findProtectedAgain(cluster: Cluster, sinceMs: number): number {
  cluster.readTransitions();
  const times = pairHosts.flatMap((host) =>
    cluster.transitions[host].all
      .filter(({ to, atMs }) => to === "protected" && atMs > sinceMs)
      .map(({ atMs }) => atMs),
  );
  return Math.max(sinceMs, ...times);
}

const isCopyingOrDone = (state: string | undefined): boolean => state === "syncing" || state === "protected";
