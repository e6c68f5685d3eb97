/**
 * Whether page data is worth compressing now. Pure.
 *
 * Compression pays when the link is the bottleneck: an epoch of B bytes takes B / link to leave as it is, and B / compressor +
 * ratio * B / link compressed. On a fast link the first is smaller and the processor belongs to the guest. The compressor's
 * speed and ratio are learnt from trials, a rare one while compression is off and the link seems slow, and each use while it
 * is on; so a guest whose pages do not compress turns it off again.
 */
export type CompressionState = {
  readonly isOn: boolean;
  /** Smoothed, bytes a millisecond; undefined until measured. */
  readonly linkRate: number | undefined;
  readonly compressorRate: number | undefined;
  /** Compressed size as a share of the raw one. */
  readonly ratio: number;
  readonly epochsSinceTrial: number;
};

/** Shorter groups tell more about latency than about bandwidth. */
const RATE_BYTES_MIN = 256 * 1024;
/** A link that takes an epoch's pages in less time is no bottleneck, whatever the compressor does. */
const SLOW_MS = 4;
const TRIAL_EVERY_EPOCHS = 64;
/** To turn on it must save this share, so that it does not flicker. */
const GAIN_MIN = 0.2;
const SMOOTHING = 0.25;

export function startCompression(): CompressionState {
  return {
    isOn: false,
    linkRate: undefined,
    compressorRate: undefined,
    ratio: 1,
    epochsSinceTrial: TRIAL_EVERY_EPOCHS,
  };
}

/** A group of frames left: `bytes` on the wire in `ms`. */
export function observeSent(state: CompressionState, bytes: number, ms: number): CompressionState {
  if (bytes < RATE_BYTES_MIN) {
    return state;
  }
  return { ...state, linkRate: smooth(state.linkRate, bytes / Math.max(ms, 0.01)) };
}

export function observeCompressed(
  state: CompressionState,
  sample: { readonly rawBytes: number; readonly bytes: number; readonly ms: number },
): CompressionState {
  const compressorRate = smooth(state.compressorRate, sample.rawBytes / Math.max(sample.ms, 0.01));
  const ratio = state.ratio + SMOOTHING * (sample.bytes / sample.rawBytes - state.ratio);
  return planSwitch({ ...state, compressorRate, ratio, epochsSinceTrial: 0 });
}

/** What to do with the pages of this epoch: send them as they are, or compressed. */
export function planPages(
  state: CompressionState,
  rawBytes: number,
): { readonly compress: boolean; readonly state: CompressionState } {
  const next = planSwitch({ ...state, epochsSinceTrial: state.epochsSinceTrial + 1 });
  const isSlow = next.linkRate !== undefined && rawBytes / next.linkRate > SLOW_MS;
  const isTrial = isSlow && next.epochsSinceTrial >= TRIAL_EVERY_EPOCHS;
  return { compress: rawBytes > 0 && (next.isOn || isTrial), state: next };
}

function planSwitch(state: CompressionState): CompressionState {
  const { linkRate, compressorRate, ratio, isOn } = state;
  if (linkRate === undefined || compressorRate === undefined) {
    return state;
  }
  const plainMs = 1 / linkRate;
  const compressedMs = 1 / compressorRate + ratio / linkRate;
  return { ...state, isOn: compressedMs < plainMs * (isOn ? 1 : 1 - GAIN_MIN) };
}

function smooth(old: number | undefined, sample: number): number {
  return old === undefined ? sample : old + SMOOTHING * (sample - old);
}
