/**
 * Assignments from the GuestPairs of the cluster (api/guest-pair.ts): those that have this node for a side.
 *
 * The last good version of each is kept in the run directory (.pairs.json, {version: 1, pairs}): an agent that starts while the
 * API server is away works with those. It waits for a first list before it does, for what was kept may be of yesterday, and
 * an engine for a pair that is gone would hold the output of a guest that is nobody's any more.
 *
 * A pair that cannot be used is told of and disturbs no other: while its last good version is known, that one counts.
 */
import { join } from "node:path";
import { parseGuestPair } from "../api/guest-pair.ts";
import { listAssignmentProblems } from "../decide/assignment-change.ts";
import { type GuestWish, type PlannedGuest, planPair } from "../decide/pair-assignment.ts";
import { type Log } from "../telemetry/log.ts";
import { type AssignmentListener, type AssignmentSource } from "./assignment-source.ts";
import { readStateFile, writeStateFile } from "./state-file.ts";

/** What is needed of a watch over the GuestPairs of the operator's namespace. */
export interface PairWatch {
  /** Calls back when the first whole list is there, and after every change from then on. */
  start(onChanged: () => void): void;
  /** The objects as they came, once the first whole list is there. */
  list(): readonly unknown[] | undefined;
  close(): void;
}

export type PairAssignmentSourceOptions = {
  readonly watch: PairWatch;
  readonly node: string;
  readonly runDirectory: string;
  readonly log: Log;
};

const KEPT_VERSION = 1;
const WAIT_FOR_LIST_MS = 3_000;

type PairMetadata = {
  readonly namespace?: string;
  readonly name?: string;
  readonly generation?: number;
  readonly annotations?: Readonly<Record<string, string>>;
};
type RawPair = {
  readonly metadata?: PairMetadata;
  readonly status?: { readonly sides?: readonly { readonly term?: number }[] };
};
/** One pair as it counts now; `raw` is what it was made from. */
type GoodPair = PlannedGuest & { readonly key: string; readonly raw: unknown };

export class PairAssignmentSource implements AssignmentSource {
  /** Called with the wishes of all guests whenever assignments were given, before they are. */
  onWishes: (wishes: readonly GuestWish[]) => void = () => undefined;

  readonly #options: PairAssignmentSourceOptions;
  readonly #keptPath: string;
  #listener: AssignmentListener | undefined;
  #timer: NodeJS.Timeout | undefined;
  #good = new Map<string, GoodPair>();
  #problem: string | undefined;
  #hasList = false;
  /** What was given last, to tell a change from a report that came by. */
  #told: string | undefined;

  constructor(options: PairAssignmentSourceOptions) {
    this.#options = options;
    this.#keptPath = join(options.runDirectory, ".pairs.json");
  }

  watch(listener: AssignmentListener): void {
    this.#listener = listener;
    const kept = readStateFile(this.#keptPath) as { version?: unknown; pairs?: unknown } | undefined;
    const pairs = kept?.version === KEPT_VERSION && Array.isArray(kept.pairs) ? (kept.pairs as unknown[]) : undefined;
    if (pairs !== undefined) {
      this.#read(pairs); // Known from now on, for a pair of the list that cannot be used; told only later.
      this.#timer = setTimeout(() => {
        if (!this.#hasList) {
          this.#options.log.warn({}, "the API server does not answer; the pairs of the last time count");
          this.#tell();
        }
      }, WAIT_FOR_LIST_MS);
    }
    this.#options.watch.start(() => {
      this.#takeList();
    });
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#listener = undefined;
    this.#options.watch.close();
  }

  #takeList(): void {
    const list = this.#options.watch.list();
    if (list === undefined || this.#listener === undefined) {
      return;
    }
    this.#hasList = true;
    clearTimeout(this.#timer);
    const problems = this.#read(list);
    const problem = problems.length === 0 ? undefined : problems.join("\n");
    if (problem !== this.#problem) {
      this.#problem = problem;
      this.#listener.onProblem(problem);
    }
    const good = [...this.#good.values()];
    const told = JSON.stringify(good);
    if (told !== this.#told) {
      this.#told = told;
      writeStateFile(this.#keptPath, { version: KEPT_VERSION, pairs: good.map(({ raw }) => raw) });
      this.#tell();
    }
  }

  #tell(): void {
    const planned = [...this.#good.values()];
    this.onWishes(planned.map(({ wish }) => wish));
    this.#listener?.onAssignments(planned.map(({ assignment }) => assignment));
  }

  /** Takes over what can be used; returns what cannot. */
  #read(list: readonly unknown[]): readonly string[] {
    const problems: string[] = [];
    const next = new Map<string, GoodPair>();
    for (const raw of list) {
      const key = keyOf(raw);
      const known = this.#good.get(key);
      try {
        const pair = known !== undefined && isUnchanged(known.raw, raw) ? known : this.#plan(key, raw);
        if (pair !== undefined) {
          refuseTaken(pair, next);
          next.set(key, pair);
        }
      } catch (error) {
        const before = this.#good.get(key);
        const until = before === undefined ? "" : "; until then its last good version counts";
        problems.push(`${error instanceof Error ? error.message : String(error)}${until}`);
        if (known !== undefined) {
          next.set(key, known);
        }
      }
    }
    this.#good = next;
    return problems;
  }

  #plan(key: string, raw: unknown): GoodPair | undefined {
    const { node } = this.#options;
    const pair = parseGuestPair(raw, `GuestPair ${key}`);
    const { namespace = "", name = "", generation = 0, annotations = {} } = (raw as RawPair).metadata ?? {};
    const planned = planPair(pair, { object: { namespace, name, generation }, annotations }, node);
    if (planned === undefined) {
      return undefined;
    }
    const problems = listAssignmentProblems([planned.assignment], node);
    if (problems.length > 0) {
      throw new Error(`GuestPair ${key} cannot hold here: ${problems.join("; ")}`);
    }
    return {
      ...planned,
      key,
      raw: {
        ...(raw as object),
        metadata: { namespace, name, generation, annotations },
      },
    };
  }
}

function keyOf(raw: unknown): string {
  const { namespace = "", name = "" } = (raw as RawPair | null)?.metadata ?? {};
  return `${namespace}/${name}`;
}

/** The generation counts the versions of the spec; annotations, and whether there is a record, have no such count. */
function isUnchanged(known: unknown, raw: unknown): boolean {
  const [one, other] = [known, raw].map((pair) => (pair as RawPair).metadata ?? {});
  return (
    one?.generation !== undefined &&
    one.generation === other?.generation &&
    JSON.stringify(one.annotations ?? {}) === JSON.stringify(other.annotations ?? {}) &&
    hasTerm(known) === hasTerm(raw)
  );
}

const hasTerm = (pair: unknown): boolean => (pair as RawPair).status?.sides?.some(({ term = 0 }) => term > 0) === true;

/** The first one keeps what two want: the other one would take its connections, or its place in the quorum. */
function refuseTaken({ key, assignment }: GoodPair, taken: ReadonlyMap<string, GoodPair>): void {
  for (const other of taken.values()) {
    if (other.assignment.guest === assignment.guest || other.assignment.port === assignment.port) {
      const what = other.assignment.guest === assignment.guest ? "guest" : "port";
      throw new Error(`GuestPair ${key} has the ${what} of ${other.key}: give it another one`);
    }
  }
}
