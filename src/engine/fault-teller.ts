/** Tells the agent of faults for its records, each no more often than it takes to write them down. */
import { type EngineMessage } from "../protocol/assignment.ts";
import { type Fault, type Repair } from "../protocol/faults.ts";
import { monotonicMs } from "../telemetry/clock.ts";

/** The same fault is told once in this time, however often it is met. */
const TELL_AGAIN_MS = 1_000;

export class FaultTeller {
  readonly #sendToAgent: (message: EngineMessage) => void;
  /** When each fault was told last. */
  readonly #toldAtMs = new Map<string, number>();

  constructor(sendToAgent: (message: EngineMessage) => void) {
    this.#sendToAgent = sendToAgent;
  }

  /** Its end is told where the catalogue of faults wants that. */
  tell(fault: Fault): void {
    const key = `${fault.component} ${fault.code}`;
    const nowMs = monotonicMs();
    if (nowMs - (this.#toldAtMs.get(key) ?? -Infinity) >= TELL_AGAIN_MS) {
      this.#toldAtMs.set(key, nowMs);
      this.#sendToAgent({ tag: "fault", ...fault });
    }
  }

  tellRepaired(repair: Repair): void {
    this.#sendToAgent({ tag: "repaired", ...repair });
  }
}
