/**
 * What the engines of a host went through, read from the log they share with their agent. The agent writes a line of its own
 * for each change of state, when it hears of it; taken are the engine's, which carry the moment itself.
 */
import { closeSync, existsSync, fstatSync, openSync, readSync } from "node:fs";

export type LoggedTransition = {
  readonly guest: string;
  readonly role: string;
  readonly from: string;
  readonly to: string;
  readonly term: number;
  readonly epoch: number;
  readonly cause: string;
  readonly atMs: number;
};

export class TransitionLog {
  readonly #path: string;
  readonly all: LoggedTransition[] = [];
  #offset = 0;
  #rest = "";

  constructor(path: string) {
    this.#path = path;
  }

  /** Reads what was added since the last time; returns the new ones. */
  read(): readonly LoggedTransition[] {
    const lines = (this.#rest + this.#readNew()).split("\n");
    this.#rest = lines.pop() ?? "";
    const added = lines.map(parseTransition).filter((transition) => transition !== undefined);
    this.all.push(...added);
    return added;
  }

  /** The newest change of state of a guest's engine, of those read so far. */
  findLast(guest: string): LoggedTransition | undefined {
    return this.all.findLast((transition) => transition.guest === guest);
  }

  #readNew(): string {
    if (!existsSync(this.#path)) {
      return "";
    }
    const file = openSync(this.#path, "r");
    try {
      const added = Buffer.alloc(Math.max(0, fstatSync(file).size - this.#offset));
      this.#offset += readSync(file, added, 0, added.length, this.#offset);
      return added.toString("utf8");
    } finally {
      closeSync(file);
    }
  }
}

function parseTransition(line: string): LoggedTransition | undefined {
  if (!line.includes('"role":"engine"') || !line.includes('"from":') || !line.includes('"to":')) {
    return undefined;
  }
  try {
    const entry = JSON.parse(line) as Omit<LoggedTransition, "atMs"> & { readonly time: string };
    const { guest, role, from, to, term, epoch, cause, time } = entry;
    return { guest, role, from, to, term, epoch, cause, atMs: Date.parse(time) };
  } catch {
    return undefined; // Another program's line that happens to look like it.
  }
}
