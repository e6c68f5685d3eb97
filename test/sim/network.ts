/**
 * The replication links between the two hosts: connections that keep their order, stall while a way is cut, and break.
 *
 * A connection has two lanes each way, as FrameConnection has: what is urgent may overtake the rest. Loss shows as delay, the
 * way TCP shows it. A process that dies closes its connections; a host that loses power says nothing.
 */
import { type Message } from "../../src/protocol/messages.ts";
import { type LostBy } from "../../src/protocol/side-state.ts";
import { type Cell, type History } from "./history.ts";
import { type Planned } from "./clock.ts";
import { type World } from "./world.ts";

/** Bulk data; `epoch` 0 is applied as it comes. */
export type Data =
  | { readonly tag: "pages"; readonly epoch: number; readonly cells: readonly (readonly [number, Cell])[] }
  | { readonly tag: "diskWrite"; readonly epoch: number; readonly block: number; readonly cell: Cell }
  | {
      readonly tag: "epochEnd";
      readonly epoch: number;
      readonly device: History | undefined;
      readonly pages: number;
      readonly writes: number;
    };

export type Frame =
  | { readonly tag: "message"; readonly message: Message }
  | { readonly tag: "heartbeat"; readonly sequence: number; readonly echo: number }
  | { readonly tag: "data"; readonly data: Data };

export type NodeName = "a" | "b";
export type LinkName = "one" | "two";
export const LINKS: readonly LinkName[] = ["one", "two"];

export function peerOf(node: NodeName): NodeName {
  return node === "a" ? "b" : "a";
}

/** Every direction of a link by itself: `isCut`, and how slow. */
export class Way {
  isCut = false;
  slowMs = 0;
  /** Of the distance between the sites. */
  readonly distanceMs: number;
  /** Chance that a frame is lost on the way and sent again by TCP. */
  loss = 0.002;

  constructor(distanceMs: number) {
    this.distanceMs = distanceMs;
  }
}

/**
 * One end of a connection, as an engine has it. `close` ends it in good order: nothing can be sent any more, and what was sent
 * before still arrives, but frames still come in until the end is done.
 */
export class Endpoint {
  readonly node: NodeName;
  readonly link: LinkName;
  readonly connection: Connection;
  isOpen = true;
  #isClosing = false;
  #take: ((frame: Frame) => void) | undefined;
  #whenClosed: (by: LostBy) => void = () => undefined;
  #early: Frame[] = [];

  constructor(connection: Connection, node: NodeName, link: LinkName) {
    this.connection = connection;
    this.node = node;
    this.link = link;
  }

  /** Frames that came before there was somebody to take them come now. */
  attach(take: (frame: Frame) => void, whenClosed: (by: LostBy) => void): void {
    this.#take = take;
    this.#whenClosed = whenClosed;
    for (const frame of this.#early.splice(0)) {
      take(frame);
    }
    if (!this.isOpen) {
      this.connection.later(0, () => {
        whenClosed("closed");
      });
    }
  }

  send(frame: Frame, isUrgent: boolean): void {
    if (this.isOpen && !this.#isClosing) {
      this.connection.carry(this.node, frame, isUrgent);
    }
  }

  close(finishMs: number): void {
    if (this.isOpen && !this.#isClosing) {
      this.#isClosing = true;
      this.connection.carryEnd(this.node);
      this.connection.later(finishMs, () => {
        this.end("closed");
      });
    }
  }

  /** The process threw it away or died: the kernel tells the other end. */
  destroy(): void {
    if (this.isOpen) {
      this.isOpen = false;
      if (!this.#isClosing) {
        this.connection.carryEnd(this.node);
      }
    }
  }

  /** Its owner gives it up and hears of it at once. */
  abandon(by: LostBy): void {
    if (this.isOpen) {
      this.destroy();
      this.#whenClosed(by);
    }
  }

  /** The host is gone: nobody says so. */
  vanish(): void {
    this.isOpen = false;
  }

  receive(frame: Frame): void {
    if (this.#take === undefined) {
      this.#early.push(frame);
    } else {
      this.#take(frame);
    }
  }

  /** It is over, and its owner hears of it. */
  end(by: LostBy): void {
    if (this.isOpen) {
      this.isOpen = false;
      this.#whenClosed(by);
    }
  }
}

type Lane = { lastMs: number };

export class Connection {
  readonly ends: Readonly<Record<NodeName, Endpoint>>;
  readonly #world: World;
  readonly #link: LinkName;
  readonly #lanes: Record<NodeName, { urgent: Lane; plain: Lane }>;
  readonly #stalled: Record<NodeName, (() => void)[]> = { a: [], b: [] };

  constructor(world: World, link: LinkName) {
    this.#world = world;
    this.#link = link;
    this.ends = { a: new Endpoint(this, "a", link), b: new Endpoint(this, "b", link) };
    const lanes = (): { urgent: Lane; plain: Lane } => ({ urgent: { lastMs: 0 }, plain: { lastMs: 0 } });
    this.#lanes = { a: lanes(), b: lanes() };
  }

  carry(from: NodeName, frame: Frame, isUrgent: boolean): void {
    const lanes = this.#lanes[from];
    const arriveMs = this.#arrivalMs(from, isUrgent ? lanes.urgent : lanes.plain);
    if (!isUrgent) {
      // What is urgent overtakes; what is plain never does.
      lanes.plain.lastMs = Math.max(arriveMs, lanes.urgent.lastMs);
    }
    this.#plan(from, isUrgent ? arriveMs : lanes.plain.lastMs, () => {
      const to = this.ends[peerOf(from)];
      if (to.isOpen) {
        to.receive(frame);
      } else if (this.ends[from].isOpen && this.#world.hosts[to.node].isOn) {
        this.carryEnd(peerOf(from)); // The answer to anything that reaches an end which is no more.
      }
    });
  }

  carryEnd(from: NodeName): void {
    const lanes = this.#lanes[from];
    const arriveMs = Math.max(this.#arrivalMs(from, lanes.plain), lanes.urgent.lastMs);
    this.#plan(from, arriveMs, () => {
      this.ends[peerOf(from)].end("closed");
    });
  }

  later(delayMs: number, run: () => void): void {
    this.#world.clock.after(delayMs, run);
  }

  #arrivalMs(from: NodeName, lane: Lane): number {
    const { random, clock } = this.#world;
    const way = this.#world.way(this.#link, from);
    let ms = way.distanceMs + 0.1 + 0.4 * random.fraction() + (way.slowMs > 0 ? random.below(way.slowMs) : 0);
    while (random.chance(way.loss)) {
      ms += 200;
    }
    lane.lastMs = Math.max(lane.lastMs, clock.nowMs + ms);
    return lane.lastMs;
  }

  #plan(from: NodeName, atMs: number, arrive: () => void): Planned {
    const { clock } = this.#world;
    return clock.after(atMs - clock.nowMs, () => {
      const stalled = this.#stalled[from];
      if (this.#world.way(this.#link, from).isCut || stalled.length > 0) {
        stalled.push(arrive);
        if (stalled.length === 1) {
          this.#awaitHealing(from);
        }
        return;
      }
      arrive();
    });
  }

  /** TCP tries again with growing pauses; then everything comes at once, in order. */
  #awaitHealing(from: NodeName): void {
    this.#world.clock.after(50 + this.#world.random.below(400), () => {
      if (this.#world.way(this.#link, from).isCut) {
        if (this.ends.a.isOpen || this.ends.b.isOpen) {
          this.#awaitHealing(from);
        }
        return;
      }
      const waiting = this.#stalled[from].splice(0);
      waiting.forEach((arrive) => {
        arrive();
      });
    });
  }
}

/** One attempt to reach the other side's listener. */
export function connect(
  world: World,
  from: NodeName,
  link: LinkName,
  whenOver: (endpoint: Endpoint | undefined) => void,
): void {
  const { clock, random } = world;
  const to = peerOf(from);
  const ways = [world.way(link, from), world.way(link, to)];
  const roundMs =
    1 + random.fraction() * 4 + ways.reduce((sum, { slowMs, distanceMs }) => sum + slowMs + distanceMs, 0);
  const timeOut = (): void => {
    clock.after(1_000, () => {
      whenOver(undefined);
    });
  };
  clock.after(roundMs, () => {
    const isCut = world.way(link, from).isCut || world.way(link, to).isCut;
    const { engine, isOn } = world.hosts[to];
    if (isCut || !isOn || !world.hosts[from].isOn) {
      timeOut();
    } else if (engine?.takesLinks !== true) {
      whenOver(undefined);
    } else {
      const connection = new Connection(world, link);
      engine.enter(() => {
        engine.take(link, connection.ends[to]);
      });
      clock.after(random.fraction() * 2, () => {
        whenOver(connection.ends[from]);
      });
    }
  });
}
