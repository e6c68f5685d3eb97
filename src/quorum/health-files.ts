/**
 * Two files in a directory of the container for kubelet's exec probes: `alive` is touched while the process turns, `ready`
 * while its store answers too. A file that is older than a minute, or not there, means no:
 *
 *   sh -c 'test -n "$(find /run/twinrun/ready -mmin -1)"'
 *
 * Why files: nothing here listens without authentication, a probe has no certificate, and a probe that starts Node costs
 * every ten seconds what the quorum itself needs in a minute. Why not only a TCP probe: the kernel accepts connections for a
 * process that is stuck.
 */
import { closeSync, futimesSync, mkdirSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";

const TOUCH_EVERY_MS = 5_000;

export class HealthFiles {
  readonly #alive: string;
  readonly #ready: string;
  readonly #isReady: () => Promise<boolean>;
  readonly #timer: NodeJS.Timeout;
  #isClosed = false;

  private constructor(directory: string, isReady: () => Promise<boolean>, everyMs: number) {
    this.#alive = join(directory, "alive");
    this.#ready = join(directory, "ready");
    this.#isReady = isReady;
    this.#timer = setInterval(() => void this.#touch(), everyMs);
    void this.#touch();
  }

  /** What an earlier process left there counts for nothing. */
  static open(directory: string, isReady: () => Promise<boolean>, everyMs: number = TOUCH_EVERY_MS): HealthFiles {
    mkdirSync(directory, { recursive: true });
    rmSync(join(directory, "ready"), { force: true });
    return new HealthFiles(directory, isReady, everyMs);
  }

  /** Not ready any more; still alive until the process has ended. */
  close(): void {
    this.#isClosed = true;
    clearInterval(this.#timer);
    rmSync(this.#ready, { force: true });
  }

  async #touch(): Promise<void> {
    touch(this.#alive);
    const isReady = await this.#isReady();
    if (isReady && !this.#isClosed) {
      touch(this.#ready);
    } else {
      rmSync(this.#ready, { force: true });
    }
  }
}

/** One that cannot be touched gets old, which says enough: the quorum itself can go on without. */
function touch(path: string): void {
  try {
    const file = openSync(path, "a", 0o644);
    const now = new Date();
    futimesSync(file, now, now);
    closeSync(file);
  } catch {
    rmSync(path, { force: true });
  }
}
