/** Assertions: a failed one is a bug. The process must die; its supervisor starts it anew. */

export class AssertionFailed extends Error {
  override readonly name = "AssertionFailed";
}

/** Throws {@link AssertionFailed} unless `condition` holds. */
export function assert(condition: boolean, says: string): asserts condition {
  if (!condition) {
    throw new AssertionFailed(says);
  }
}

/** Closes an exhaustive switch: a case that was forgotten does not type-check, one that slips through at run time dies. */
export function unreachable(value: never): never {
  throw new AssertionFailed(`unreachable: ${JSON.stringify(value)}`);
}

/** The value, or death with `says` when there is none. */
export function present<T>(value: T | undefined | null, says: string): T {
  if (value === undefined || value === null) {
    throw new AssertionFailed(says);
  }
  return value;
}
