/**
 * Fail points: death at a named step of the protocol, for tests on real guests.
 *
 * Armed only where the environment says TWINRUN_FAIL_POINTS=1. Then the file `fail-point` in the engine's run directory is
 * looked for a few times a second: one line "<step> <victim> [skip]", where the step is the tag of an effect (side-state.ts)
 * or of an event, the victim is `engine`, `guest` or `both`, and `skip` says how often to pass it unharmed. The file is
 * removed when it was read, so a fail point strikes once.
 */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

export type Victim = "engine" | "guest" | "both";

export class FailPoints {
  readonly #path: string;
  readonly #timer: NodeJS.Timeout | undefined;
  #step = "";
  #victim: Victim = "engine";
  #skip = 0;

  constructor(runDirectory: string, environment: NodeJS.ProcessEnv = process.env) {
    this.#path = join(runDirectory, "fail-point");
    if (environment["TWINRUN_FAIL_POINTS"] === "1") {
      this.#look(); // A new engine takes its first steps sooner than the timer looks.
      this.#timer = setInterval(() => {
        this.#look();
      }, 100);
      this.#timer.unref();
    }
  }

  /** Kills with SIGKILL when `step` is the armed one. `killGuest` has to have killed when it returns. */
  pass(step: string, killGuest: () => void): void {
    if (this.#step !== step) {
      return;
    }
    if (this.#skip > 0) {
      this.#skip -= 1;
      return;
    }
    this.#step = "";
    if (this.#victim !== "engine") {
      killGuest();
    }
    if (this.#victim !== "guest") {
      process.kill(process.pid, "SIGKILL");
    }
  }

  #look(): void {
    let text: string;
    try {
      text = readFileSync(this.#path, "utf8");
    } catch {
      return;
    }
    rmSync(this.#path, { force: true });
    const [step = "", victim = "engine", skip = "0"] = text.trim().split(/\s+/);
    this.#step = step;
    this.#victim = victim === "guest" || victim === "both" ? victim : "engine";
    this.#skip = Number(skip);
  }
}
