/**
 * Assignments from a YAML or JSON file (api/assignment-file.ts), read again whenever it changes.
 *
 * The directory is watched, not the file: editors and Kubernetes put a new file in its place. A look every 5 s catches what
 * the watch misses (network file systems, a directory that comes later).
 *
 * A file that is missing or wrong changes nothing: the last good set goes on to count, also over a restart of the agent,
 * for it is kept as .assignments.json in the run directory. Guests must not be killed by a slip of the keyboard; to
 * remove every guest the file has to say `guests: []`.
 */
import { readFileSync, watch, type FSWatcher } from "node:fs";
import { basename, dirname, join } from "node:path";
import { parse } from "yaml";
import { type AssignmentFile, parseAssignments } from "../api/assignment-file.ts";
import { listAssignmentProblems } from "../decide/assignment-change.ts";
import { type GuestAssignment } from "../protocol/assignment.ts";
import { type AssignmentListener, type AssignmentSource } from "./assignment-source.ts";
import { readStateFile, writeStateFile } from "./state-file.ts";

export type FileAssignmentSourceOptions = {
  readonly path: string;
  readonly node: string;
  readonly runDirectory: string;
};

const LOOK_MS = 5_000;
/** A writer that is no atomic renamer makes several changes in a row. */
const SETTLE_MS = 20;

export class FileAssignmentSource implements AssignmentSource {
  readonly #options: FileAssignmentSourceOptions;
  readonly #lastGoodPath: string;
  #listener: AssignmentListener | undefined;
  #watcher: FSWatcher | undefined;
  #lookTimer: NodeJS.Timeout | undefined;
  #settleTimer: NodeJS.Timeout | undefined;
  /** What was read last, or why it could not be read: nothing is parsed or reported twice. */
  #lastSeen: string | undefined;

  constructor(options: FileAssignmentSourceOptions) {
    this.#options = options;
    this.#lastGoodPath = join(options.runDirectory, ".assignments.json");
  }

  watch(listener: AssignmentListener): void {
    this.#listener = listener;
    this.#openWatcher();
    this.#lookTimer = setInterval(() => {
      this.#openWatcher();
      this.#look();
    }, LOOK_MS);
    if (!this.#look()) {
      this.#useLastGood(listener);
    }
  }

  close(): void {
    this.#watcher?.close();
    clearInterval(this.#lookTimer);
    clearTimeout(this.#settleTimer);
    this.#listener = undefined;
  }

  /** False when the file as it stands cannot be used. */
  #look(): boolean {
    const text = this.#readText();
    const seen = text instanceof Error ? `error ${text.message}` : `text ${text}`;
    if (seen === this.#lastSeen) {
      return true;
    }
    this.#lastSeen = seen;
    const guests = text instanceof Error ? text : this.#parse(text);
    if (guests instanceof Error) {
      this.#listener?.onProblem(`${guests.message}\nUntil then the last good assignments count.`);
      return false;
    }
    writeStateFile(this.#lastGoodPath, { guests });
    this.#listener?.onProblem(undefined);
    this.#listener?.onAssignments(guests.map(assignmentOf));
    return true;
  }

  #readText(): string | Error {
    try {
      return readFileSync(this.#options.path, "utf8");
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return new Error(`cannot read the assignments (${reason}): put the file there, with "guests: []" for none`);
    }
  }

  #parse(text: string): AssignmentFile["guests"] | Error {
    const { path, node } = this.#options;
    try {
      const guests = parseAssignments(parse(text), path);
      const problems = listAssignmentProblems(guests, node);
      return problems.length === 0 ? guests : new Error(`${path} cannot hold here:\n  ${problems.join("\n  ")}`);
    } catch (error) {
      const isSyntax = error instanceof Error && error.name === "YAMLParseError";
      return isSyntax ? new Error(`${path} is not YAML: ${error.message}`) : (error as Error);
    }
  }

  #useLastGood(listener: AssignmentListener): void {
    const kept = readStateFile(this.#lastGoodPath);
    const guests = kept === undefined ? undefined : this.#parse(JSON.stringify(kept));
    if (guests !== undefined && !(guests instanceof Error)) {
      listener.onAssignments(guests.map(assignmentOf));
    }
  }

  #openWatcher(): void {
    if (this.#watcher !== undefined) {
      return;
    }
    try {
      this.#watcher = watch(dirname(this.#options.path), { persistent: false }, (_, name) => {
        // Kubernetes swaps a symlink named ..data beside the file.
        if (name === null || name === basename(this.#options.path) || name.startsWith("..")) {
          this.#settle();
        }
      });
      this.#watcher.on("error", () => {
        this.#watcher?.close();
        this.#watcher = undefined;
      });
    } catch {
      this.#watcher = undefined; // The directory is not there yet: the timer looks again.
    }
  }

  #settle(): void {
    clearTimeout(this.#settleTimer);
    this.#settleTimer = setTimeout(() => {
      this.#look();
    }, SETTLE_MS);
  }
}

function assignmentOf(guest: AssignmentFile["guests"][number]): GuestAssignment {
  return { ...guest, qemu: { tag: "local", ...guest.qemu } };
}
