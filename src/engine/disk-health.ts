/**
 * What is known of the health of this side's disks: which have failed (disk-faults.ts), whether the guest stands still on one
 * (disk-stop.ts), and which answer slowly (disk-watch.ts).
 */
import { type GuestEvent } from "../qemu/guest-events.ts";
import { type QmpClient } from "../qemu/qmp-client.ts";
import { readRequestTotals } from "../qemu/request-totals.ts";
import { type Log } from "../telemetry/log.ts";
import { type DiskFault, DiskFaults, sayDiskFault } from "./disk-faults.ts";
import { DiskStop } from "./disk-stop.ts";
import { DiskWatch } from "./disk-watch.ts";
import { type FaultTeller } from "./fault-teller.ts";
import { type Guest } from "./guest.ts";
import { type StandbyDisk } from "./standby-disk.ts";
import { isSameFile, listAwaitedFiles } from "./stuck-requests.ts";

export type DiskHealthOptions = {
  readonly runDirectory: string;
  readonly log: Log;
  readonly teller: FaultTeller;
  /** Whether nothing but its disk keeps this side's guest from running. */
  readonly mayRun: () => boolean;
  /** A disk has failed, or none is failed any more. */
  readonly onChanged: () => void;
  /** The guest goes on after it stood still. */
  readonly onGoesOn: () => void;
};

export class DiskHealth {
  readonly #options: DiskHealthOptions;
  readonly #faults: DiskFaults;
  readonly #stop: DiskStop;
  readonly #watch = this.#openWatch();

  constructor(options: DiskHealthOptions) {
    const { runDirectory, log, mayRun, onGoesOn } = options;
    this.#options = options;
    this.#faults = new DiskFaults(runDirectory);
    this.#stop = new DiskStop({ faults: this.#faults, log, mayRun, onEnded: onGoesOn });
  }

  /** Disks that have failed and were not healed since. */
  listFailed(): readonly DiskFault[] {
    return this.#faults.list();
  }

  /** For people. */
  listSlow(): readonly string[] {
    return this.#watch.listSlow();
  }

  /** How long to leave the disks alone yet. */
  get restMs(): number {
    return this.#faults.restMs;
  }

  /** Whether the guest stands still on a disk that has failed. */
  get isStopped(): boolean {
    return this.#stop.isStopped;
  }

  note(id: string, fault: Pick<DiskFault, "message" | "isFull">): void {
    const { message, isFull } = fault;
    this.#faults.note(id, fault);
    this.#options.teller.tell({ component: `disk/${id}`, code: isFull ? "DiskFull" : "DiskFailed", message });
    this.#options.log.error({ disk: id }, message);
    this.#options.onChanged();
  }

  /** What QEMU says of a disk under the guest; returns that for people. */
  noteFailed(event: Extract<GuestEvent, { tag: "diskFailed" }>, guest: Guest | undefined): string {
    const { id, path } = guest?.findDisk(event) ?? { id: event.device, path: event.device };
    const what = event.noSpace ? "is full: enlarge the volume or free some" : "is to be mended or replaced";
    const message = sayDiskFault(id, `${event.operation} failed: ${event.reason}; ${path} ${what}`);
    this.note(id, { message, isFull: event.noSpace });
    return message;
  }

  /** The disk that does not answer QEMU, for people; undefined when none is known to. */
  noteStuck(guest: Guest | undefined): string | undefined {
    const awaited = guest === undefined ? [] : listAwaitedFiles(guest.found.pid);
    const disk = guest?.disks.find(({ path }) => awaited.some((file) => isSameFile(path, file)));
    if (disk === undefined) {
      return undefined;
    }
    const message = sayDiskFault(disk.id, `a request is not answered; ${disk.path} is to be mended or replaced`);
    this.note(disk.id, { message, isFull: false });
    return message;
  }

  /** Every disk works. */
  heal(): void {
    this.#faults.heal();
    this.#options.onChanged();
  }

  /** The guest was stopped, and nobody else could go on: until its disk works. */
  beginStop(qmp: QmpClient): void {
    this.#stop.begin(qmp);
  }

  /** The guest is gone, or goes on elsewhere. */
  endStop(): void {
    this.#stop.end();
  }

  /** What was usual is not any more: a standby's writes are of another kind than a guest's. */
  forgetPace(): void {
    this.#watch.forget();
  }

  /** How long requests took since the last look. `guest` where it runs on its disks. */
  async look(standbyDisks: readonly StandbyDisk[], guest: Guest | undefined): Promise<void> {
    for (const disk of standbyDisks) {
      this.#watch.note(disk.id, disk.takeSample());
    }
    if (guest === undefined) {
      return;
    }
    try {
      for (const { node, device, ...totals } of await readRequestTotals(guest.qmp)) {
        const disk = guest.findDisk({ node, device });
        if (disk !== undefined) {
          this.#watch.noteTotals(disk.id, totals);
        }
      }
    } catch (error) {
      this.#options.log.debug({ error }, "QEMU does not tell how long its disks take");
    }
  }

  #openWatch(): DiskWatch {
    const watch = new DiskWatch();
    watch.onChanged = (id, isSlow) => {
      const slow = { component: `disk/${id}`, code: "DiskSlow" } as const;
      if (isSlow) {
        this.#options.teller.tell({ ...slow, message: "requests take far longer than is usual for this disk" });
      } else {
        this.#options.teller.tellRepaired(slow);
      }
    };
    return watch;
  }
}
