/**
 * Breadth-first exploration of every world that can be reached, to the end.
 *
 * Worlds are told apart by a 64-bit hash of their encoding: with a million worlds the chance that any two of them fall
 * together is below 1 in 30 million. Only hashes, predecessors and fair moves are kept; worlds live as long as they wait to
 * be explored. A shortest path to a violation is made anew from the predecessors.
 *
 * Afterwards, backwards over the fair moves alone: from every world the pair must be able to become protected again without
 * another fault. A world from which it cannot is a deadlock.
 */
import { checkWorld, type Rules, Violation } from "./shell.ts";
import { type Fault, listMoves, makeMove } from "./moves.ts";
import { type Fingerprint, fingerprintWorld } from "./fingerprint.ts";
import { NODES, type World } from "./world.ts";

export type Exploration = {
  readonly start: World;
  readonly faults: ReadonlySet<Fault>;
  readonly rules: Rules;
  readonly worldsMax: number;
  /** False where no fault that is explored may cost a guest its memory. */
  readonly mayBootCold: boolean;
};

export type Finding = { readonly says: string; readonly trace: readonly string[] };

export type Explored = {
  readonly worldsCount: number;
  readonly movesCount: number;
  readonly depth: number;
  readonly isComplete: boolean;
  readonly protectedCount: number;
  /** Moves in which a guest was booted from its disks, its memory being lost. */
  readonly coldBootsCount: number;
  readonly violation: Finding | undefined;
  readonly deadlock: Finding | undefined;
};

/** Growing arrays of numbers: plain ones cost eight times as much. */
class Numbers {
  #items = new Int32Array(1 << 16);
  length = 0;

  push(item: number): void {
    if (this.length === this.#items.length) {
      const grown = new Int32Array(this.#items.length * 2);
      grown.set(this.#items);
      this.#items = grown;
    }
    this.#items[this.length] = item;
    this.length += 1;
  }

  at(index: number): number {
    return this.#items[index] ?? -1;
  }
}

/** Number of a world by the 64-bit hash of its encoding. */
class WorldNumbers {
  #slots = new Int32Array(1 << 18).fill(-1);
  #low = new Numbers();
  #high = new Numbers();

  get size(): number {
    return this.#low.length;
  }

  /** The number of the world, and whether it is new. */
  add({ low, high }: Fingerprint): { readonly number: number; readonly isNew: boolean } {
    let slot = (low ^ high) & (this.#slots.length - 1);
    for (;;) {
      const number = this.#slots[slot] ?? -1;
      if (number === -1) {
        return { number: this.#insert(slot, low, high), isNew: true };
      }
      if (this.#low.at(number) === low && this.#high.at(number) === high) {
        return { number, isNew: false };
      }
      slot = (slot + 1) & (this.#slots.length - 1);
    }
  }

  #insert(slot: number, low: number, high: number): number {
    const number = this.size;
    this.#low.push(low);
    this.#high.push(high);
    this.#slots[slot] = number;
    if (number * 2 > this.#slots.length) {
      this.#grow();
    }
    return number;
  }

  #grow(): void {
    const slots = new Int32Array(this.#slots.length * 2).fill(-1);
    for (let number = 0; number < this.size; number += 1) {
      let slot = (this.#low.at(number) ^ this.#high.at(number)) & (slots.length - 1);
      while (slots[slot] !== -1) {
        slot = (slot + 1) & (slots.length - 1);
      }
      slots[slot] = number;
    }
    this.#slots = slots;
  }
}

/** Everybody is where they should be: the guest runs, seen as its mode has it, and its standby holds all of it. */
export function isProtected({ hosts, record, mode }: World): boolean {
  const owner = record?.owner === NODES[0] ? 0 : 1;
  const primary = hosts[owner];
  const standby = hosts[owner === 0 ? 1 : 0];
  const state = primary.engine?.side.state;
  return (
    record?.peerState === "InSync" &&
    state?.tag === "protected" &&
    state.mode === mode &&
    primary.guest?.mode === "running" &&
    primary.guest.gate === (mode === "FaultTolerant" ? "held" : "leased") &&
    standby.engine?.side.state.tag === "holding" &&
    standby.engine.side.state.link !== null &&
    standby.guest?.holds !== undefined &&
    standby.guest.holds !== null
  );
}

/** Where it may end: protected, or the guest switched itself off. */
function isGoal(world: World): boolean {
  return isProtected(world) || world.hosts.some(({ resting }) => resting);
}

export function explore(options: Exploration): Explored {
  return new Search(options).run();
}

class Search {
  readonly #options: Exploration;
  readonly #numbers = new WorldNumbers();
  readonly #parents = new Numbers();
  readonly #fairFrom = new Numbers();
  readonly #fairTo = new Numbers();
  readonly #goals = new Numbers();
  #movesCount = 0;
  #coldBootsCount = 0;
  #depth = 0;

  constructor(options: Exploration) {
    this.#options = options;
  }

  run(): Explored {
    const { start, worldsMax } = this.#options;
    this.#number(start, -1);
    let level: World[] = [start];
    let from = 0;
    let violation: Finding | undefined;
    let isCut = false;
    while (level.length > 0 && violation === undefined && !isCut) {
      const next: World[] = [];
      for (const world of level) {
        violation = this.#expand(world, from, next);
        from += 1;
        isCut = this.#numbers.size > worldsMax;
        if (violation !== undefined || isCut) {
          break;
        }
      }
      level = next;
      this.#depth += Number(level.length > 0);
    }
    const isComplete = violation === undefined && !isCut;
    return {
      worldsCount: this.#numbers.size,
      movesCount: this.#movesCount,
      depth: this.#depth,
      isComplete,
      protectedCount: this.#goals.length,
      coldBootsCount: this.#coldBootsCount,
      violation,
      deadlock: isComplete ? this.#findDeadlock() : undefined,
    };
  }

  #expand(world: World, from: number, next: World[]): Finding | undefined {
    const { faults, rules } = this.#options;
    for (const move of listMoves(world, faults)) {
      let after: World;
      try {
        after = makeMove(world, move, rules);
        checkWorld(after);
        this.#checkMemory(world, after);
      } catch (error) {
        if (error instanceof Violation) {
          return { says: error.message, trace: [...this.#trace(from), move.says] };
        }
        process.stderr.write([...this.#trace(from), move.says].join("\n"));
        throw error;
      }
      this.#movesCount += 1;
      this.#coldBootsCount += after.coldBoots - world.coldBoots;
      const { number, isNew } = this.#number(after, from);
      if (move.isFair) {
        this.#fairFrom.push(from);
        this.#fairTo.push(number);
      }
      if (isNew) {
        next.push(after);
      }
    }
    return undefined;
  }

  #checkMemory(before: World, after: World): void {
    if (after.coldBoots > before.coldBoots && !this.#options.mayBootCold) {
      throw new Violation("a guest is booted from its disks, its memory is lost");
    }
  }

  #number(world: World, parent: number): { readonly number: number; readonly isNew: boolean } {
    const result = this.#numbers.add(fingerprintWorld(world));
    if (result.isNew) {
      this.#parents.push(parent);
      if (isGoal(world)) {
        this.#goals.push(result.number);
      }
    }
    return result;
  }

  /** What happened on the shortest way to a world: the way is made again, for only its numbers were kept. */
  #trace(to: number): string[] {
    const path: number[] = [];
    for (let number = to; number > 0; number = this.#parents.at(number)) {
      path.unshift(number);
    }
    const { faults, rules } = this.#options;
    let world = this.#options.start;
    return path.map((wanted) => {
      for (const move of listMoves(world, faults)) {
        const after = makeMove(world, move, rules);
        if (this.#numbers.add(fingerprintWorld(after)).number === wanted) {
          world = after;
          return `${move.says}   [${describe(after)}]`;
        }
      }
      throw new Error("a path cannot be made again: the model is not deterministic");
    });
  }

  #findDeadlock(): Finding | undefined {
    const count = this.#numbers.size;
    const edges = this.#fairFrom.length;
    // Predecessors over fair moves, grouped by target.
    const starts = new Int32Array(count + 1);
    for (let edge = 0; edge < edges; edge += 1) {
      const to = this.#fairTo.at(edge) + 1;
      starts[to] = (starts[to] ?? 0) + 1;
    }
    for (let number = 0; number < count; number += 1) {
      starts[number + 1] = (starts[number + 1] ?? 0) + (starts[number] ?? 0);
    }
    const filled = starts.slice();
    const before = new Int32Array(edges);
    for (let edge = 0; edge < edges; edge += 1) {
      const to = this.#fairTo.at(edge);
      const place = filled[to] ?? 0;
      before[place] = this.#fairFrom.at(edge);
      filled[to] = place + 1;
    }
    const reaches = new Uint8Array(count);
    const queue = new Numbers();
    for (let index = 0; index < this.#goals.length; index += 1) {
      reaches[this.#goals.at(index)] = 1;
      queue.push(this.#goals.at(index));
    }
    for (let head = 0; head < queue.length; head += 1) {
      const number = queue.at(head);
      for (let edge = starts[number] ?? 0; edge < (starts[number + 1] ?? 0); edge += 1) {
        const parent = before[edge] ?? 0;
        if (reaches[parent] === 0) {
          reaches[parent] = 1;
          queue.push(parent);
        }
      }
    }
    const stuck = reaches.indexOf(0);
    return stuck === -1
      ? undefined
      : {
          says: `from here protection cannot come back (${count - queue.length} such worlds)`,
          trace: this.#trace(stuck),
        };
  }
}

/** A world in a line. */
export function describe({ record, hosts, released }: World): string {
  const sides = hosts.map(({ engine, guest }) => {
    const state = engine === null ? "dead" : engine.side.state.tag;
    const shown = guest === null ? "no QEMU" : `${guest.mode} ${guest.gate} "${guest.past}"`;
    return `${state}, ${guest?.mode === "incoming" ? `holds ${guest.holds?.epoch ?? "nothing"}` : shown}`;
  });
  const quorum =
    record === null ? "no record" : `v${record.version} t${record.term} ${record.owner} ${record.peerState}`;
  return `${quorum}; a ${sides[0] ?? ""}; b ${sides[1] ?? ""}; seen "${released}"`;
}
