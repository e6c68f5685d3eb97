/** Times as kubectl writes and reads them. */

const SECOND_MS = 1_000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;
const UNITS_MS: Readonly<Record<string, number>> = {
  ...{ ms: 1, s: SECOND_MS, m: MINUTE_MS, h: HOUR_MS, d: DAY_MS },
};

type Scale = {
  readonly belowMs: number;
  readonly unitMs: number;
  readonly unit: string;
  /** The smaller unit that is said too, unless it is none. */
  readonly rest?: { readonly unitMs: number; readonly unit: string };
};

const seconds = { unitMs: SECOND_MS, unit: "s" };
const minutes = { unitMs: MINUTE_MS, unit: "m" };
const hours = { unitMs: HOUR_MS, unit: "h" };
const days = { unitMs: DAY_MS, unit: "d" };
/** The steps of kubectl's own (apimachinery, HumanDuration): two units where one would be too coarse. */
const SCALES: readonly Scale[] = [
  { belowMs: 2 * MINUTE_MS, ...seconds },
  { belowMs: 10 * MINUTE_MS, ...minutes, rest: seconds },
  { belowMs: 3 * HOUR_MS, ...minutes },
  { belowMs: 8 * HOUR_MS, ...hours, rest: minutes },
  { belowMs: 2 * DAY_MS, ...hours },
  { belowMs: 8 * DAY_MS, ...days, rest: hours },
  { belowMs: 2 * 365 * DAY_MS, ...days },
  { belowMs: 8 * 365 * DAY_MS, unitMs: 365 * DAY_MS, unit: "y", rest: days },
  { belowMs: Infinity, unitMs: 365 * DAY_MS, unit: "y" },
];

/** `119s`, `5m12s`, `47h`, `3d4h`: as in the AGE column of kubectl. A clock that is a little behind makes it 0s. */
export function writeAge(durationMs: number): string {
  if (Number.isNaN(durationMs) || durationMs < -2 * SECOND_MS) {
    return "<invalid>";
  }
  const { unitMs, unit, rest } = SCALES.find(({ belowMs }) => durationMs < belowMs) ?? { unitMs: DAY_MS, unit: "d" };
  const whole = Math.floor(Math.max(durationMs, 0) / unitMs);
  const left = rest === undefined ? 0 : Math.floor((durationMs % unitMs) / rest.unitMs);
  return rest === undefined || left === 0 ? `${whole}${unit}` : `${whole}${unit}${left}${rest.unit}`;
}

/** The age of a moment such as metadata.creationTimestamp. */
export function writeAgeOf(time: string | undefined, nowMs: number): string {
  return time === undefined ? "<unknown>" : writeAge(nowMs - Date.parse(time));
}

/** Milliseconds of `1m30s`, `500ms`, `2h` or a number of seconds; undefined when it is none of these. */
export function parseDuration(text: string): number | undefined {
  if (/^[0-9]+$/.test(text)) {
    return Number(text) * SECOND_MS;
  }
  if (!/^([0-9]+(ms|s|m|h|d))+$/.test(text)) {
    return undefined;
  }
  const parts = [...text.matchAll(/([0-9]+)(ms|s|m|h|d)/g)];
  return parts.reduce((sum, [, count, unit]) => sum + Number(count) * (UNITS_MS[unit ?? ""] ?? 0), 0);
}
