/**
 * A guest that QEMU stopped because a disk failed (werror=stop, rerror=stop), with no standby that could go on in its stead: it
 * stands still and has seen nothing of the error, for QEMU asks the disk again when it is let go on. That is tried again and
 * again, with growing pauses, until the disk works.
 *
 * A QEMU that goes through the page cache remembers a flush that failed for as long as it lives: it never gets past that.
 */
import { type QmpClient } from "../qemu/qmp-client.ts";
import { type Log } from "../telemetry/log.ts";
import { type DiskFaults } from "./disk-faults.ts";

/** A guest that was let go on and did not stop again for so long has its disk back. */
const SETTLED_MS = 2_000;
const RETRY_MS_MIN = 500;

export class DiskStop {
  readonly #faults: DiskFaults;
  readonly #log: Log;
  readonly #mayRun: () => boolean;
  readonly #onEnded: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: {
    readonly faults: DiskFaults;
    readonly log: Log;
    /** Whether nothing else keeps the guest from running. */
    readonly mayRun: () => boolean;
    readonly onEnded: () => void;
  }) {
    this.#faults = options.faults;
    this.#log = options.log;
    this.#mayRun = options.mayRun;
    this.#onEnded = options.onEnded;
  }

  get isStopped(): boolean {
    return this.#timer !== undefined;
  }

  /** QEMU has stopped the guest, for the first time or again; the fault is noted. */
  begin(qmp: QmpClient): void {
    this.end();
    this.#timer = setTimeout(
      () => {
        if (this.#mayRun()) {
          void this.#letGoOn(qmp);
        } else {
          this.begin(qmp);
        }
      },
      Math.max(RETRY_MS_MIN, this.#faults.restMs),
    );
  }

  /** The guest is gone, or goes on elsewhere. */
  end(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  async #letGoOn(qmp: QmpClient): Promise<void> {
    this.#timer = setTimeout(() => {
      this.end();
      this.#faults.heal();
      this.#log.info({}, "the guest's disk works again");
      this.#onEnded();
    }, SETTLED_MS);
    try {
      const { status } = await qmp.execute("query-status", {});
      if (status === "io-error") {
        await qmp.execute("cont", {});
      }
    } catch (error) {
      this.#log.warn({ error }, "the guest was not let go on after its disk failed");
    }
  }
}
