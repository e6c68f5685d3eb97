/** JSON merge patches between what is and what should be; pure. */

/** The patch that makes `wanted` of `present`, or undefined when they are the same. Arrays are taken whole. */
export function planMergePatch(present: unknown, wanted: unknown): Readonly<Record<string, unknown>> | undefined {
  const [before, after] = [toRecord(present), toRecord(wanted)];
  const patch: Record<string, unknown> = {};
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const [old, next] = [before[key], after[key]];
    if (next === undefined) {
      if (old !== undefined) {
        patch[key] = null;
      }
    } else if (isRecord(old) && isRecord(next)) {
      const inner = planMergePatch(old, next);
      if (inner !== undefined) {
        patch[key] = inner;
      }
    } else if (!isSame(old, next)) {
      patch[key] = next;
    }
  }
  return Object.keys(patch).length === 0 ? undefined : patch;
}

/** What is left out and what is undefined are the same. */
function isSame(one: unknown, other: unknown): boolean {
  if (Array.isArray(one) && Array.isArray(other)) {
    return one.length === other.length && one.every((item, index) => isSame(item, other[index]));
  }
  return isRecord(one) && isRecord(other) ? planMergePatch(one, other) === undefined : one === other;
}

const toRecord = (value: unknown): Readonly<Record<string, unknown>> => (isRecord(value) ? value : {});

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
