/**
 * Plain JSON objects as Kubernetes keeps them: reading by path, and JSON merge patches (RFC 7386: null takes a field away, a
 * list is replaced as a whole).
 */
export type Json = Readonly<Record<string, unknown>>;

export function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** What is at the end of the path; undefined where the path breaks off. */
export function readPath(value: unknown, ...path: readonly string[]): unknown {
  return path.reduce<unknown>((at, name) => (isJson(at) && Object.hasOwn(at, name) ? at[name] : undefined), value);
}

export function readText(value: unknown, ...path: readonly string[]): string | undefined {
  const found = readPath(value, ...path);
  return typeof found === "string" && found !== "" ? found : undefined;
}

export function readObject(value: unknown, ...path: readonly string[]): Json {
  const found = readPath(value, ...path);
  return isJson(found) ? found : {};
}

/** The objects of a list; anything else in it is passed over. */
export function readObjects(value: unknown, ...path: readonly string[]): readonly Json[] {
  const found = readPath(value, ...path);
  return Array.isArray(found) ? found.filter(isJson) : [];
}

/** `target` after the patch. */
export function mergeJson(target: Json, patch: Json): Json {
  const merged: Record<string, unknown> = { ...target };
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) {
      Reflect.deleteProperty(merged, name);
    } else if (isJson(value)) {
      const before = merged[name];
      merged[name] = mergeJson(isJson(before) ? before : {}, value);
    } else if (value !== undefined) {
      merged[name] = value;
    }
  }
  return merged;
}

/** The patch that makes `to` of `from`; empty when they are the same. */
export function diffJson(from: Json, to: Json): Json {
  const patch: Record<string, unknown> = {};
  for (const name of new Set([...Object.keys(from), ...Object.keys(to)])) {
    const [before, after] = [from[name], to[name]];
    if (isJson(before) && isJson(after)) {
      const inner = diffJson(before, after);
      if (Object.keys(inner).length > 0) {
        patch[name] = inner;
      }
    } else if (!isSameJson(before, after)) {
      patch[name] = after ?? null;
    }
  }
  return patch;
}

/** The same whatever the order of fields; a field that is undefined is one that is not there. */
export function isSameJson(one: unknown, other: unknown): boolean {
  if (isJson(one) && isJson(other)) {
    const names = new Set([...Object.keys(one), ...Object.keys(other)]);
    return [...names].every((name) => isSameJson(one[name], other[name]));
  }
  if (Array.isArray(one) && Array.isArray(other)) {
    return one.length === other.length && one.every((item, index) => isSameJson(item, other[index]));
  }
  return one === other;
}

/** Whether `whole` has all that `part` has; more fields are allowed in objects, not in lists. */
export function hasJson(whole: unknown, part: unknown): boolean {
  if (isJson(part)) {
    return (
      isJson(whole) && Object.entries(part).every(([name, value]) => value === undefined || hasJson(whole[name], value))
    );
  }
  if (Array.isArray(part)) {
    const items: readonly unknown[] = part;
    return Array.isArray(whole) && whole.length === items.length && items.every((item, at) => hasJson(whole[at], item));
  }
  return whole === part;
}
