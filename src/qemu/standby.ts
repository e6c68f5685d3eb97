/**
 * Brings the guest to life in a QEMU that was started with `-incoming defer -S` and whose memory and disks were kept up
 * to date from outside.
 *
 * prepare, any time before: QEMU listens on a unix socket for the device state. It may wait there for as long as it has
 * to; the disks stay inactive (not locked, nothing cached) and memory is not touched.
 * activate, once: connect, write the state, wait for the load, `cont`, announce. 5 to 10 ms with 80 to 320 KB of state.
 *
 * Contract:
 * - The standby has the same arguments as the primary. QEMU ends itself when the state does not fit: activate then fails
 *   with LoadFailed and there is nothing left to try with this QEMU.
 * - When activate fails with StartFailed the state is loaded but the guest does not run (a disk that another process has
 *   locked): the remedy may be applied and `cont` sent again.
 *
 * Why the connection is made at the takeover and not when preparing, although that would save 0.5 ms: QEMU ends itself
 * when the connection closes without a state, so a restart of this process would cost the standby its memory.
 *
 * The state of xen-save-devices-state has no configuration section. QEMU expects one unless it runs with
 * `-global migration.send-configuration=off`; give `machineType` where that was not set, and the section is put in:
 * after the 8 bytes of magic and version, 0x07, the length of the name as a big-endian u32, the name.
 */
import { readFileSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { performance } from "node:perf_hooks";
import { Failure } from "../lib/failure.ts";
import { type QmpClient } from "./qmp-client.ts";
import { QmpFailure } from "./qmp-failure.ts";

export type StandbyFailureDetail =
  | { readonly code: "NotIncoming"; readonly runState: string }
  | { readonly code: "LoadFailed"; readonly reason: string }
  | { readonly code: "StartFailed"; readonly reason: string };
export class StandbyFailure extends Failure<StandbyFailureDetail> {}

export type Activation = {
  readonly connectMs: number;
  /** Writing the state and QEMU's loading of it, disks activated. */
  readonly loadMs: number;
  /** Until the guest runs. */
  readonly startMs: number;
};
export type ActivateOptions = {
  readonly machineType?: string;
  readonly timeoutMs?: number;
};
type Loaded = { readonly startedAtMs: number; readonly connectedAtMs: number };
/** A file that this process and QEMU can both reach. */
export type StateFile = { readonly own: string; readonly inQemu: string };
export type ResizedNode = { readonly node: string; readonly bytes: number };

const LOAD_TIMEOUT_MS = 10_000;
/** Five announcements within half a second: switches learn the new place of the guest's addresses from the first. */
const ANNOUNCE = { initial: 20, max: 200, rounds: 5, step: 50 };
const HEADER_BYTES = 8;
const SECTION_CONFIGURATION = 0x07;
/** Memory of the guest, or of its display, is at least that; firmware, ROMs and tables are less. */
const BOOT_BLOCK_BYTES_MAX = 16 * 1024 * 1024;

/** Whether a machine that is switched on needs what its primary has in this RAM block. */
export function isBootBlock({ bytes }: { readonly bytes: number }): boolean {
  return bytes < BOOT_BLOCK_BYTES_MAX;
}

export class Standby {
  readonly #qmp: QmpClient;
  readonly #incomingPath: string;

  private constructor(qmp: QmpClient, incomingPath: string) {
    this.#qmp = qmp;
    this.#incomingPath = incomingPath;
  }

  /**
   * Makes QEMU listen; also takes over a QEMU that an earlier process had prepared. The path is as QEMU names it, `toOwn` says
   * how this process has to.
   */
  static async prepare(qmp: QmpClient, incomingPath: string, toOwn = (path: string): string => path): Promise<Standby> {
    const { status } = await qmp.execute("query-status", {});
    if (status !== "inmigrate") {
      throw new StandbyFailure(
        { code: "NotIncoming", runState: status },
        `QEMU is ${status}, no standby; start it with -incoming defer -S`,
      );
    }
    const preparedPath = await readIncomingPath(qmp);
    if (preparedPath !== undefined) {
      return new Standby(qmp, toOwn(preparedPath));
    }
    await qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] });
    await qmp.execute("migrate-incoming", { uri: `unix:${incomingPath}` });
    return new Standby(qmp, toOwn(incomingPath));
  }

  /** Loads the state and lets the guest run. Call it only with the quorum's grant. */
  async activate(state: Buffer, options: ActivateOptions = {}): Promise<Activation> {
    const loaded = await this.#load(state, options);
    return this.#start(loaded);
  }

  /**
   * Boots the guest from its disks, as a machine that was switched on. Call it only with the quorum's grant, and with the blocks of
   * {@link isBootBlock} in place: a QEMU that waits for a migration leaves them empty.
   *
   * QEMU leaves its waiting only for a state. The one it is given is its own, of a machine that has not run yet, so nothing of the
   * guest's memory is looked at; the reset after it lays out what a boot needs (kernel, ACPI tables).
   */
  async boot(file: StateFile, options: ActivateOptions = {}): Promise<Activation> {
    rmSync(file.own, { force: true });
    await this.#qmp.execute("xen-save-devices-state", { filename: file.inQemu, live: false });
    const state = readFileSync(file.own);
    rmSync(file.own, { force: true });
    const loaded = await this.#load(state, options);
    const reset = waitForReset(this.#qmp);
    try {
      await this.#qmp.execute("system_reset", {});
      await reset.done;
    } catch (error) {
      throw loadFailed(error);
    } finally {
      reset.cancel();
    }
    return this.#start(loaded);
  }

  async #load(state: Buffer, options: ActivateOptions): Promise<Loaded> {
    const startedAtMs = performance.now();
    const loaded = waitForLoad(this.#qmp, options.timeoutMs ?? LOAD_TIMEOUT_MS);
    try {
      const socket = await connectTo(this.#incomingPath);
      const connectedAtMs = performance.now();
      writeState(socket, state, options.machineType);
      await loaded.done;
      return { startedAtMs, connectedAtMs };
    } catch (error) {
      throw loadFailed(error);
    } finally {
      loaded.cancel();
    }
  }

  async #start({ startedAtMs, connectedAtMs }: Loaded): Promise<Activation> {
    const loadedAtMs = performance.now();
    try {
      await this.#qmp.execute("cont", {});
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new StandbyFailure(
        { code: "StartFailed", reason },
        `the guest is loaded but QEMU does not start it: ${reason}; free what it names, then send cont`,
        { cause: error },
      );
    }
    const runningAtMs = performance.now();
    return {
      connectMs: connectedAtMs - startedAtMs,
      loadMs: loadedAtMs - connectedAtMs,
      startMs: runningAtMs - loadedAtMs,
    };
  }

  /**
   * Tells devices of images that have another size now than when QEMU was started. QEMU asks for it when it activates an image,
   * but SCSI and SATA disks keep what they read at their start. Apart from activate, because images are active only when the
   * guest runs (10.0; 7.2 activates them when it has loaded the state).
   */
  async tellSizes(resized: readonly ResizedNode[]): Promise<void> {
    for (const { node, bytes } of resized) {
      await this.#qmp.execute("block_resize", { "node-name": node, size: bytes });
    }
  }
}

/** Tells the network where the guest is. Not before it runs: QEMU keeps the packets until then. */
export async function announceGuest(qmp: QmpClient): Promise<void> {
  await qmp.execute("announce-self", ANNOUNCE);
}

/** The machine type with its version, such as pc-q35-7.2. */
export async function readMachineType(qmp: QmpClient): Promise<string> {
  const type = await qmp.execute("qom-get", { path: "/machine", property: "type" });
  if (typeof type !== "string") {
    throw QmpFailure.malformed("the machine's type is not a string");
  }
  return type.replace(/-machine$/, "");
}

async function readIncomingPath(qmp: QmpClient): Promise<string | undefined> {
  const info = await qmp.execute("query-migrate", {});
  return info["socket-address"]?.find((address) => address.type === "unix")?.path;
}

function writeState(socket: Socket, state: Buffer, machineType: string | undefined): void {
  socket.on("error", () => undefined); // What went wrong is told by QEMU, on the monitor.
  if (machineType === undefined) {
    socket.end(state);
    return;
  }
  const section = Buffer.alloc(5);
  section[0] = SECTION_CONFIGURATION;
  section.writeUInt32BE(Buffer.byteLength(machineType), 1);
  socket.end(
    Buffer.concat([state.subarray(0, HEADER_BYTES), section, Buffer.from(machineType), state.subarray(HEADER_BYTES)]),
  );
}

/** Settles with QEMU's verdict on the load: events first, the monitor's end, or the time. */
function waitForLoad(qmp: QmpClient, timeoutMs: number): { readonly done: Promise<void>; readonly cancel: () => void } {
  let cancel = (): void => undefined;
  const done = new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(QmpFailure.timedOut("migrate-incoming", timeoutMs));
    }, timeoutMs);
    const unsubscribe = qmp.onEvent(({ event, data }) => {
      if (event !== "MIGRATION") {
        return;
      }
      if (data["status"] === "completed") {
        resolve();
      } else if (data["status"] === "failed") {
        reject(QmpFailure.rejected("migrate-incoming", "GenericError", "the load failed"));
      }
    });
    void qmp.closed.then((reason) => {
      reject(QmpFailure.closed("migrate-incoming", reason));
    });
    cancel = (): void => {
      clearTimeout(timer);
      unsubscribe();
    };
  });
  done.catch(() => undefined); // A failed connect is told first; then nobody waits for this any more.
  return { done, cancel };
}

/** The reset is made by QEMU's main loop, some time after it was asked for. */
function waitForReset(qmp: QmpClient): { readonly done: Promise<void>; readonly cancel: () => void } {
  let cancel = (): void => undefined;
  const done = new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(QmpFailure.timedOut("system_reset", LOAD_TIMEOUT_MS));
    }, LOAD_TIMEOUT_MS);
    const unsubscribe = qmp.onEvent(({ event }) => {
      if (event === "RESET") {
        resolve();
      }
    });
    void qmp.closed.then((reason) => {
      reject(QmpFailure.closed("system_reset", reason));
    });
    cancel = (): void => {
      clearTimeout(timer);
      unsubscribe();
    };
  });
  done.catch(() => undefined);
  return { done, cancel };
}

function connectTo(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(socket);
    });
  });
}

function loadFailed(error: unknown): StandbyFailure {
  const reason = error instanceof Error ? error.message : String(error);
  const remedy = "look at its log; both sides need the same QEMU build, arguments and disk sizes";
  return new StandbyFailure(
    { code: "LoadFailed", reason },
    `the standby's QEMU did not take the device state: ${reason}; ${remedy}`,
    { cause: error },
  );
}
