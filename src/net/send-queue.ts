/**
 * What waits to be written to one connection, cut into batches that are good to write.
 *
 * Groups leave whole and in order; urgent ones go before the waiting others, but never into the middle of one that has
 * begun. Small parts are gathered (copied) up to about 256 KiB, large ones leave uncopied in slices of at most that. A
 * group's `onSent` is returned by {@link written} once every byte up to its end was reported as written.
 */
export type SendGroup = { readonly parts: readonly Uint8Array[]; readonly onSent?: (() => void) | undefined };

const BATCH_BYTES = 256 * 1024;
/** From here on copying a part costs more than a write of its own. */
const LARGE_PART_BYTES = 64 * 1024;

export class SendQueue {
  readonly #batchBytes: number;
  readonly #largePartBytes: number;
  readonly #urgent: SendGroup[] = [];
  readonly #bulk: SendGroup[] = [];
  /** The group that is leaving, its next part, and how much of that has left. */
  #leaving: SendGroup | undefined;
  #part = 0;
  #offset = 0;
  #takenBytes = 0;
  #writtenBytes = 0;
  /** Groups that were taken whole, and the count of bytes that have to be written before they are sent. */
  readonly #taken: { readonly endsAtBytes: number; readonly onSent: () => void }[] = [];

  constructor(batchBytes = BATCH_BYTES, largePartBytes = LARGE_PART_BYTES) {
    this.#batchBytes = batchBytes;
    this.#largePartBytes = largePartBytes;
  }

  push(group: SendGroup): void {
    this.#bulk.push(group);
  }

  pushUrgent(group: SendGroup): void {
    this.#urgent.push(group);
  }

  /** The next bytes to write. */
  next(): Uint8Array | undefined {
    const gathered: Uint8Array[] = [];
    let bytes = 0;
    for (let part = this.#peek(); part !== undefined && bytes < this.#batchBytes; part = this.#peek()) {
      if (part.byteLength > this.#largePartBytes) {
        return bytes > 0 ? Buffer.concat(gathered, bytes) : this.#take(part);
      }
      gathered.push(this.#take(part));
      bytes += part.byteLength;
    }
    return gathered.length <= 1 ? gathered[0] : Buffer.concat(gathered, bytes);
  }

  /** Says that the oldest `bytes` handed out are on their way; returns whom to tell. */
  written(bytes: number): readonly (() => void)[] {
    this.#writtenBytes += bytes;
    this.#peek();
    const sent = this.#taken.findIndex(({ endsAtBytes }) => endsAtBytes > this.#writtenBytes);
    return this.#taken.splice(0, sent < 0 ? this.#taken.length : sent).map(({ onSent }) => onSent);
  }

  /** The unsent rest of the part that is leaving; groups that left whole are put aside on the way. */
  #peek(): Uint8Array | undefined {
    for (;;) {
      this.#leaving ??= this.#urgent.shift() ?? this.#bulk.shift();
      if (this.#leaving === undefined) {
        return undefined;
      }
      const part = this.#leaving.parts[this.#part];
      if (part === undefined) {
        this.#putAside(this.#leaving);
      } else if (part.byteLength > 0) {
        return this.#offset === 0 ? part : part.subarray(this.#offset);
      } else {
        this.#part += 1;
      }
    }
  }

  #putAside(group: SendGroup): void {
    if (group.onSent !== undefined) {
      this.#taken.push({ endsAtBytes: this.#takenBytes, onSent: group.onSent });
    }
    this.#leaving = undefined;
    this.#part = 0;
  }

  #take(available: Uint8Array): Uint8Array {
    const taken = available.byteLength > this.#batchBytes ? available.subarray(0, this.#batchBytes) : available;
    this.#takenBytes += taken.byteLength;
    if (taken.byteLength === available.byteLength) {
      this.#part += 1;
      this.#offset = 0;
    } else {
      this.#offset += taken.byteLength;
    }
    return taken;
  }
}
