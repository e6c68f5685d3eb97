/**
 * The device states of a session at the standby: each made from the one before it in the stream, in memory that goes round.
 *
 * A state is 0.1 to 0.5 MiB and comes up to two hundred times a second; fresh memory for each would keep the garbage
 * collector busy. A state is its owner's alone until it is given back.
 */
import { STATE_MASK_BYTES, type StateDelta, WIRE_BLOCK_BYTES } from "../protocol/frames.ts";

/** As many as a session has under way; more are left to the garbage collector. */
const SPARE_MAX = 6;

export class DeviceStates {
  #newest: Uint8Array | undefined;
  #spare: Uint8Array[] = [];

  /** A whole state. */
  take(bytes: number, data: Uint8Array): Uint8Array {
    const state = this.#allocate(bytes);
    state.set(data);
    this.#newest = state;
    return state;
  }

  /** The newest state with what `delta` changes. Throws when there is none of that length. */
  derive({ rawBytes, masks, data }: StateDelta): Uint8Array {
    const before = this.#newest;
    if (before?.length !== rawBytes) {
      const found = before === undefined ? "none" : `${before.length} bytes`;
      throw new Error(
        `a change of ${rawBytes} bytes of device state, but here is ${found}: both sides must run the same release`,
      );
    }
    const state = this.#allocate(rawBytes);
    state.set(before);
    let from = 0;
    for (const [index, mask] of masks.entries()) {
      for (let block = 0; mask >>> block !== 0 && block < 32; block += 1) {
        if (((mask >>> block) & 1) === 1) {
          const at = index * STATE_MASK_BYTES + block * WIRE_BLOCK_BYTES;
          state.set(data.subarray(from, from + Math.min(WIRE_BLOCK_BYTES, rawBytes - at)), at);
          from += WIRE_BLOCK_BYTES;
        }
      }
    }
    this.#newest = state;
    return state;
  }

  /** What comes next is made from this state; later ones were thrown away. */
  goBackTo(state: Uint8Array | undefined): void {
    this.#newest = state;
  }

  /** Nobody reads this state any more. */
  giveBack(state: Uint8Array | undefined): void {
    if (state !== undefined && state !== this.#newest && this.#spare.length < SPARE_MAX) {
      this.#spare.push(state);
    }
  }

  #allocate(bytes: number): Uint8Array {
    const spare = this.#spare.pop();
    if (spare?.length === bytes) {
      return spare;
    }
    this.#spare = [];
    return new Uint8Array(bytes);
  }
}
