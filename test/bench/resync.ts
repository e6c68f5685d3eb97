/**
 * How much faster a standby is in sync again that lacks a known hundredth of a disk than one that needs everything. The disk has
 * 4 GiB of data that no hash and no hole makes shorter, so that fixed costs do not count for much.
 */
import { closeSync, openSync, truncateSync, writeSync } from "node:fs";
import { randomFillSync } from "node:crypto";
import { assert, present } from "../../src/lib/assert.ts";
import { type Cluster } from "../lab/cluster.ts";
import { compareDisks } from "../lab/disk-comparison.ts";
import { type Lab, withLab } from "../lab/hosts.ts";
import { pairHosts, type PlacedGuest } from "../lab/placement.ts";
import { type LoggedResync, readResyncs, touchGranules } from "../lab/resyncs.ts";
import { type Bench } from "./bench.ts";
import { quantilesOf, type Figure } from "./row.ts";

const guestName = "resync";
const GIB = 1024 ** 3;
const MIB = 1024 ** 2;
const diskBytes = 4 * GIB;
/** 640 granules of 64 KiB are one percent of 4 GiB, less a little: whole regions of the service are written. */
const changedGranules = 640;
const timesEach = 5;
const patienceMs = 300_000;
const target = 20;

export function measureResync(bench: Bench): Promise<Figure[]> {
  return withLab({ say: bench.say }, async (lab) => {
    const guest = bench.place(lab, "busybox", guestName);
    fillDisks(guest);
    const cluster = await bench.protect(lab, [guest]);
    const deltas: LoggedResync[] = [];
    const fulls: LoggedResync[] = [];
    for (let time = 0; time < bench.count(timesEach); time += 1) {
      deltas.push(await resyncDelta(lab, cluster, guest));
      fulls.push(await resyncFull(lab, cluster, `full-${time}`));
      bench.say(`  resync: ${deltas.at(-1)?.seconds ?? 0} s for 1 %, ${fulls.at(-1)?.seconds ?? 0} s for everything`);
    }
    const [a, b] = pairHosts.map((host) => present(guest.specs[host].disks[0], "a disk").path);
    const { differingOffsets } = await compareDisks(present(a, "disk on A"), present(b, "disk on B"), 10_000);
    assert(differingOffsets.length === 0, `the disks differ at ${differingOffsets.join(", ")}`);
    return [summarize(deltas, fulls)];
  });
}

function fillDisks(guest: PlacedGuest): void {
  const block = Buffer.alloc(MIB);
  for (const host of pairHosts) {
    truncateSync(present(guest.specs[host].disks[0], "a disk").path, diskBytes);
  }
  const file = openSync(present(guest.specs.a.disks[0], "a disk").path, "r+");
  randomFillSync(block);
  for (let offset = 0; offset < diskBytes; offset += MIB) {
    block.writeBigUInt64LE(BigInt(offset), 0); // No two are equal.
    writeSync(file, block, 0, MIB, offset);
  }
  closeSync(file);
}

async function resyncDelta(lab: Lab, cluster: Cluster, guest: PlacedGuest): Promise<LoggedResync> {
  const before = readResyncs(lab, "a").length;
  lab.cutLink("replication1");
  lab.cutLink("replication2");
  await cluster.waitFor("A is alone", ([view]) => view?.sides.a?.report?.state === "alone", patienceMs);
  await touchGranules(lab, guest, changedGranules);
  lab.restoreLink("replication1");
  lab.restoreLink("replication2");
  return waitForResync(lab, cluster, { before, disks: "delta" });
}

function resyncFull(lab: Lab, cluster: Cluster, fullResync: string): Promise<LoggedResync> {
  const before = readResyncs(lab, "a").length;
  cluster.reassign(guestName, { checkpoint: {}, fullResync });
  return waitForResync(lab, cluster, { before, disks: "full" });
}

/** The first of its kind, and the pair whole: a busy machine may tear the session once more, which costs a comparison. */
async function waitForResync(
  lab: Lab,
  cluster: Cluster,
  { before, disks }: { readonly before: number; readonly disks: string },
): Promise<LoggedResync> {
  const find = (): LoggedResync | undefined =>
    readResyncs(lab, "a")
      .slice(before)
      .find((resync) => resync.disks === disks);
  await cluster.waitFor(`a ${disks} copy is whole`, () => find() !== undefined, patienceMs);
  await cluster.waitUntilProtected(patienceMs);
  return present(find(), "a copy");
}

function summarize(deltas: readonly LoggedResync[], fulls: readonly LoggedResync[]): Figure {
  const [delta, full] = [deltas, fulls].map((all) => quantilesOf(all.map(({ seconds }) => seconds)).p50);
  const ratio = (full ?? 0) / (delta ?? 1);
  return {
    row: {
      name: "resynchronisation of 1 % of a 4 GiB disk, faster than a whole copy",
      unit: "times",
      p50: ratio,
      target: `≥ ${target}`,
      met: ratio >= target,
      detail: { deltaSeconds: delta, fullSeconds: full, deltaMiB: deltas[0]?.mib, fullMiB: fulls[0]?.mib },
    },
    samples: { deltas, fulls },
  };
}
