/**
 * What the engines of this node put on its links: each guest's rate over the last ten seconds, and the most that all of them sent
 * together within a moment, which is the least that the links can carry. From the counters of their reports.
 */
export type GuestTraffic = { readonly bytesPerSecond: number; readonly nodePeakBytesPerSecond: number };

type Sample = { readonly sentBytes: number; readonly atMs: number };
type Guest = { samples: readonly Sample[]; momentary: number };

const WINDOW_MS = 10_000;
/** Reports that follow one another more closely say little of a rate. */
const MOMENT_MS = 500;

export class LinkMeter {
  readonly #guests = new Map<string, Guest>();
  #peak = 0;

  /** `sentBytes` counts from the start of the guest's engine. */
  note(guest: string, sentBytes: number, atMs: number): void {
    const known = this.#guests.get(guest);
    const last = known?.samples.at(-1);
    if (known === undefined || last === undefined || sentBytes < last.sentBytes) {
      this.#guests.set(guest, { samples: [{ sentBytes, atMs }], momentary: 0 });
      return;
    }
    if (atMs - last.atMs < MOMENT_MS) {
      return;
    }
    known.momentary = rateOf(last, { sentBytes, atMs });
    known.samples = [...known.samples.filter((sample) => atMs - sample.atMs <= WINDOW_MS), { sentBytes, atMs }];
    if (known.samples.length === 1) {
      known.samples = [last, ...known.samples]; // An engine without news reports every few seconds.
    }
    this.#peak = Math.max(this.#peak, this.#sumOf(atMs));
  }

  forget(guest: string): void {
    this.#guests.delete(guest);
  }

  /** Undefined before there are two reports of its engine. */
  read(guest: string): GuestTraffic | undefined {
    const { samples = [] } = this.#guests.get(guest) ?? {};
    const [first, last] = [samples[0], samples.at(-1)];
    return first === undefined || last === undefined || first === last
      ? undefined
      : { bytesPerSecond: rateOf(first, last), nodePeakBytesPerSecond: this.#peak };
  }

  /** What the guest needs: its rate of the last ten seconds, or of the last moment if that is more. */
  readNeed(guest: string): number {
    return Math.max(this.read(guest)?.bytesPerSecond ?? 0, this.#guests.get(guest)?.momentary ?? 0);
  }

  /** Of engines that reported in this moment. */
  #sumOf(nowMs: number): number {
    const lately = [...this.#guests.values()].filter(({ samples }) => nowMs - (samples.at(-1)?.atMs ?? 0) < 2_000);
    return lately.reduce((sum, { momentary }) => sum + momentary, 0);
  }
}

const rateOf = (from: Sample, to: Sample): number =>
  ((to.sentBytes - from.sentBytes) * 1_000) / Math.max(1, to.atMs - from.atMs);
