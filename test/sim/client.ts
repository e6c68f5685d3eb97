/**
 * A client outside: sends numbered requests, up to a few ahead, again when no reply comes, and takes replies in order. Its
 * network loses, repeats, delays and reorders.
 */
import { type Packet } from "./guest.ts";
import { type History } from "./history.ts";
import { type NodeName } from "./network.ts";
import { type World } from "./world.ts";

const WINDOW = 3;
const RETRANSMIT_MS = 200;
/** Detection takes up to 2.2 s in some runs, a lost packet is sent again after up to 1.5 s. */
const OUTAGE_MS_MAX = 6_000;

export class SimClient {
  /** Replies taken, in order, each once. */
  taken = 0;
  /** The longest time without a new reply around a fault that struck a protected pair alone. */
  outageMs = 0;
  #progressMs = 0;
  #sent = 0;
  readonly #world: World;
  readonly #replies = new Map<number, History>();

  constructor(world: World) {
    this.#world = world;
  }

  start(): void {
    this.#send();
    this.#watch(0, RETRANSMIT_MS);
  }

  #send(): void {
    const { clock, random } = this.#world;
    clock.after(15 + random.below(80), () => {
      if (this.#sent < this.taken + WINDOW) {
        this.#sent += 1;
        this.#transmit(this.#sent);
      }
      this.#send();
    });
  }

  /** Without progress for a while everything that is unanswered goes out again, as TCP does it. */
  #watch(takenBefore: number, waitMs: number): void {
    this.#world.clock.after(waitMs, () => {
      if (this.taken === takenBefore) {
        for (let request = this.taken + 1; request <= this.#sent; request += 1) {
          this.#transmit(request);
        }
      }
      const nextMs = this.taken === takenBefore ? Math.min(1_500, waitMs * 1.5) : RETRANSMIT_MS;
      this.#watch(this.taken, nextMs);
    });
  }

  #transmit(request: number): void {
    const { hosts, clock, random } = this.#world;
    for (const host of [hosts.a, hosts.b]) {
      if (host.clientPath.to && !random.chance(0.01)) {
        clock.after(0.2 + random.fraction(), () => {
          host.guest?.receive(request);
        });
      }
    }
  }

  /** A packet left a host for the outside. */
  carry(from: NodeName, packet: Packet): void {
    const { hosts, random, clock } = this.#world;
    if (!packet.reply || !hosts[from].clientPath.from || random.chance(0.01)) {
      return;
    }
    const copies = random.chance(0.02) ? 2 : 1;
    for (let copy = 0; copy < copies; copy += 1) {
      clock.after(0.2 + random.fraction() * (random.chance(0.05) ? 50 : 1), () => {
        this.#receive(packet.entry);
      });
    }
  }

  #receive(entry: History): void {
    const known = this.#replies.get(entry.request);
    const { checks } = this.#world;
    checks.expect(
      known === undefined || known === entry || checks.isForgiven(known),
      `the client got two different replies to request ${entry.request}`,
    );
    this.#replies.set(entry.request, entry);
    const before = this.taken;
    while (this.#replies.has(this.taken + 1)) {
      this.taken += 1;
    }
    if (this.taken > before) {
      this.#noteProgress();
    }
  }

  #noteProgress(): void {
    const { clock, faults } = this.#world;
    const sinceMs = this.#progressMs;
    const ms = clock.nowMs - sinceMs;
    this.#progressMs = clock.nowMs;
    if (faults.hasStruckAloneSince(sinceMs) && ms > this.outageMs) {
      this.outageMs = ms;
      this.#world.checks.expect(ms <= OUTAGE_MS_MAX, `one fault kept a client waiting for ${ms.toFixed(0)} ms`);
      this.#world.log(() => `the client waited ${ms.toFixed(0)} ms`);
    }
  }

  /** After a restart from a disk that may lack the newest: what the guest no longer knows is asked again. */
  forgetAfter(request: number): void {
    for (const known of [...this.#replies.keys()]) {
      if (known > request) {
        this.#replies.delete(known);
      }
    }
    this.taken = Math.min(this.taken, request);
  }
}
