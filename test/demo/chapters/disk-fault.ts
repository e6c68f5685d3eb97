/**
 * `make demo CHAPTER=disk-fault`: two hosts in namespaces of this machine, a guest with a disk on each. One disk after the other
 * begins to fail, hangs and is repaired, under the side that runs the guest and under its standby.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../../src/lib/assert.ts";
import { type Cluster, createCluster, type GuestView } from "../../lab/cluster.ts";
import { compareDisks } from "../../lab/disk-comparison.ts";
import { FaultyDisk } from "../../lab/faulty-disk.ts";
import { waitForGuest } from "../../lab/guest-health.ts";
import { type Lab, withLab } from "../../lab/hosts.ts";
import { provideImage } from "../../lab/images.ts";
import { findLongestWait, isFlawless, startWitnesses, stopWitnesses, sumVerdicts } from "../../lab/load.ts";
import { otherHost, type PairHost, pairHosts, placeGuest } from "../../lab/placement.ts";
import { describeGuest, hostLabel, Narrator } from "../narrator.ts";

const guestName = "counter";
const patienceMs = 120_000;
const narrator = new Narrator();
const say = (line: string): void => {
  narrator.say(line);
};

type Incident = { readonly what: string; readonly atMs: number };

class Story {
  readonly #cluster: Cluster;
  readonly #disks: Readonly<Record<PairHost, FaultyDisk>>;
  readonly incidents: Incident[] = [];

  constructor(cluster: Cluster, disks: Readonly<Record<PairHost, FaultyDisk>>) {
    this.#cluster = cluster;
    this.#disks = disks;
  }

  async tell(): Promise<void> {
    const first = await this.#settle();
    await this.#strike(`the disk of host ${hostLabel(first)}, which runs the guest, fails every write`, async () => {
      await this.#disks[first].fail("write", "EIO");
      await this.#waitUntilRunBy(otherHost(first));
      await this.#tellProblem(first, /^disk disk0: .*failed: /);
      await this.#disks[first].repair();
    });
    const second = await this.#settle();
    await this.#strike(
      `the disk of host ${hostLabel(second)}, which runs it now, does not answer any more`,
      async () => {
        this.#disks[second].freeze();
        await this.#waitUntilRunBy(otherHost(second));
        this.#disks[second].resume();
      },
    );
    const standby = otherHost(await this.#settle());
    await this.#strike(`the disk of the standby on host ${hostLabel(standby)} fails every write`, async () => {
      await this.#disks[standby].fail("write", "EIO");
      await this.#tellProblem(otherHost(standby), /disk disk0: writing .* failed: /);
      await sleep(3_000);
      await this.#disks[standby].repair();
    });
    await this.#settle();
  }

  async #strike(what: string, strike: () => Promise<void>): Promise<void> {
    narrator.announce(what);
    this.incidents.push({ what, atMs: Date.now() });
    await strike();
    narrator.say("the disk is repaired");
  }

  /** The host that runs the guest, once it is protected. */
  async #settle(): Promise<PairHost> {
    const [view] = await this.#cluster.waitUntilProtected(patienceMs);
    const { primary } = this.#say(view);
    await sleep(2_000);
    return present(primary, "a primary");
  }

  async #waitUntilRunBy(host: PairHost): Promise<void> {
    const what = `host ${hostLabel(host)} runs the guest`;
    const [view] = await this.#cluster.waitFor(what, ([each]) => each?.primary === host, patienceMs);
    this.#say(view);
  }

  async #tellProblem(host: PairHost, words: RegExp): Promise<void> {
    await this.#cluster.waitForWords(host, guestName, words, patienceMs);
    const { report } = (await this.#cluster.readGuest(guestName)).sides[host] ?? {};
    const condition = report?.conditions.find(({ type, status }) => type === "DisksHealthy" && status === "False");
    narrator.say(`host ${hostLabel(host)} says: ${condition?.message ?? "a disk has failed"}`);
  }

  #say(view: GuestView | undefined): GuestView {
    const seen = present(view, "the guest");
    narrator.say(describeGuest(seen));
    return seen;
  }
}

async function runDemo(lab: Lab): Promise<boolean> {
  const image = await provideImage("busybox", say);
  const guest = placeGuest(
    lab,
    { name: guestName, kind: "busybox", image, index: 0, options: { directDisk: true } },
    "a",
  );
  const insert = (host: PairHost): Promise<FaultyDisk> =>
    FaultyDisk.insert(lab, host, present(guest.specs[host].disks[0], "a disk").path);
  const disks = { a: await insert("a"), b: await insert("b") };
  const cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a" });
  narrator.announce("Two hosts, a guest with a disk on each, a client with four connections");
  cluster.start();
  await waitForGuest(guest, patienceMs);
  const witnesses = startWitnesses(lab, guest, { connectionsCount: 4, thinkMs: 20, stallMs: patienceMs });
  const story = new Story(cluster, disks);
  await story.tell();
  const endMs = Date.now();
  const results = await stopWitnesses(witnesses);
  const verdicts = sumVerdicts(results);
  const { differingOffsets } = await compareDisks(disks.a.path, disks.b.path, 10_000);
  narrator.table("What the client saw", [
    ["connections opened / survived", `${verdicts.connections} / ${verdicts.survived}`],
    ["replies, each checked", String(verdicts.replies)],
    ["lost / duplicated / reordered", `${verdicts.lost} / ${verdicts.duplicated} / ${verdicts.reordered}`],
    ["connections broken / wrong answers", `${verdicts.broken} / ${verdicts.wrong}`],
    ...story.incidents.map(({ what, atMs }, index): readonly [string, string] => {
      const wait = findLongestWait(results, guestName, atMs, story.incidents[index + 1]?.atMs ?? endMs);
      return [`longest wait: ${what}`, `${wait.toFixed(0)} ms`];
    }),
    [`blocks in which the disks of ${pairHosts.map(hostLabel).join(" and ")} differ`, String(differingOffsets.length)],
  ]);
  await cluster.stop();
  return isFlawless(verdicts) && differingOffsets.length === 0;
}

const isFine = await withLab({ say }, runDemo).catch((cause: unknown) => {
  narrator.warn(`the demo stopped: ${cause instanceof Error ? cause.message : String(cause)}`);
  return false;
});
narrator.say(isFine ? "the demo went well" : "the demo FAILED");
process.exitCode = isFine ? 0 : 1;
