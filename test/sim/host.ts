/**
 * A host: power, its disk, the agent with its rules for restarting engines, the QEMU of the guest, the ways to quorum and clients.
 */
import { decideRestart, freshHistory, type RestartHistory } from "../../src/decide/engine-restart.ts";
import { type ExitReason } from "../../src/protocol/side-state.ts";
import { type Cell } from "./history.ts";
import { SimEngine } from "./engine.ts";
import { SimDisk, SimGuest } from "./guest.ts";
import { type NodeName } from "./network.ts";
import { type World } from "./world.ts";

export class SimHost {
  readonly node: NodeName;
  readonly disk = new SimDisk();
  readonly quorumPath = { to: true, from: true };
  readonly clientPath = { to: true, from: true };
  /** How long a second of this host's clock takes. */
  readonly clockRate: number;
  readonly trace: string[] | undefined;
  isOn = true;
  isAgentUp = false;
  /** Extra time for a write. */
  slowDiskMs = 0;
  engine: SimEngine | undefined;
  guest: SimGuest | undefined;
  /** The guest switched itself off: nothing starts by itself. */
  isAtRest = false;
  readonly #world: World;
  #isDraining = false;
  #history: RestartHistory = freshHistory;
  /** Counts lives of the agent; what an earlier one planned is void. */
  #agentLife = 0;
  #writes: (readonly [number, Cell])[] = [];
  #isWriting = false;
  #whenSettled: (() => void)[] = [];
  #writeRound = 0;

  constructor(world: World, node: NodeName) {
    this.#world = world;
    this.node = node;
    this.clockRate = 0.95 + 0.1 * world.random.fraction();
    this.trace = world.keepsTraces ? [] : undefined;
  }

  // Agent and engine.

  startAgent(): void {
    if (this.isOn && !this.isAgentUp) {
      this.isAgentUp = true;
      this.#agentLife += 1;
      this.#startEngine(0);
    }
  }

  #startEngine(afterMs: number): void {
    const life = this.#agentLife;
    this.#world.clock.after(afterMs + 20 + this.#world.random.below(80), () => {
      if (this.isAgentUp && life === this.#agentLife && this.engine === undefined && !this.isAtRest) {
        this.engine = new SimEngine(this.#world, this, this.guest);
        this.engine.start();
      }
    });
  }

  killEngine(): void {
    const { engine } = this;
    if (engine !== undefined) {
      engine.kill();
      this.whenEngineEnded(engine, undefined);
    }
  }

  whenEngineEnded(engine: SimEngine, reason: ExitReason | undefined): void {
    if (this.engine !== engine) {
      return;
    }
    this.engine = undefined;
    if (!this.isAgentUp) {
      return;
    }
    if (reason === "fenced" || reason === "ended") {
      this.killGuest();
    }
    if (this.#isDraining) {
      this.killAgent();
      return;
    }
    const livedMs = this.#world.clock.nowMs - engine.startedMs;
    const decision = decideRestart({ reason, livedMs }, this.#history);
    if (decision.tag === "rest") {
      this.isAtRest = true;
      return;
    }
    this.#history = decision.history;
    this.#startEngine(decision.afterMs);
  }

  /** The agent is asked to stop: its engine hands over if it can, and the agent leaves. */
  drain(downMs: number): void {
    const { engine } = this;
    if (!this.isAgentUp || engine === undefined) {
      return;
    }
    this.#isDraining = true;
    const life = this.#agentLife;
    engine.enter(() => {
      engine.post({ tag: "stopAsked" });
    });
    this.#world.clock.after(3_000, () => {
      if (life === this.#agentLife) {
        this.killAgent();
      }
    });
    this.#world.clock.after(3_000 + downMs, () => {
      this.startAgent();
    });
  }

  /** The engine ends with its agent; QEMU stays. */
  killAgent(): void {
    this.isAgentUp = false;
    this.#isDraining = false;
    this.#agentLife += 1;
    this.killEngine();
  }

  powerOff(): void {
    this.isOn = false;
    this.#isDraining = false;
    this.isAgentUp = false;
    this.#agentLife += 1;
    this.engine?.vanish();
    this.engine = undefined;
    this.guest?.kill();
    this.guest = undefined;
    this.dropWrites();
    const isTorn = !this.disk.isSynced;
    this.disk.losePower(() => this.#world.random.chance(0.5));
    if (isTorn) {
      this.#world.checks.noteTornDisk(this.node);
    }
  }

  powerOn(): void {
    this.isOn = true;
    this.#world.clock.after(100 + this.#world.random.below(400), () => {
      this.startAgent();
    });
  }

  // QEMU.

  provideGuest(engine: SimEngine, as: "primary" | "standby"): void {
    this.#world.clock.after(50 + this.#world.random.below(300), () => {
      if (this.engine !== engine || !this.isAgentUp) {
        return;
      }
      this.guest?.kill();
      this.guest = new SimGuest(this.#world, this, as);
      if (as === "primary") {
        this.guest.term = this.#world.quorum.record?.term ?? 0;
        this.#world.checks.noteStart(this, this.guest, "boot");
      }
      const { guest } = this;
      engine.enter(() => {
        engine.takeGuest(guest);
      });
    });
  }

  killGuest(): void {
    const { guest } = this;
    this.guest = undefined;
    if (guest?.isAlive === true) {
      guest.kill();
      // pidfd: the engine sees it within a moment.
      this.#world.clock.after(this.#world.random.fraction() * 3, () => {
        this.engine?.enter(() => {
          this.engine?.noteGuestDeath(guest);
        });
      });
    }
  }

  // Disk.

  diskDelayMs(): number {
    return this.slowDiskMs > 0 ? this.#world.random.below(this.slowDiskMs) : 0;
  }

  /** The standby's writes: in order, each in its time; durable only after a sync. */
  writeLater(block: number, cell: Cell): void {
    this.#writes.push([block, cell]);
    this.#writeNext();
  }

  #writeNext(): void {
    if (this.#isWriting) {
      return;
    }
    this.#isWriting = true;
    const round = this.#writeRound;
    this.#world.clock.after(0.2 + this.diskDelayMs(), () => {
      if (round !== this.#writeRound) {
        return;
      }
      this.#isWriting = false;
      for (const [block, cell] of this.#writes.splice(0, 64)) {
        this.disk.write(block, cell, false);
      }
      if (this.#writes.length > 0) {
        this.#writeNext();
      } else {
        this.#whenSettled.splice(0).forEach((run) => {
          run();
        });
      }
    });
  }

  /** What the disk will hold once everything given has been written. */
  diskToBe(): readonly Cell[] {
    const cells = [...this.disk.cells];
    this.#writes.forEach(([block, cell]) => {
      cells[block] = cell;
    });
    return cells;
  }

  settle(run: () => void): void {
    if (this.#writes.length === 0) {
      run();
    } else {
      this.#whenSettled.push(run);
    }
  }

  /** What an engine had not written yet dies with it. */
  dropWrites(): void {
    if (this.#writes.length > 0) {
      this.#world.checks.noteTornDisk(this.node);
    }
    this.#writes = [];
    this.#isWriting = false;
    this.#whenSettled = [];
    this.#writeRound += 1;
  }

  syncLater(): void {
    const { guest } = this;
    this.#world.clock.after(20 + this.diskDelayMs(), () => {
      if (this.guest === guest && this.isOn) {
        this.disk.sync();
      }
    });
  }
}
