/** The gate of what the guest sends, as the machine wants it. */
import { unreachable } from "../lib/assert.ts";
import { type Effect } from "../protocol/side-state.ts";
import { type OutputGate } from "../memory/output-gate.ts";

export type OutputEffect = Extract<Effect, { tag: "openOutput" | "holdOutput" | "leaseOutput" | "discardOutput" }>;

export class GuestOutput {
  readonly #gate: () => OutputGate | undefined;
  readonly #leaseMs: () => number;
  /** The peer was there after this moment. */
  #heardSinceMs = -Infinity;

  /** `gate` of the guest of the moment; `leaseMs` as the timing of the moment has it. */
  constructor(gate: () => OutputGate | undefined, leaseMs: () => number) {
    this.#gate = gate;
    this.#leaseMs = leaseMs;
  }

  perform(effect: OutputEffect): void {
    const gate = this.#gate();
    switch (effect.tag) {
      case "openOutput":
        gate?.openAndRelease();
        return;
      case "holdOutput":
        this.hold();
        return;
      case "leaseOutput":
        gate?.lease(this.#leasedUntilMs);
        return;
      case "discardOutput":
        gate?.setMode("closed");
        gate?.discard();
        return;
      default:
        unreachable(effect);
    }
  }

  hold(): void {
    const gate = this.#gate();
    if (gate !== undefined && gate.mode !== "closed") {
      gate.setMode("held");
    }
  }

  /** The peer has echoed what was sent at `sinceMs`. */
  renewLease(sinceMs: number): void {
    this.#heardSinceMs = Math.max(this.#heardSinceMs, sinceMs);
    const gate = this.#gate();
    if (gate?.mode === "leased") {
      gate.lease(this.#leasedUntilMs);
    }
  }

  get #leasedUntilMs(): number {
    return this.#heardSinceMs + this.#leaseMs();
  }
}
