/**
 * Keeps a process of a host running as an init system would: it is started again whenever it ends, until it is stopped.
 *
 * Its output goes straight into a file, never through us: a busy lab must not slow down what it measures.
 */
import { type ChildProcess } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { type HostName, type Lab } from "./hosts.ts";

const restartAfterMs = 200;

export type SupervisedOptions = {
  readonly lab: Lab;
  readonly host: HostName;
  readonly command: readonly string[];
  readonly logPath: string;
  readonly environment?: Readonly<Record<string, string>>;
};

export class Supervised {
  readonly #options: SupervisedOptions;
  #child: ChildProcess | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isWanted = false;
  startsCount = 0;

  constructor(options: SupervisedOptions) {
    this.#options = options;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get isRunning(): boolean {
    return this.#child !== undefined;
  }

  start(): void {
    this.#isWanted = true;
    if (this.#child === undefined) {
      this.#spawn();
    }
  }

  /** Kills it with -9; it comes back. */
  kill(): void {
    this.#child?.kill("SIGKILL");
  }

  /** It is not started again. What still runs ends by `signal`. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    this.abandon();
    const child = this.#child;
    if (child !== undefined) {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill(signal);
      await ended;
    }
  }

  /** Its host loses power: whoever kills it now is not to be answered by a restart. */
  abandon(): void {
    this.#isWanted = false;
    clearTimeout(this.#timer);
  }

  #spawn(): void {
    const { lab, host, command, logPath, environment } = this.#options;
    if (lab.isDestroyed || !lab.isPoweredOn(host)) {
      return;
    }
    const log = openSync(logPath, "a");
    const child = lab.spawn(host, command, {
      stdio: ["ignore", log, log],
      ...(environment === undefined ? {} : { environment }),
    });
    closeSync(log);
    this.startsCount += 1;
    this.#child = child;
    child.once("exit", () => {
      this.#child = undefined;
      if (this.#isWanted) {
        this.#timer = setTimeout(() => {
          this.#spawn();
        }, restartAfterMs);
      }
    });
  }
}
