/**
 * The demo as a story: a guest that runs alone gets a standby while it works, loses its QEMU, a link, its host, both links, and
 * none of its clients notices more than a short wait.
 *
 * Every act waits for what it brought about, with a limit, so a story that goes wrong ends with the act that did.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { type Cluster, type GuestView, type Takeover } from "../lab/cluster.ts";
import { runPgbench, waitForPostgres, type PgbenchResult } from "../lab/clients/pgbench.ts";
import { compareDisks } from "../lab/disk-comparison.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import {
  countFaults,
  countReplies,
  findLongestWait,
  startWitnesses,
  stopWitnesses,
  type Witness,
  type WitnessResult,
} from "../lab/load.ts";
import { otherHost, pairHosts, type PairHost, type PlacedGuest } from "../lab/placement.ts";
import { measureRedis, measureSynced, type Measured } from "../lab/workloads.ts";
import { describeGuest, hostLabel, type Narrator } from "./narrator.ts";

export type Incident = {
  readonly what: string;
  readonly guest: string;
  readonly atMs: number;
  /** Until when waits of clients are put down to it. */
  readonly untilMs: number;
  readonly takeover: Takeover | undefined;
};

export type LoadFigures = {
  readonly synced: Measured;
  readonly redis: Measured;
  readonly pgbench: PgbenchResult;
};

export type StoryResult = {
  readonly alone: LoadFigures;
  readonly protected: LoadFigures;
  readonly underFire: PgbenchResult;
  readonly incidents: readonly (Incident & { readonly clientWaitMs: number })[];
  readonly witnesses: readonly WitnessResult[];
  readonly added: readonly { readonly guest: string; readonly p50Ms: number; readonly p99Ms: number }[];
  readonly differingBlocks: readonly { readonly disk: string; readonly count: number }[];
};

export type StoryOptions = {
  readonly cluster: Cluster;
  readonly shop: PlacedGuest;
  readonly counter: PlacedGuest;
  readonly narrator: Narrator;
  readonly measureMs: number;
};

const copyTimeoutMs = 300_000;
const takeoverTimeoutMs = 30_000;
/** What a witness waits for a reply before it calls it lost; far above any takeover. */
const stallMs = 60_000;

export class Story {
  readonly #cluster: Cluster;
  readonly #shop: PlacedGuest;
  readonly #counter: PlacedGuest;
  readonly #narrator: Narrator;
  readonly #measureMs: number;
  readonly #incidents: Incident[] = [];
  #witnesses: Witness[] = [];

  constructor(options: StoryOptions) {
    this.#cluster = options.cluster;
    this.#shop = options.shop;
    this.#counter = options.counter;
    this.#narrator = options.narrator;
    this.#measureMs = options.measureMs;
  }

  async tell(): Promise<StoryResult> {
    const ticker = setInterval(() => {
      this.#tick().catch((cause: unknown) => {
        this.#narrator.warn(String(cause));
      });
    }, 2000);
    try {
      await this.#bootAlone();
      const alone = await this.#measure("running alone on A, unprotected");
      await this.#gainStandby();
      const guarded = await this.#measure("protected");
      const added = await this.#readAddedLatency();
      const underFire = await this.#loseQemu();
      await this.#loseOneLink();
      await this.#loseHost();
      await this.#loseBothLinks();
      return await this.#judge({ alone, protected: guarded, underFire, added });
    } finally {
      clearInterval(ticker);
    }
  }

  async #bootAlone(): Promise<void> {
    this.#narrator.announce("Host A and the quorum are up; two guests boot on A, without a standby yet");
    this.#cluster.startQuorum();
    this.#cluster.startAgent("a");
    await Promise.all([this.#shop, this.#counter].map((guest) => waitForGuest(guest, 300_000)));
    await waitForPostgres(this.#cluster.lab, this.#shop.address, 300_000);
    this.#narrator.say("both guests answer; clients connect, and will never connect again");
    const options = { connectionsCount: 4, thinkMs: 100, stallMs };
    this.#witnesses = [this.#shop, this.#counter].flatMap((guest) => startWitnesses(this.#cluster.lab, guest, options));
  }

  async #measure(how: string): Promise<LoadFigures> {
    this.#narrator.announce(`Measuring while ${how}`);
    const { lab } = this.#cluster;
    const [shop, counter] = [this.#shop.address, this.#counter.address];
    const synced = await measureSynced(lab, counter, this.#measureMs, { firstConnection: 8, stallMs });
    this.#sayLoad("synced request, 1 client", synced);
    const redis = await measureRedis(lab, shop, this.#measureMs, { connectionsCount: 50, stallMs });
    this.#sayLoad("redis SET, 50 clients", redis);
    const pgbench = await this.#runPgbench(this.#measureMs / 1000);
    this.#sayLoad("pgbench, 2 clients", { perSecond: pgbench.tps, latency: pgbench.latency });
    return { synced, redis, pgbench };
  }

  #sayLoad(name: string, { perSecond, latency }: Measured): void {
    this.#narrator.say(
      `${name}: ${perSecond.toFixed(1)} /s, p50 ${latency.p50Ms.toFixed(1)} ms, p99 ${latency.p99Ms.toFixed(1)} ms`,
    );
  }

  #runPgbench(durationSeconds: number): Promise<PgbenchResult> {
    const seconds = Math.max(2, Math.round(durationSeconds));
    return runPgbench(this.#cluster.lab, { host: this.#shop.address, clientsCount: 2, durationSeconds: seconds });
  }

  async #gainStandby(): Promise<void> {
    this.#narrator.announce("Host B joins: memory and disks are copied while the guests work");
    this.#cluster.startAgent("b");
    await this.#untilProtected();
  }

  async #readAddedLatency(): Promise<StoryResult["added"]> {
    const views = await this.#cluster.readGuests();
    return views.map(({ name, report }) => {
      const { p50Ms, p99Ms } = present(report, `a report of ${name}`).addedLatency;
      return { guest: name, p50Ms, p99Ms };
    });
  }

  async #loseQemu(): Promise<PgbenchResult> {
    this.#narrator.announce("kill -9 of both guests' QEMU on A, with pgbench running");
    const pgbench = this.#runPgbench(20);
    await sleep(4000);
    await this.#fell("kill -9 of QEMU", "a", async () => {
      const kills = await Promise.all([this.#shop, this.#counter].map(({ name }) => this.#cluster.killQemu("a", name)));
      return Math.min(...kills);
    });
    const result = await pgbench;
    this.#narrator.say(
      `pgbench went through it: ${result.transactionsCount} transactions, ${result.lostCount} lost, ` +
        `${result.failedCount} failed, sums ${result.sumsAgree ? "agree" : "DISAGREE"}`,
    );
    this.#narrator.announce("A's agent has started new standbys; they are copied from B");
    await this.#untilProtected();
    return result;
  }

  async #loseOneLink(): Promise<void> {
    this.#narrator.announce("The first replication link is cut");
    this.#cluster.lab.cutLink("replication1");
    await sleep(4000);
    await this.#untilProtected();
    this.#cluster.lab.restoreLink("replication1");
    this.#narrator.say("link restored");
    await sleep(2000);
  }

  async #loseHost(): Promise<void> {
    this.#narrator.announce("Power off: host B, which runs both guests now, is gone");
    await this.#fell("power off of the host", "b", () => this.#cluster.powerOff("b"));
    await sleep(3000);
    this.#narrator.announce("Host B gets its power back and becomes the standby");
    this.#cluster.powerOn("b");
    await this.#untilProtected();
  }

  async #loseBothLinks(): Promise<void> {
    this.#narrator.announce("Both replication links are cut at once: the quorum decides who goes on");
    const atMs = Date.now();
    this.#cluster.lab.cutLink("replication1");
    this.#cluster.lab.cutLink("replication2");
    await this.#cluster.waitFor(
      "one side runs every guest alone",
      (views) => views.every(({ report }) => report?.state === "alone"),
      takeoverTimeoutMs,
    );
    this.#note("cut of both links", atMs, []);
    await sleep(2000);
    this.#cluster.lab.restoreLink("replication1");
    this.#cluster.lab.restoreLink("replication2");
    this.#narrator.say("links restored");
    await this.#untilProtected();
  }

  /** Does something to `host`, which runs everything, and waits until the other side does. */
  async #fell(what: string, host: PairHost, strike: () => Promise<number>): Promise<void> {
    const heir = otherHost(host);
    const atMs = await strike();
    this.#narrator.say(`${what}: done`);
    const views = await this.#cluster.waitFor(
      `host ${hostLabel(heir)} runs every guest`,
      (all) => all.every(({ primary }) => primary === heir),
      takeoverTimeoutMs,
    );
    const takeovers = await Promise.all(
      views.map(async ({ name }) => [name, await this.#cluster.awaitTakeover(heir, name, atMs, 5000)] as const),
    );
    for (const [name, takeover] of takeovers) {
      const said =
        takeover === undefined
          ? "took over (time not in the log)"
          : `runs on ${hostLabel(heir)} after ${takeover.totalMs} ms (noticed after ${takeover.detectionMs} ms), from epoch ${takeover.epoch}`;
      this.#narrator.say(`${name} ${said}`);
    }
    this.#note(what, atMs, takeovers);
  }

  #note(what: string, atMs: number, takeovers: readonly (readonly [string, Takeover | undefined])[]): void {
    const found = new Map(takeovers);
    for (const { name } of [this.#shop, this.#counter]) {
      this.#incidents.push({ what, guest: name, atMs, untilMs: Date.now() + 2000, takeover: found.get(name) });
    }
  }

  async #untilProtected(): Promise<void> {
    const startedAtMs = Date.now();
    await this.#cluster.waitUntilProtected(copyTimeoutMs);
    this.#narrator.say(`both guests are protected (${((Date.now() - startedAtMs) / 1000).toFixed(1)} s)`);
  }

  async #judge(figures: Pick<StoryResult, "alone" | "protected" | "underFire" | "added">): Promise<StoryResult> {
    this.#narrator.announce("The clients finish and check everything they were ever told");
    const witnesses = await stopWitnesses(this.#witnesses);
    const differingBlocks = await this.#compareDisks();
    const incidents = this.#incidents.map((incident) => ({
      ...incident,
      clientWaitMs: findLongestWait(witnesses, incident.guest, incident.atMs, incident.untilMs),
    }));
    return { ...figures, incidents, witnesses, differingBlocks };
  }

  async #compareDisks(): Promise<StoryResult["differingBlocks"]> {
    const differing: { disk: string; count: number }[] = [];
    for (const guest of [this.#shop, this.#counter]) {
      for (const [index, { id }] of guest.specs.a.disks.entries()) {
        const paths = pairHosts.map((host) => present(guest.specs[host].disks[index], "the same disks").path);
        const comparison = await compareDisks(paths[0] ?? "", paths[1] ?? "", 20_000);
        this.#narrator.say(
          `${guest.name} ${id}: ${comparison.differingOffsets.length === 0 ? "equal on A and B" : "DIFFERS"}`,
        );
        differing.push({ disk: `${guest.name} ${id}`, count: comparison.differingOffsets.length });
      }
    }
    return differing;
  }

  async #tick(): Promise<void> {
    const views: GuestView[] = await this.#cluster.readGuests();
    for (const view of views.filter(({ sides }) => sides.a !== undefined || sides.b !== undefined)) {
      this.#narrator.say(`  ${describeGuest(view)}`);
    }
    if (this.#witnesses.length > 0) {
      const faults = countFaults(this.#witnesses);
      const line = `  clients: ${countReplies(this.#witnesses)} replies, ${faults} faults`;
      if (faults === 0) {
        this.#narrator.say(line);
      } else {
        this.#narrator.warn(line);
      }
    }
  }
}
