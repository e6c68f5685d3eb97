/**
 * The QMP commands Twinrun uses: arguments and what they return, as far as Twinrun reads it.
 *
 * Only what QEMU 7.2 and 10 both take is written here; a command that one of them lacks is asked for with
 * QmpClient.hasCommand first.
 */

/** What QEMU says the machine is doing. `save-vm` is a checkpoint of ours; `inmigrate` a standby. */
export type RunState =
  | "running"
  | "paused"
  | "prelaunch"
  | "inmigrate"
  | "postmigrate"
  | "finish-migrate"
  | "restore-vm"
  | "save-vm"
  | "io-error"
  | "internal-error"
  | "shutdown"
  | "suspended"
  | "watchdog"
  | "guest-panicked"
  | "colo"
  | "debug"
  | "preconfig";

export type BlockImage = {
  readonly filename: string;
  readonly format: string;
  readonly "virtual-size": number;
  readonly "actual-size"?: number;
};
export type BlockNode = {
  readonly "node-name"?: string;
  readonly drv: string;
  readonly ro: boolean;
  readonly file: string;
  readonly image: BlockImage;
  readonly cache?: { readonly writeback: boolean; readonly direct: boolean; readonly "no-flush": boolean };
  readonly "dirty-bitmaps"?: readonly DirtyBitmap[];
};
export type DirtyBitmap = {
  readonly name?: string;
  readonly count: number;
  readonly granularity: number;
  readonly recording: boolean;
  readonly busy: boolean;
  readonly persistent: boolean;
};
export type BlockDevice = {
  readonly device: string;
  readonly qdev?: string;
  readonly type: string;
  readonly removable: boolean;
  readonly locked: boolean;
  readonly "io-status"?: "ok" | "failed" | "nospace";
  readonly inserted?: BlockNode;
};
export type BlockStatistics = {
  readonly device?: string;
  readonly "node-name"?: string;
  readonly stats: {
    readonly rd_operations: number;
    readonly wr_operations: number;
    readonly rd_total_time_ns: number;
    readonly wr_total_time_ns: number;
    readonly flush_total_time_ns: number;
  };
};
export type BlockJob = {
  readonly device: string;
  readonly type: string;
  readonly len: number;
  readonly offset: number;
  readonly busy: boolean;
  readonly paused: boolean;
  readonly ready: boolean;
  readonly status: string;
  readonly "io-status": "ok" | "failed" | "nospace";
  readonly "actively-synced"?: boolean;
  readonly error?: string;
};
export type MigrationInfo = {
  readonly status?:
    | "none"
    | "setup"
    | "cancelling"
    | "cancelled"
    | "active"
    | "completed"
    | "failed"
    | "colo"
    | "pre-switchover"
    | "device"
    | "wait-unplug"
    | "postcopy-active"
    | "postcopy-paused"
    | "postcopy-recover";
  readonly "error-desc"?: string;
  /** Why this machine cannot be migrated, nor its state be saved. */
  readonly "blocked-reasons"?: readonly string[];
  /** Where an incoming side listens. */
  readonly "socket-address"?: readonly { readonly type: string; readonly path?: string }[];
};
export type ChardevInfo = { readonly label: string; readonly filename: string; readonly "frontend-open": boolean };
export type ObjectProperty = { readonly name: string; readonly type: string };
export type PciDevice = {
  readonly bus: number;
  readonly slot: number;
  readonly function: number;
  readonly class_info: { readonly desc?: string; readonly class: number };
  readonly id: { readonly device: number; readonly vendor: number };
  readonly qdev_id: string;
};
export type YankInstance =
  | { readonly type: "block-node"; readonly "node-name": string }
  | { readonly type: "chardev"; readonly id: string }
  | { readonly type: "migration" };

type None = Readonly<Record<string, never>>;
/** A command that takes or returns nothing. */
type Command<Arguments = None, Returns = None> = { readonly args: Arguments; readonly returns: Returns };

export type QmpCommands = {
  readonly qmp_capabilities: Command<{ readonly enable?: readonly string[] }>;
  readonly "query-commands": Command<None, readonly { readonly name: string }[]>;
  readonly "query-version": Command<
    None,
    {
      readonly qemu: { readonly major: number; readonly minor: number; readonly micro: number };
      readonly package: string;
    }
  >;
  readonly "query-status": Command<None, { readonly status: RunState; readonly running: boolean }>;
  readonly "query-name": Command<None, { readonly name?: string }>;
  readonly "query-kvm": Command<None, { readonly enabled: boolean; readonly present: boolean }>;
  readonly "query-cpus-fast": Command<
    None,
    readonly { readonly "cpu-index": number; readonly "thread-id": number; readonly "qom-path": string }[]
  >;
  readonly "query-memory-size-summary": Command<
    None,
    { readonly "base-memory": number; readonly "plugged-memory"?: number }
  >;
  readonly "x-query-virtio-status": Command<{ readonly path: string }, { readonly "vhost-started"?: boolean }>;
  readonly "query-pci": Command<None, readonly { readonly bus: number; readonly devices: readonly PciDevice[] }[]>;
  readonly "chardev-add": Command<{ readonly id: string; readonly backend: object }>;
  readonly "chardev-remove": Command<{ readonly id: string }>;
  readonly "query-chardev": Command<None, readonly ChardevInfo[]>;
  readonly "human-monitor-command": Command<{ readonly "command-line": string }, string>;
  readonly stop: Command;
  readonly cont: Command;
  readonly quit: Command;
  readonly system_reset: Command;
  readonly system_powerdown: Command;
  readonly "xen-save-devices-state": Command<{ readonly filename: string; readonly live: boolean }>;
  readonly "migrate-set-capabilities": Command<{
    readonly capabilities: readonly { readonly capability: string; readonly state: boolean }[];
  }>;
  readonly "migrate-incoming": Command<{ readonly uri: string }>;
  readonly "query-migrate": Command<None, MigrationInfo>;
  readonly "announce-self": Command<{
    readonly initial: number;
    readonly max: number;
    readonly rounds: number;
    readonly step: number;
  }>;
  readonly "query-block": Command<None, readonly BlockDevice[]>;
  readonly "query-named-block-nodes": Command<{ readonly flat?: boolean }, readonly BlockNode[]>;
  readonly "query-blockstats": Command<None, readonly BlockStatistics[]>;
  readonly "query-block-jobs": Command<None, readonly BlockJob[]>;
  readonly "blockdev-add": Command<{
    readonly "node-name": string;
    readonly driver: string;
    readonly [option: string]: unknown;
  }>;
  readonly "blockdev-del": Command<{ readonly "node-name": string }>;
  readonly "blockdev-mirror": Command<{
    readonly "job-id": string;
    readonly device: string;
    readonly target: string;
    readonly sync: "none" | "full" | "top";
    readonly "copy-mode"?: "background" | "write-blocking";
    readonly "on-source-error"?: "report" | "ignore" | "enospc" | "stop";
    readonly "on-target-error"?: "report" | "ignore" | "enospc" | "stop";
    readonly granularity?: number;
    readonly "buf-size"?: number;
    readonly "filter-node-name"?: string;
    readonly "auto-dismiss"?: boolean;
    readonly "auto-finalize"?: boolean;
  }>;
  readonly "block-job-cancel": Command<{ readonly device: string; readonly force?: boolean }>;
  readonly "job-complete": Command<{ readonly id: string }>;
  readonly "job-dismiss": Command<{ readonly id: string }>;
  readonly block_resize: Command<{ readonly "node-name": string; readonly size: number }>;
  readonly "query-yank": Command<None, readonly YankInstance[]>;
  readonly yank: Command<{ readonly instances: readonly YankInstance[] }>;
  readonly "block-dirty-bitmap-add": Command<{
    readonly node: string;
    readonly name: string;
    readonly granularity?: number;
    readonly persistent?: boolean;
    readonly disabled?: boolean;
  }>;
  readonly "block-dirty-bitmap-clear": Command<{ readonly node: string; readonly name: string }>;
  readonly "block-dirty-bitmap-remove": Command<{ readonly node: string; readonly name: string }>;
  readonly "object-add": Command<{
    readonly "qom-type": string;
    readonly id: string;
    readonly [option: string]: unknown;
  }>;
  readonly "object-del": Command<{ readonly id: string }>;
  readonly "qom-list": Command<{ readonly path: string }, readonly ObjectProperty[]>;
  readonly "qom-get": Command<{ readonly path: string; readonly property: string }, unknown>;
  readonly "qom-set": Command<{ readonly path: string; readonly property: string; readonly value: unknown }>;
};
export type QmpCommandName = keyof QmpCommands;

/** One command of a batch. */
export type QmpRequest = {
  readonly [Name in QmpCommandName]: { readonly command: Name; readonly args: QmpCommands[Name]["args"] };
}[QmpCommandName];
