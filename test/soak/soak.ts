/**
 * Injects faults, again and again, and looks after each time whether anybody lost anything.
 *
 * One round: everything is protected; something random happens at a random moment, or two things at once (and now and then
 * something more while the standby is being copied to); everything must be protected again in bounded time; the clients, which
 * never reconnect, have seen no fault; both disks of every guest are equal; no process is left that nobody knows. Where the
 * rules say that the guest stands still, it must, with words for a person; where they say that its memory is lost, it must boot
 * with everything that a client was told is written. The first violation ends the run: what comes after it proves nothing.
 *
 * The seed fixes which faults happen and the planned moments; the machine's own timing it cannot fix.
 */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { Random } from "../../src/lib/random.ts";
import { type Cluster, type GuestView, type Takeover } from "../lab/cluster.ts";
import { compareDisks } from "../lab/disk-comparison.ts";
import { otherHost, pairHosts, type PairHost } from "../lab/placement.ts";
import { duringCopy, type Round, RoundChoice } from "./catalogue.ts";
import { type SoakClients } from "./clients.ts";
import { type FaultName, lastSome, NobodyThere, type Situation, type Struck } from "./fault.ts";
import { type FaultyDisks } from "./faulty-disks.ts";
import { plainFaults } from "./faults.ts";
import { type FaultPair } from "./pairs.ts";
import { findSurvival, type Survival } from "./survival.ts";

export type Kill = {
  /** Of the last fault of this round. */
  readonly number: number;
  readonly round: FaultName;
  /** What was injected, in order; at least one. */
  readonly faults: readonly FaultName[];
  readonly guest: string;
  readonly says: string;
  readonly atMs: number;
  readonly survival: Survival;
  readonly takeover: Takeover | undefined;
  readonly protectedAfterMs: number;
};

export type Violation = { readonly afterKill: number; readonly what: string };

export type SoakOptions = {
  readonly cluster: Cluster;
  readonly disks: FaultyDisks;
  readonly clients: SoakClients;
  readonly killsMax: number;
  readonly seed: number;
  /** Only these; all when left out. */
  readonly faults?: readonly FaultName[];
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
};

export type SoakOutcome = {
  readonly kills: readonly Kill[];
  readonly faultsCount: number;
  readonly violation: Violation | undefined;
  readonly disksComparedCount: number;
};

/** What a round did, before it is known what came of it. */
type Done = Pick<Kill, "faults" | "says" | "atMs"> & Partial<Pick<Kill, "survival">>;

/** Longer than the detection of a silent peer, and than the report of any change takes. */
const settleMs = 1000;
const protectTimeoutMs = 120_000;
const toldTimeoutMs = 60_000;
const bootTimeoutMs = 180_000;
const orphanTimeoutMs = 5_000;
const compareTimeoutMs = 10_000;
const goOnTimeoutMs = 30_000;

export class Soak {
  readonly #options: SoakOptions;
  readonly #random: Random;
  readonly #choice: RoundChoice;
  readonly #kills: Kill[] = [];
  #faultsCount = 0;
  #disksComparedCount = 0;
  #current = "";

  constructor(options: SoakOptions) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.#choice = new RoundChoice(this.#random, options.faults);
  }

  async run(): Promise<SoakOutcome> {
    const { killsMax, signal, say } = this.#options;
    let violation = await this.#check();
    while (violation === undefined && this.#faultsCount < killsMax && !signal.aborted) {
      violation = await this.#strike();
    }
    if (violation !== undefined && !signal.aborted) {
      say(`VIOLATION after fault ${violation.afterKill}: ${violation.what}`);
    }
    return {
      kills: this.#kills,
      faultsCount: this.#faultsCount,
      violation,
      disksComparedCount: this.#disksComparedCount,
    };
  }

  async #strike(): Promise<Violation | undefined> {
    await sleep(this.#random.between(0, 300));
    try {
      const kill = await this.#kill();
      this.#kills.push(kill);
      this.#tell(kill);
      return await this.#check();
    } catch (cause) {
      return this.#violate(`${this.#current}: ${cause instanceof Error ? cause.message : String(cause)}`);
    }
  }

  #violate(what: string): Violation {
    return { afterKill: this.#faultsCount, what };
  }

  async #kill(): Promise<Kill> {
    const { cluster, disks } = this.#options;
    const random = this.#random;
    const guest = present(cluster.guests[random.below(cluster.guests.length)], "a guest").name;
    const round = this.#choice.draw();
    this.#current = `${round.name} (${guest})`;
    // A slow machine may have lost its protection by itself while we slept.
    const views = await cluster.waitUntilProtected(protectTimeoutMs);
    const primary = present(views.find(({ name }) => name === guest)?.primary, `a primary of ${guest}`);
    const done = await this.#play(round, { cluster, disks, guest, primary, random });
    this.#faultsCount += done.faults.length;
    // What an agent says right after the fault is what was before it.
    await sleep(settleMs);
    await cluster.waitUntilProtected(protectTimeoutMs);
    const { atMs } = done;
    const takeover = pairHosts
      .map((host) => cluster.findTakeover(host, guest, atMs))
      .find((found) => found !== undefined);
    return {
      ...{ number: this.#faultsCount, round: round.name, guest, survival: findSurvival(cluster, guest, atMs) },
      ...done,
      ...{ says: `${done.says} (${guest})`, takeover, protectedAfterMs: findProtectedAgain(cluster, atMs) - atMs },
    };
  }

  #play(round: Round, situation: Situation): Promise<Done> {
    switch (round.tag) {
      case "single":
        return this.#playSingle(round, situation);
      case "pair":
        return this.#playPair(round, situation);
      case "held":
        return this.#playHeld(round, situation);
      case "restart":
        return this.#playRestart(round, situation);
    }
  }

  async #playSingle({ name, fault }: Extract<Round, { readonly tag: "single" }>, situation: Situation): Promise<Done> {
    const alsoDuringCopy = this.#random.chance(0.2);
    const { atMs, heal } = await fault.strike(situation);
    if (heal !== undefined) {
      await lastSome(this.#random, fault.lastsMs);
      await heal();
    }
    const more = alsoDuringCopy ? await this.#strikeDuringCopy(situation.guest) : [];
    return { faults: [name, ...more], says: fault.says(situation.primary), atMs };
  }

  async #playPair({ pair }: Extract<Round, { readonly tag: "pair" }>, situation: Situation): Promise<Done> {
    const { struck, ...done } = await this.#strikeBoth(pair, situation);
    await lastSome(this.#random);
    await this.#healInAnyOrder(struck);
    return done;
  }

  /** Nobody may go on, and a person is told, until one of the two is over. */
  async #playHeld({ pair }: Extract<Round, { readonly tag: "held" }>, situation: Situation): Promise<Done> {
    const { cluster, clients } = this.#options;
    const { guest, primary } = situation;
    const { struck, ...done } = await this.#strikeBoth(pair, situation);
    await cluster.waitForWords(pair.toldBy(primary), guest, pair.words, toldTimeoutMs);
    await clients.waitUntilStill(guest, toldTimeoutMs);
    await this.#healInAnyOrder(struck);
    return { ...done, survival: "held" };
  }

  async #strikeBoth(
    { first, second, whenAlone, onOther }: FaultPair,
    situation: Situation,
  ): Promise<Done & { readonly struck: readonly Struck[] }> {
    const { guest, primary } = situation;
    const where = onOther === true ? await this.#findOther(situation) : situation;
    const before = await plainFaults[first].strike(situation);
    if (whenAlone === true) {
      await this.#options.cluster.waitFor(
        `${guest} runs without a standby`,
        (views) => views.some(({ name, report }) => name === guest && /alone|syncing/.test(report?.state ?? "")),
        toldTimeoutMs,
      );
    }
    await sleep(this.#random.between(0, 300));
    const then = await strikeIfThere(() => plainFaults[second].strike(where));
    const ofOther = onOther === true ? ` (${where.guest})` : "";
    const says = `${plainFaults[first].says(primary)}, and ${plainFaults[second].says(where.primary)}${ofOther}`;
    return then === undefined
      ? { faults: [first], says: `${says}, too late`, atMs: before.atMs, struck: [before] }
      : { faults: [first, second], says, atMs: before.atMs, struck: [before, then] };
  }

  /** The same for another guest, which is protected too. */
  async #findOther(situation: Situation): Promise<Situation> {
    const views = await this.#options.cluster.waitUntilProtected(protectTimeoutMs);
    const { name, primary } = present(
      views.find((view) => view.name !== situation.guest),
      "another guest",
    );
    return { ...situation, guest: name, primary: present(primary, `a primary of ${name}`) };
  }

  async #healInAnyOrder(struck: readonly Struck[]): Promise<void> {
    const left = struck.filter(({ isHealedLast }) => isHealedLast !== true);
    while (left.length > 0) {
      const [next] = left.splice(this.#random.below(left.length), 1);
      if (next?.heal !== undefined) {
        await next.heal();
        await lastSome(this.#random);
      }
    }
    for (const { heal } of struck.filter(({ isHealedLast }) => isHealedLast === true)) {
      await heal?.();
    }
  }

  async #playRestart({ restart }: Extract<Round, { readonly tag: "restart" }>, situation: Situation): Promise<Done> {
    const { clients, cluster } = this.#options;
    const { guest, primary } = situation;
    const level = restart.level === "HighAvailability" ? await plainFaults.lowerLevel.strike(situation) : undefined;
    const lost = await clients.stop();
    let atMs = 0;
    const missing = await clients.endWith(async () => {
      const to = restart.returnsTo?.(primary);
      const bootsBefore = to === undefined ? 0 : this.#countBoots(guest, to);
      const struck = await restart.strike(situation);
      ({ atMs } = struck);
      await this.#waitForItsEnd(restart, situation);
      await struck.heal?.();
      if (to !== undefined) {
        await this.#waitForBoot(guest, to, bootsBefore);
      }
      await cluster.waitUntilProtected(protectTimeoutMs);
    });
    if (lost.length > 0 || missing.length > 0) {
      throw new Error([...lost, ...missing].join("; "));
    }
    await level?.heal?.();
    clients.start();
    await clients.goOn(bootTimeoutMs);
    const faults = level === undefined ? restart.faults : ["lowerLevel", ...restart.faults];
    const done = { faults, says: restart.says(primary), atMs };
    return restart.returnsTo === undefined ? done : { ...done, survival: "booted" };
  }

  /** Of what the guest has to lose before anything may heal. */
  async #waitForItsEnd(
    { told, returnsTo, level }: Extract<Round, { readonly tag: "restart" }>["restart"],
    { guest, primary }: Situation,
  ): Promise<void> {
    const { cluster } = this.#options;
    if (told !== undefined) {
      await cluster.waitForWords(told.by(primary), guest, told.words, toldTimeoutMs);
    }
    if (returnsTo?.(primary) === otherHost(primary)) {
      await cluster.waitFor(
        `${guest} belongs to ${otherHost(primary)}`,
        (views) => views.some((view) => view.name === guest && view.primary === otherHost(primary)),
        toldTimeoutMs,
      );
    } else if (level === "HighAvailability") {
      await lastSome(this.#random);
    }
  }

  /** How often a guest has come to its services on a host. */
  #countBoots(guest: string, host: PairHost): number {
    const { specs } = present(
      this.#options.cluster.guests.find(({ name }) => name === guest),
      guest,
    );
    const said = readFileSync(specs[host].serialLog, { encoding: "latin1", flag: "a+" });
    return said.split("twinrun: guest ready").length - 1;
  }

  async #waitForBoot(guest: string, host: PairHost, before: number): Promise<void> {
    await this.#options.cluster.waitFor(
      `${guest} boots on ${host}`,
      () => this.#countBoots(guest, host) > before,
      bootTimeoutMs,
    );
  }

  /** Once the guest runs on one side and the other is being copied to, something that this must survive. */
  async #strikeDuringCopy(guest: string): Promise<readonly FaultName[]> {
    const { cluster, disks, faults } = this.#options;
    const seen: GuestView[] = await cluster.waitFor(
      `${guest} is being copied, or protected again`,
      (views) => views.some(({ name, report }) => name === guest && isCopyingOrDone(report?.state)),
      protectTimeoutMs,
    );
    const view = present(
      seen.find(({ name }) => name === guest),
      guest,
    );
    const { primary } = view;
    const hasStandby = pairHosts.every((host) => (view.sides[host]?.qemu ?? null) !== null);
    if (primary === undefined || view.report?.state !== "syncing" || !hasStandby) {
      return [];
    }
    const allowed = duringCopy.filter(
      ({ name, fault }) => (faults?.includes(name) ?? true) && isSpared(seen, view, fault.powersOff?.(primary)),
    );
    if (allowed.length === 0) {
      return [];
    }
    const { name, fault } = present(allowed[this.#random.below(allowed.length)], "a fault");
    this.#options.say(`     and during the copy: ${fault.says(primary)}`);
    const struck = await strikeIfThere(() => fault.strike({ cluster, disks, guest, primary, random: this.#random }));
    if (struck?.heal !== undefined) {
      await lastSome(this.#random, fault.lastsMs);
      await struck.heal();
    }
    return struck === undefined ? [] : [name];
  }

  /** What must hold whenever everything is protected. */
  async #check(): Promise<Violation | undefined> {
    const { clients } = this.#options;
    if (clients.faultsCount > 0) {
      return this.#violate("a client saw a fault (its result says which)");
    }
    const [unequal, orphans] = await Promise.all([
      this.#compareAll(),
      this.#findOrphans(),
      clients.goOn(goOnTimeoutMs),
    ]);
    if (unequal !== undefined) {
      return this.#violate(unequal);
    }
    return orphans.length > 0 ? this.#violate(`processes that belong to nobody: ${orphans.join("; ")}`) : undefined;
  }

  async #compareAll(): Promise<string | undefined> {
    for (const { guest, id, faulty } of this.#options.disks.all) {
      const { differingOffsets } = await compareDisks(faulty.a.storePath, faulty.b.storePath, compareTimeoutMs);
      this.#disksComparedCount += 1;
      if (differingOffsets.length > 0) {
        return `${guest} ${id}: ${differingOffsets.length} blocks differ, the first at byte ${differingOffsets[0] ?? 0}`;
      }
    }
    return undefined;
  }

  /** A process that is just being ended or replaced is no orphan: what is still there a little later is. */
  async #findOrphans(): Promise<string[]> {
    const { cluster, disks } = this.#options;
    const deadlineMs = Date.now() + orphanTimeoutMs;
    for (;;) {
      const found = await Promise.all(pairHosts.map((host) => cluster.listOrphans(host)));
      const orphans = found.flat().filter((line) => !disks.pids.has(Number.parseInt(line, 10)));
      if (orphans.length === 0 || Date.now() > deadlineMs) {
        return orphans;
      }
      await sleep(200);
    }
  }

  #tell({ number, says, survival, takeover, protectedAfterMs }: Kill): void {
    const { killsMax, clients, say } = this.#options;
    const width = String(killsMax).length;
    const moved = takeover === undefined ? survival : `${survival}, takeover ${takeover.totalMs} ms`;
    const again =
      protectedAfterMs === 0
        ? "protected all the time"
        : `protected again after ${(protectedAfterMs / 1000).toFixed(1)} s`;
    say(`${String(number).padStart(width)}/${killsMax} ${says}: ${moved}, ${again}, ${clients.repliesCount} replies`);
  }
}

/** Undefined when whom it was meant for is gone already. */
async function strikeIfThere(strike: () => Promise<Struck>): Promise<Struck | undefined> {
  try {
    return await strike();
  } catch (cause) {
    if (cause instanceof NobodyThere) {
      return undefined;
    }
    throw cause;
  }
}

/** A host that runs another guest, one without a standby at the moment, is spared: by the rules that guest would be down. */
function isSpared(seen: readonly GuestView[], view: GuestView, darkened: PairHost | undefined): boolean {
  return (
    darkened === undefined || !seen.some((other) => other !== view && other.primary === darkened && !other.isProtected)
  );
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
