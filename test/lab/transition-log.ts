/**
 * What the engines of a host went through, read from the agent's log: the lines it writes for each change of state, with the
 * time at which the agent heard of it.
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
  if (!line.includes('"from":') || !line.includes('"to":') || !line.includes('"role":')) {
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
