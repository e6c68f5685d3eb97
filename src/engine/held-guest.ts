/**
 * The QEMU that this engine holds, if any, and its disks: those of a guest that runs, with a mirror each, or those that a standby
 * writes into. It neither decides when QEMU is started nor what runs in it.
 */
import { type EngineConfig, type FoundGuest } from "../protocol/assignment.ts";
import { type MachineShape } from "../protocol/messages.ts";
import { type FoundGuestState } from "../protocol/side-state.ts";
import { PageSet } from "../memory/page-runs.ts";
import { applyHole } from "../memory/sparse-file.ts";
import { type GuestEvent } from "../qemu/guest-events.ts";
import { type Log } from "../telemetry/log.ts";
import { Guest } from "./guest.ts";
import { PrimaryDisks } from "./primary-disks.ts";
import { type Problems } from "./problems.ts";
import { StandbyDisk } from "./standby-disk.ts";

export type HeldGuestOptions = {
  readonly config: EngineConfig;
  readonly log: Log;
  readonly problems: Problems;
  readonly onDeath: (why: string) => void;
  readonly onEvent: (event: GuestEvent) => void;
  /** The guest runs on these disks from now on. */
  readonly onRuns: () => void;
  /** Writes go by unseen; the mirrors are being started anew. */
  readonly onMirrorLost: () => void;
  /** How long a write may wait for an engine that dies. */
  readonly leaseMs: () => number;
};

export class HeldGuest {
  readonly #options: HeldGuestOptions;
  guest: Guest | undefined;
  primaryDisks: PrimaryDisks | undefined;
  standbyDisks: readonly StandbyDisk[] = [];
  /** Pages that the standby lacks since the last session. */
  lacking: PageSet | undefined;
  /** No session begins before every write is seen. */
  mirrorsReady: Promise<void> = Promise.resolve();
  #isOver = false;

  constructor(options: HeldGuestOptions) {
    this.#options = options;
  }

  async attach(found: FoundGuest): Promise<FoundGuestState> {
    const { config, log, problems, onDeath, onEvent } = this.#options;
    const onMakingRaw = (id: string, percent: number): void => {
      problems.set("guest", `disk ${id} is being made raw, ${percent}%`);
    };
    const guest = await Guest.attach(found, config, { onDeath, onEvent, onMakingRaw }, log);
    problems.delete("guest");
    this.guest = guest;
    this.lacking = new PageSet(guest.pageCount);
    if (guest.isIncoming) {
      this.standbyDisks = await Promise.all(guest.disks.map((place) => StandbyDisk.open(place, applyHole)));
      return "incoming";
    }
    if (guest.obstacles.length === 0) {
      await this.#openPrimaryDisks(guest);
      await this.mirrorsReady;
    }
    return guest.hasRun ? "running" : "none";
  }

  /** A standby's QEMU has become the guest. */
  async becomePrimary(guest: Guest): Promise<void> {
    await guest.openCheckpointer();
    await this.#openPrimaryDisks(guest);
    await Promise.all(this.standbyDisks.map((disk) => disk.sync().then(() => disk.close())));
    this.standbyDisks = [];
  }

  shape(): MachineShape | null {
    const sizes =
      this.primaryDisks?.sizes ??
      this.standbyDisks.map(({ bytes }, index) => {
        const { id = "", isElastic = false } = this.guest?.disks[index] ?? {};
        return { id, bytes: isElastic ? null : bytes };
      });
    return this.guest?.shape(sizes) ?? null;
  }

  /** What comes is for the disk at a place in the primary's list; ours may have another order. */
  listInPeersOrder(peerDisks: MachineShape["disks"]): StandbyDisk[] {
    const places = this.guest?.disks ?? [];
    return peerDisks.flatMap(({ id, bytes }) => {
      const index = places.findIndex((disk) => disk.id === id);
      const disk = this.standbyDisks[index];
      if (disk !== undefined && bytes !== null && places[index]?.isElastic === true) {
        disk.resize(bytes);
      }
      return disk === undefined ? [] : [disk];
    });
  }

  /** QEMU is left as it is, the disks are closed. */
  async letGo(): Promise<void> {
    this.guest = undefined;
    await this.primaryDisks?.close();
    this.primaryDisks = undefined;
    await Promise.all(this.standbyDisks.map((disk) => disk.close()));
    this.standbyDisks = [];
  }

  /** The engine ends: what becomes of the mirrors now is not its business any more. */
  end(): void {
    this.#isOver = true;
  }

  async #openPrimaryDisks(guest: Guest): Promise<void> {
    const { log, problems, onRuns, onMirrorLost, leaseMs } = this.#options;
    const disks = await PrimaryDisks.open(guest.disks, Math.ceil(leaseMs() / 1000));
    disks.onMirrorLost = (device, reason) => {
      log.warn({ device, reason }, "a disk is not mirrored any more");
      if (this.guest === guest && guest.qmp.isOpen && !this.#isOver) {
        problems.set(`mirror ${device}`, reason);
        onMirrorLost();
        this.mirrorsReady = this.#restartMirrors(disks, guest, device);
        this.mirrorsReady.catch(() => undefined);
      }
    };
    this.primaryDisks = disks;
    onRuns();
    this.mirrorsReady = disks.startMirrors(guest.qmp, guest.mirrorSocket);
    this.mirrorsReady.catch(() => undefined);
  }

  async #restartMirrors(disks: PrimaryDisks, guest: Guest, device: string): Promise<void> {
    await this.mirrorsReady.catch(() => undefined);
    await disks.restartMirrors(guest.qmp, guest.mirrorSocket);
    this.#options.problems.delete(`mirror ${device}`);
  }
}
