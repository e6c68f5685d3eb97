/**
 * Finds the QEMUs that KubeVirt's launcher pods run on this node, and waits for one where an engine needs one.
 *
 * A QEMU is known by the environment that the hook gave it (api/vmi-contract.ts): guest and node. Anybody's pod can have such an
 * environment, so it has to be in a pod of the namespace that the guest's side is in, too (node-pods.ts). Its shape is told by
 * `-incoming` in its command line, everything of its pod is reached under /proc/PID/root. This launcher starts nothing: who
 * owns the pods sees from the agent's report which shape is waited for, and makes a pod of it.
 *
 * Which QEMU may be given to an engine that asks for a fresh one: of the wanted shape, never given before, in the state that
 * QEMU starts in (a guest that has run, or memory that was written to, is no fresh one), and known to libvirt as started:
 * a guest that was let go earlier would be taken for paused ever after. One of another shape, or one that is not fresh any more,
 * is killed, so that its pod ends and another can take its place.
 *
 * File in the guest's run directory: pod-qemu.json, {version: 1, bootId, pid, startTime, startedAs, disks}: the QEMU that was
 * given last, written before anybody is told of it. A QEMU that runs its guest without such a file (somebody let it go by
 * hand, or the directory was lost) is adopted all the same: the quorum will tell whether it may run. It is taken to have the disks
 * that are assigned; one that it has not keeps the guest from being protected.
 */
import { lchownSync, mkdirSync, readFileSync, readdirSync, readlinkSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { QMP_PATH_IN_POD, qemuEnvironment, SHARED_DIRECTORY_IN_POD } from "../api/vmi-contract.ts";
import { resolveInRoot } from "../lib/rooted-path.ts";
import {
  type DiskAssignment,
  type FoundGuest,
  hasRunGuest,
  type GuestAssignment,
  type GuestShape,
  type QemuOrigin,
} from "../protocol/assignment.ts";
import { monotonicMs } from "../telemetry/clock.ts";
import { type Log } from "../telemetry/log.ts";
import { LaunchFailure, type GuestLauncher, type LaunchedGuest, type LaunchWait } from "./guest-launcher.ts";
import {
  isAlive,
  killProcess,
  listProcesses,
  readBootId,
  readEnvironment,
  readIdentity,
  readUser,
  type ProcessIdentity,
} from "./linux-process.ts";
import { readRunState } from "./monitor-question.ts";
import { type PodName } from "./node-pods.ts";
import { readStateFile, removeStateFile, writeStateFile } from "./state-file.ts";

export type PodLauncherOptions = {
  readonly node: string;
  /** The agent's; each guest has a directory of its name in it. */
  readonly runDirectory: string;
  readonly findPod: (pid: number) => PodName | undefined;
  readonly log: Log;
};

type PodOrigin = Extract<QemuOrigin, { readonly tag: "pod" }>;

type StateFile = {
  readonly version: 1;
  readonly bootId: string;
  readonly pid: number;
  readonly startTime: string;
  readonly startedAs: GuestShape;
  readonly disks: readonly DiskAssignment[];
};

type PodQemu = {
  readonly identity: ProcessIdentity;
  readonly guest: string;
  readonly shape: GuestShape;
};

const STATE_VERSION = 1;
const WATCH_MS = 250;
/** How often a pod that is waited for is looked for; a look reads one link of every process. */
const LOOK_MS = 150;
const MONITOR_TIMEOUT_MS = 2_000;
const COMPLAIN_AFTER_MS = 60_000;
/** The name of the program, whoever started it: wrappers and libvirt have the same environment for a moment. */
const QEMU_PROGRAM = /^qemu-(kvm|system-[a-z0-9_]+)( \(deleted\))?$/;
/** What libvirt keeps of each of its guests; its state is the first thing in it. */
const LIBVIRT_STATUS_DIRECTORY = "/var/run/libvirt/qemu/run";
const LIBVIRT_STARTING = /<domstatus state='[a-z]+' reason='starting up'/;
const FRESH_STATE: Readonly<Record<GuestShape, string>> = {
  primary: "prelaunch",
  standby: "inmigrate",
};

export class PodLauncher implements GuestLauncher {
  readonly ownsGuests = false;
  onDied: (guest: string, pid: number) => void = () => undefined;

  readonly #options: PodLauncherOptions;
  readonly #bootId = readBootId();
  /** Every QEMU that somebody was told of and that nobody saw go. */
  readonly #known = new Map<string, FoundGuest>();
  /** Those that call themselves a guest's QEMU and are not; told of once. */
  readonly #impostors = new Set<string>();
  readonly #watch: NodeJS.Timeout;

  constructor(options: PodLauncherOptions) {
    this.#options = options;
    this.#watch = setInterval(() => {
      this.#lookAfterKnown();
    }, WATCH_MS);
  }

  /** None: pods are removed by those who made them. */
  listGuests(): readonly string[] {
    return [];
  }

  async adopt({ guest, qemu: origin, disks }: GuestAssignment): Promise<LaunchedGuest | undefined> {
    const state = this.#readState(guest);
    if (state !== undefined && isAlive(state)) {
      return this.#give(guest, state, { ...state, origin });
    }
    removeStateFile(this.#statePath(guest));
    for (const qemu of this.#listQemus(guest, origin)) {
      // An engine may have died while it had the guest stopped for a checkpoint.
      if (hasRunGuest((await this.#readRunState(qemu)) ?? "")) {
        this.#options.log.warn(
          { guest, pid: qemu.identity.pid },
          "a QEMU runs the guest although no engine is known to have let it go",
        );
        return this.#give(guest, qemu.identity, {
          startedAs: qemu.shape,
          disks,
          origin,
        });
      }
    }
    return undefined;
  }

  async start(assignment: GuestAssignment, as: GuestShape, wait: LaunchWait): Promise<LaunchedGuest> {
    const { guest, qemu: origin, disks } = assignment;
    if (origin.tag !== "pod") {
      const says = `${guest} comes with QEMU arguments, but on this node QEMU runs in pods: assign it by a GuestPair`;
      throw new LaunchFailure({ code: "WrongOrigin", origin: origin.tag }, says);
    }
    await this.kill(guest);
    let saysAtMs = monotonicMs();
    for (;;) {
      throwIfCancelled(guest, wait.signal);
      const fresh = await this.#findFresh(guest, origin, as);
      throwIfCancelled(guest, wait.signal);
      if (fresh !== undefined) {
        return this.#give(guest, fresh.identity, { startedAs: as, disks, origin });
      }
      wait.onWaiting();
      if (monotonicMs() >= saysAtMs) {
        this.#options.log.info({ guest, as }, "waiting for a pod whose QEMU has the shape that is needed");
        saysAtMs += COMPLAIN_AFTER_MS;
      }
      await sleep(LOOK_MS, undefined, { signal: wait.signal }).catch(() => undefined);
    }
  }

  /** The QEMU that an engine had. One that was never given has done nothing, and is the next start's. */
  async kill(guest: string): Promise<void> {
    const found = this.#known.get(guest) ?? this.#readState(guest);
    this.#known.delete(guest);
    if (found !== undefined) {
      await this.#kill(guest, found);
    }
    removeStateFile(this.#statePath(guest));
  }

  close(): void {
    clearInterval(this.#watch);
  }

  /** Undefined while there is none; what can never become one is killed on the way. */
  async #findFresh(guest: string, origin: PodOrigin, as: GuestShape): Promise<PodQemu | undefined> {
    for (const qemu of this.#listQemus(guest, origin)) {
      if (qemu.shape !== as) {
        this.#options.log.info({ guest, pid: qemu.identity.pid, shape: qemu.shape, as }, "a QEMU has the wrong shape");
        await this.#kill(guest, qemu.identity);
        continue;
      }
      const runState = isStartingUp(rootOf(qemu.identity)) ? undefined : await this.#readRunState(qemu);
      if (runState === FRESH_STATE[as]) {
        return qemu;
      }
      if (runState !== undefined) {
        this.#options.log.warn({ guest, pid: qemu.identity.pid, runState }, "a QEMU is not fresh any more");
        await this.#kill(guest, qemu.identity);
      }
    }
    return undefined;
  }

  #give(
    guest: string,
    { pid, startTime }: ProcessIdentity,
    state: Pick<StateFile, "startedAs" | "disks"> & { readonly origin: QemuOrigin },
  ): LaunchedGuest {
    const identity = { pid, startTime };
    const { startedAs, disks, origin } = state;
    const qemuRoot = rootOf(identity);
    this.#prepareDirectory(identity);
    writeStateFile(this.#statePath(guest), {
      version: STATE_VERSION,
      bootId: this.#bootId,
      ...identity,
      startedAs,
      disks,
    } satisfies StateFile);
    const sharedDirectory = SHARED_DIRECTORY_IN_POD;
    const found: FoundGuest = {
      ...identity,
      qmpPath: qmpPathOf(identity),
      qemuRoot,
      sharedDirectory,
      startedAs,
    };
    this.#known.set(guest, found);
    return { found, qemu: origin, disks };
  }

  /** For the sockets and pipes that QEMU's user and we share; the pod may be an old one, with the directory in it. */
  #prepareDirectory(identity: ProcessIdentity): void {
    const directory = resolveInRoot(rootOf(identity), SHARED_DIRECTORY_IN_POD, readLink);
    const { uid, gid } = readUser(identity.pid) ?? { uid: 0, gid: 0 };
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    // Not through a link: the folder above is QEMU's own.
    lchownSync(directory, uid, gid);
  }

  async #readRunState({ identity }: PodQemu): Promise<string | undefined> {
    return readRunState(qmpPathOf(identity), MONITOR_TIMEOUT_MS);
  }

  async #kill(guest: string, identity: ProcessIdentity): Promise<void> {
    if (isAlive(identity)) {
      this.#options.log.info({ guest, pid: identity.pid }, "killing a QEMU; its pod ends with it");
      await killProcess(identity, this.#options.log);
    }
  }

  #listQemus(guest: string, origin: QemuOrigin): readonly PodQemu[] {
    const named = this.#listNamed(guest);
    return named.filter(({ identity }) => this.#isInNamespace(guest, identity, origin));
  }

  #isInNamespace(guest: string, { pid, startTime }: ProcessIdentity, origin: QemuOrigin): boolean {
    const pod = this.#options.findPod(pid);
    if (origin.tag === "pod" && pod?.namespace === origin.namespace) {
      return true;
    }
    if (!this.#impostors.has(`${pid} ${startTime}`)) {
      this.#impostors.add(`${pid} ${startTime}`);
      const wanted = origin.tag === "pod" ? origin.namespace : "";
      const says = `a process calls itself the guest's QEMU but is in no pod of namespace ${wanted}; it is left alone`;
      this.#options.log.warn({ guest, pid, pod }, says);
    }
    return false;
  }

  #listNamed(guest: string): readonly PodQemu[] {
    return listProcesses()
      .filter((pid) => QEMU_PROGRAM.test(basename(readLink(`/proc/${pid}/exe`) ?? "")))
      .flatMap((pid) => {
        const environment = readEnvironment(pid) ?? [];
        const identity = readIdentity(pid);
        const isMeant =
          environment.includes(`${qemuEnvironment.guest}=${guest}`) &&
          environment.includes(`${qemuEnvironment.node}=${this.#options.node}`) &&
          // A local launcher's.
          !environment.some((entry) => entry.startsWith("TWINRUN_RUN_DIRECTORY="));
        return isMeant && identity !== undefined ? [{ identity, guest, shape: readShape(pid) }] : [];
      });
  }

  #lookAfterKnown(): void {
    for (const [guest, found] of this.#known) {
      if (!isAlive(found)) {
        this.#known.delete(guest);
        removeStateFile(this.#statePath(guest));
        this.onDied(guest, found.pid);
      }
    }
  }

  #readState(guest: string): StateFile | undefined {
    const state = readStateFile(this.#statePath(guest)) as Partial<StateFile> | undefined;
    // Only we write this file, and whole; what may differ is the version and the boot.
    return state?.version === STATE_VERSION && state.bootId === this.#bootId ? (state as StateFile) : undefined;
  }

  #statePath(guest: string): string {
    return join(this.#options.runDirectory, guest, "pod-qemu.json");
  }
}

const rootOf = ({ pid }: ProcessIdentity): string => `/proc/${pid}/root`;

const qmpPathOf = (identity: ProcessIdentity): string => resolveInRoot(rootOf(identity), QMP_PATH_IN_POD, readLink);

function throwIfCancelled(guest: string, signal: AbortSignal): void {
  if (signal.aborted) {
    throw new LaunchFailure({ code: "StartCancelled" }, `nobody waits for a QEMU of ${guest} any more`);
  }
}

function readShape(pid: number): GuestShape {
  return readText(`/proc/${pid}/cmdline`).split("\0").includes("-incoming") ? "standby" : "primary";
}

/** Libvirt has more to do with a new QEMU, on a monitor of its own. Where there is no libvirt nobody else has. */
function isStartingUp(root: string): boolean {
  const directory = resolveInRoot(root, LIBVIRT_STATUS_DIRECTORY, readLink);
  return listFiles(directory)
    .filter((file) => file.endsWith(".xml"))
    .some((file) => LIBVIRT_STARTING.test(readText(join(directory, file))));
}

function listFiles(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function readLink(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}
