/** The disks of the soak's guests, each of which can fail on either host. They go with their host's power and come back with it. */
import { present } from "../../src/lib/assert.ts";
import { type Random } from "../../src/lib/random.ts";
import { type Cluster } from "../lab/cluster.ts";
import { FaultyDisk } from "../lab/faulty-disk.ts";
import { type Lab } from "../lab/hosts.ts";
import { pairHosts, type PairHost, type PlacedGuest } from "../lab/placement.ts";

export type PlacedDisk = {
  readonly guest: string;
  readonly id: string;
  /** The guest's own name for it. */
  readonly device: string;
  readonly faulty: Readonly<Record<PairHost, FaultyDisk>>;
};

export class FaultyDisks {
  readonly all: readonly PlacedDisk[];

  private constructor(all: readonly PlacedDisk[]) {
    this.all = all;
  }

  /** Before anybody has opened the disks of `guests`. */
  static async insert(lab: Lab, guests: readonly PlacedGuest[]): Promise<FaultyDisks> {
    const all: PlacedDisk[] = [];
    for (const { name, specs } of guests) {
      for (const [index, { id }] of specs.a.disks.entries()) {
        const insert = (host: PairHost): Promise<FaultyDisk> =>
          FaultyDisk.insert(lab, host, present(specs[host].disks[index], `${id} on ${host}`).path);
        const faulty = { a: await insert("a"), b: await insert("b") };
        all.push({ guest: name, id, device: `vd${"abcdefgh".charAt(index)}`, faulty });
      }
    }
    return new FaultyDisks(all);
  }

  choose(guest: string, random: Random): PlacedDisk {
    const own = this.all.filter((disk) => disk.guest === guest);
    return present(own[random.below(own.length)], `a disk of ${guest}`);
  }

  /** The host boots: its disks first. */
  async powerOn(cluster: Cluster, host: PairHost): Promise<void> {
    cluster.lab.powerOn(host);
    await Promise.all(this.all.map(({ faulty }) => faulty[host].serve()));
    cluster.startAgent(host);
  }

  /** Of the processes that serve them; they belong to nobody else. */
  get pids(): ReadonlySet<number> {
    return new Set(this.all.flatMap(({ faulty }) => pairHosts.map((host) => faulty[host].pid)));
  }
}
