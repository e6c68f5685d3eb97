/**
 * How large a guest is, read of its spec as KubeVirt's defaults do (pkg/defaults): what stands there explicitly counts, else what
 * is said of resources. Once sockets and memory are written out those defaults do not apply any more, so they have to be the same.
 */
import { type Json, readObject, readPath } from "../lib/json-merge.ts";
import { parseQuantity } from "./quantity.ts";

/** The guest's memory as a quantity; undefined where KubeVirt would refuse the guest for having none. */
export const readMemory = (instanceSpec: Json): string | undefined =>
  readQuantity(instanceSpec, "domain", "memory", "guest") ??
  readQuantity(instanceSpec, "domain", "resources", "requests", "memory") ??
  readQuantity(instanceSpec, "domain", "resources", "limits", "memory");

export function readSockets(instanceSpec: Json): number {
  const cpu = readObject(instanceSpec, "domain", "cpu");
  const isLeftOut = (part: string): boolean => (cpu[part] ?? 0) === 0;
  if (!["sockets", "cores", "threads"].every(isLeftOut)) {
    return isLeftOut("sockets") ? 1 : Number(cpu["sockets"]);
  }
  const given =
    readQuantity(instanceSpec, "domain", "resources", "limits", "cpu") ??
    readQuantity(instanceSpec, "domain", "resources", "requests", "cpu");
  return Math.max(1, Math.ceil(parseQuantity(given ?? "1") ?? 1));
}

const PLUGGABLE_FROM_BYTES = 2 ** 30;
const PLUGGABLE_BLOCK_BYTES = 2 ** 21;

/**
 * Whether KubeVirt may give the guest room for more memory unless it is told that what it has is all. To others it gives none, and
 * a VirtualMachine that says how much there may be is then refused.
 */
export function isMemoryPluggable(instanceSpec: Json): boolean {
  const bytes = parseQuantity(readMemory(instanceSpec) ?? "") ?? 0;
  const architecture = readPath(instanceSpec, "architecture") ?? "amd64";
  const isFixed =
    readPath(instanceSpec, "domain", "cpu", "realtime") !== undefined ||
    readPath(instanceSpec, "domain", "cpu", "numa", "guestMappingPassthrough") !== undefined;
  return bytes >= PLUGGABLE_FROM_BYTES && bytes % PLUGGABLE_BLOCK_BYTES === 0 && architecture === "amd64" && !isFixed;
}

/** A number is a quantity too, in JSON. */
function readQuantity(value: unknown, ...path: readonly string[]): string | undefined {
  const found = readPath(value, ...path);
  return (typeof found === "string" && found !== "") || typeof found === "number" ? String(found) : undefined;
}
