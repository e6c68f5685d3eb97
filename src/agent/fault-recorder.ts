/**
 * The fault records of the guests of one node. They outlive the agent, as faults.json in a guest's run directory; what they say
 * beyond the life of the host is for the cluster to keep.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseSeenFault } from "../api/fault.ts";
import { type FaultEffect, type FaultEvent, type FaultRecord, listRepairs, stepFaults } from "../decide/fault-log.ts";
import { type EngineReport } from "../protocol/assignment.ts";
import { type Log } from "../telemetry/log.ts";
import { readStateFile, removeStateFile, writeStateFile } from "./state-file.ts";

export type FaultRecorderOptions = {
  readonly node: string;
  readonly runDirectory: string;
  /** The records of the guest read differently. */
  readonly onChanged: (guest: string, effects: readonly FaultEffect[]) => void;
  readonly log: Log;
};

const VERSION = 1;

export class FaultRecorder {
  readonly #options: FaultRecorderOptions;
  readonly #records = new Map<string, readonly FaultRecord[]>();

  constructor(options: FaultRecorderOptions) {
    this.#options = options;
  }

  /** The one that changed last first. */
  read(guest: string): readonly FaultRecord[] {
    const known = this.#records.get(guest);
    if (known !== undefined) {
      return known;
    }
    const kept = readStateFile(this.#pathOf(guest)) as { version?: unknown; records?: unknown } | undefined;
    const records = kept?.version === VERSION && Array.isArray(kept.records) ? kept.records : [];
    const readable = records.map(parseSeenFault).filter((record) => record !== undefined);
    this.#records.set(guest, readable);
    return readable;
  }

  note(guest: string, event: FaultEvent): void {
    const { records, effects } = stepFaults(this.read(guest), event, Date.now());
    if (effects.length === 0) {
      return;
    }
    this.#records.set(guest, records);
    mkdirSync(join(this.#options.runDirectory, guest), { recursive: true, mode: 0o700 });
    writeStateFile(this.#pathOf(guest), { version: VERSION, records });
    for (const { tag, record } of effects) {
      const { node, component, code, message, count } = record;
      const says = tag === "backInService" ? `${component} of ${node} is in service again` : message;
      this.#options.log[tag === "outOfService" ? "warn" : "info"]({ guest, node, component, code, count }, says);
    }
    this.#options.onChanged(guest, effects);
  }

  /** To be called with every report: it may show that something works again. */
  reported(guest: string, report: EngineReport): void {
    const { node } = this.#options;
    for (const event of listRepairs(this.read(guest), { node, report, nowMs: Date.now() })) {
      this.note(guest, event);
    }
  }

  /** The guest has nothing to do with this node any more. */
  forget(guest: string): void {
    this.#records.delete(guest);
    removeStateFile(this.#pathOf(guest));
  }

  #pathOf(guest: string): string {
    return join(this.#options.runDirectory, guest, "faults.json");
  }
}
