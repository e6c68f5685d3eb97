/**
 * The controller's side of one virt-launcher: finds it, prepares its node, tells it its VMI and hears of its domain.
 *
 * A launcher that is gone is looked for until {@link LauncherLink.stop}: its node may have lost power, and nobody knows.
 */
import { request } from "node:http";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { type DomainReport } from "./domain-report.ts";
import { findLauncher, type LauncherProcess } from "./pod-processes.ts";
import { podPaths, type Vmi } from "./vmi.ts";

export type LauncherCommand = "pause" | "unpause" | "reset" | "shutdown" | "destroy";

export type LinkOptions = {
  readonly podUid: string;
  readonly readVmi: () => Vmi | undefined;
  /** Before the first sync of every launcher found. */
  readonly prepare: (vmi: Vmi, launcher: LauncherProcess) => Promise<void>;
  readonly onChange: () => void;
};

const retryMs = 250;
/** One that has not been found for long is on a node without power; looking costs a walk through all processes. */
const lostRetryMs = 2_000;
const lostRounds = 200;
/** A launcher that refuses is asked again so often: what it lacks may be on its way. */
const refusedRetryMs = 2_000;

export class LauncherLink {
  readonly #options: LinkOptions;
  #report: DomainReport | undefined;
  #trouble: string | undefined;
  #socketPath: string | undefined;
  #isStopped = false;
  #isSyncing = false;
  #mustSync = false;

  constructor(options: LinkOptions) {
    this.#options = options;
    void this.#follow();
  }

  /** What was heard last; also of a launcher that is gone. */
  get report(): DomainReport | undefined {
    return this.#report;
  }

  get trouble(): string | undefined {
    return this.#trouble;
  }

  stop(): void {
    this.#isStopped = true;
  }

  /** virt-handler's reconcile: once more when it is asked for meanwhile. */
  sync(): void {
    this.#mustSync = true;
    if (!this.#isSyncing && this.#socketPath !== undefined) {
      this.#isSyncing = true;
      void this.#syncUntilDone().finally(() => (this.#isSyncing = false));
    }
  }

  async send(command: LauncherCommand): Promise<void> {
    if (this.#socketPath === undefined) {
      throw new Error("virt-launcher cannot be reached");
    }
    await post(this.#socketPath, `/${command}`, "");
  }

  async #follow(): Promise<void> {
    let missedCount = 0;
    while (!this.#isStopped && this.#report?.state !== "ended") {
      const launcher = findLauncher(this.#options.podUid);
      if (launcher === undefined) {
        missedCount += 1;
        await sleep(missedCount < lostRounds ? retryMs : lostRetryMs);
      } else {
        missedCount = 0;
        await this.#serve(launcher).catch((cause: unknown) => {
          this.#setTrouble(cause instanceof Error ? cause.message : String(cause));
        });
        this.#socketPath = undefined;
        await sleep(retryMs);
      }
    }
  }

  async #serve(launcher: LauncherProcess): Promise<void> {
    const socketPath = `/proc/${launcher.pid}/root${podPaths.launcherSocket}`;
    const vmi = this.#options.readVmi();
    if (vmi === undefined) {
      return;
    }
    await this.#options.prepare(vmi, launcher);
    await this.#readEvents(socketPath);
  }

  /** Until the launcher ends. */
  #readEvents(socketPath: string): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        resolve();
      };
      const sent = request({ socketPath, path: "/events" }, (answer) => {
        this.#socketPath = socketPath;
        answer.on("error", end).on("close", end);
        const lines = createInterface(answer).on("line", (line) => {
          this.#take(JSON.parse(line) as DomainReport);
        });
        lines.on("error", end);
      });
      sent.on("error", end).end();
    });
  }

  #take(report: DomainReport): void {
    this.#report = report;
    this.#options.onChange();
    this.sync();
  }

  async #syncUntilDone(): Promise<void> {
    while (this.#mustSync && !this.#isStopped) {
      this.#mustSync = false;
      const vmi = this.#options.readVmi();
      if (vmi === undefined || this.#socketPath === undefined || this.#report?.state === "ended") {
        return;
      }
      await post(this.#socketPath, "/sync", JSON.stringify(vmi)).then(
        () => {
          this.#setTrouble(undefined);
        },
        async (cause: unknown) => {
          this.#setTrouble(cause instanceof Error ? cause.message : String(cause));
          await sleep(refusedRetryMs);
          this.#mustSync = true;
        },
      );
    }
  }

  #setTrouble(trouble: string | undefined): void {
    if (trouble !== this.#trouble) {
      this.#trouble = trouble;
      this.#options.onChange();
    }
  }
}

function post(socketPath: string, path: string, body: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, path, method: "POST" }, (answer) => {
      let said = "";
      answer.setEncoding("utf8").on("data", (part: string) => (said += part));
      answer.on("error", reject).on("end", () => {
        if (answer.statusCode === 200) {
          resolve();
        } else {
          reject(new Error(said));
        }
      });
    });
    sent.on("error", reject).end(body);
  });
}
