/**
 * A disk of a host that fails as disks do: with errors, slowly, or not at all any more.
 *
 * What is at the disk's path is served by a process of its own (qemu-storage-daemon, through FUSE) from the file that was there.
 * So errors and delays come from below, by system calls that fail or take long, for QEMU and for engines alike; a daemon that
 * is stopped is a disk that answers nothing. The kernels of many machines can do without device-mapper, few without FUSE.
 *
 *   path --FUSE--> top (raw) --file--> good (throttle) --> store (file PATH.store)
 *                          \--file--> bad (blkdebug) --/      while it has errors
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { closeSync, openSync, renameSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { assert } from "../../src/lib/assert.ts";
import { QmpClient } from "../../src/qemu/qmp-client.ts";
import { type Lab, runCommand } from "./hosts.ts";
import { type PairHost } from "./placement.ts";

/** EIO, of a disk that is worn; ENOSPC, of a volume that is full. */
export type DiskErrno = "EIO" | "ENOSPC";
const NUMBERS: Readonly<Record<DiskErrno, number>> = { EIO: 5, ENOSPC: 28 };

const START_MS = 30_000;

export class FaultyDisk {
  readonly #place: Place;
  #served: Served;
  #isBad = false;

  private constructor(place: Place, served: Served) {
    this.#place = place;
    this.#served = served;
  }

  /** Takes the disk at `path` over, before anybody has opened it. It goes with its host. */
  static insert(lab: Lab, host: PairHost, path: string): Promise<FaultyDisk> {
    return FaultyDisk.#insert({
      path,
      directory: lab.runDirectory(host),
      // In the host's network namespace, so that it goes with it, but in our mount namespace, for everybody is to see the mount.
      runner: ["nsenter", `--net=/run/netns/${lab.namespaceOf(host)}`],
      logPath: join(lab.logDirectory, `faulty-disk-${host}.log`),
    });
  }

  /** The same of a file of this machine; it goes with this process, or by {@link eject}. */
  static insertHere(path: string): Promise<FaultyDisk> {
    const runner = ["setpriv", "--pdeathsig", "KILL"];
    return FaultyDisk.#insert({ path, directory: dirname(path), runner, logPath: `${path}.log` });
  }

  static async #insert(place: Place): Promise<FaultyDisk> {
    const { path } = place;
    const { size } = statSync(path);
    renameSync(path, storeOf(path));
    writeFileSync(path, "");
    truncateSync(path, size);
    return new FaultyDisk(place, await serveDisk(place));
  }

  get path(): string {
    return this.#place.path;
  }

  /** It is back with its host, and works. */
  async serve(): Promise<void> {
    runCommand(["umount", "--lazy", this.path]);
    this.#isBad = false;
    this.#served = await serveDisk(this.#place);
  }

  /** Whoever still uses it sees it gone. */
  async eject(): Promise<void> {
    const { daemon, qmp } = this.#served;
    runCommand(["umount", "--lazy", this.path]);
    qmp.close();
    if (daemon.exitCode === null && daemon.signalCode === null) {
      const ended = new Promise((resolve) => daemon.once("exit", resolve));
      daemon.kill("SIGKILL");
      await ended;
    }
  }

  /** The file with what is on it. */
  get storePath(): string {
    return storeOf(this.path);
  }

  /** Of the process that serves it. */
  get pid(): number {
    return this.#served.daemon.pid ?? 0;
  }

  get #qmp(): QmpClient {
    return this.#served.qmp;
  }

  /** Every write, or every read, fails from now on. */
  async fail(operation: "read" | "write", errno: DiskErrno): Promise<void> {
    await this.#qmp.execute("blockdev-add", {
      ...{ "node-name": "bad", driver: "blkdebug", image: "good" },
      // Not flushes: the daemon flushes before it puts another node below.
      "inject-error": [{ event: "none", iotype: operation, errno: NUMBERS[errno], once: false, immediately: true }],
    });
    await this.#putBelow("bad");
    this.#isBad = true;
  }

  /** It is as it was: every write that succeeded is there. */
  async repair(): Promise<void> {
    if (this.#isBad) {
      this.#isBad = false;
      await this.#putBelow("good");
      await this.#qmp.execute("blockdev-del", { "node-name": "bad" });
    }
  }

  /** So many requests a second; 0: as many as it can. */
  async slowDown(requestsPerSecond: number): Promise<void> {
    const limits = { "iops-total": requestsPerSecond };
    await this.#qmp.execute("qom-set", { path: "/objects/pace", property: "limits", value: limits });
  }

  /** It answers nothing, until `resume`. */
  freeze(): void {
    this.#served.daemon.kill("SIGSTOP");
  }

  resume(): void {
    this.#served.daemon.kill("SIGCONT");
  }

  #putBelow(node: "good" | "bad"): Promise<unknown> {
    const options = [{ "node-name": "top", driver: "raw", file: node, discard: "unmap" }];
    // No command of the engine's, so its client has no type for it.
    return this.#qmp.execute("blockdev-reopen" as "stop", { options } as unknown as Record<string, never>);
  }
}

type Place = {
  readonly path: string;
  /** For the monitor. */
  readonly directory: string;
  /** What starts a command there, as that process itself. */
  readonly runner: readonly string[];
  readonly logPath: string;
};
type Served = { readonly daemon: ChildProcess; readonly qmp: QmpClient };

const storeOf = (path: string): string => `${path}.store`;

async function serveDisk({ path, directory, runner, logPath }: Place): Promise<Served> {
  const store = storeOf(path);
  const socket = join(directory, `disk-${randomUUID().slice(0, 8)}.qmp`);
  const log = openSync(logPath, "a");
  const [program = "", ...args] = [...runner, "qemu-storage-daemon", ...listArguments({ store, path, socket })];
  const daemon = spawn(program, args, { detached: true, stdio: ["ignore", log, log] });
  closeSync(log);
  const deadlineMs = Date.now() + START_MS;
  const qmp = await connectMonitor(socket, deadlineMs);
  // The monitor is there before the export is.
  while (statSync(path).dev === statSync(store).dev) {
    assert(Date.now() < deadlineMs, `${path} is not served after ${START_MS} ms: see ${logPath}`);
    await sleep(20);
  }
  return { daemon, qmp };
}

/** Its socket is there a moment before it listens. */
async function connectMonitor(socket: string, deadlineMs: number): Promise<QmpClient> {
  for (;;) {
    try {
      return await QmpClient.connect(socket, { connectTimeoutMs: START_MS });
    } catch (error) {
      if (Date.now() > deadlineMs) {
        throw error;
      }
      await sleep(20);
    }
  }
}

type Places = { readonly store: string; readonly path: string; readonly socket: string };

function listArguments({ store, path, socket }: Places): string[] {
  return [
    ...["--blockdev", `driver=file,node-name=store,filename=${store},discard=unmap`],
    ...["--object", "throttle-group,id=pace"],
    ...["--blockdev", "driver=throttle,node-name=good,throttle-group=pace,file=store,discard=unmap"],
    ...["--blockdev", "driver=raw,node-name=top,file=good,discard=unmap"],
    ...["--chardev", `socket,id=monitor,path=${socket},server=on,wait=off`, "--monitor", "chardev=monitor"],
    ...["--export", `type=fuse,id=export,node-name=top,mountpoint=${path},writable=on`],
  ];
}
