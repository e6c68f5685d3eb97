/** Objects for programs: JSON as kubectl prints it, or YAML. */
import { stringify } from "yaml";
import { type Json, type KubeObject } from "./kube-objects.ts";

export type ObjectForm = "json" | "yaml";

export function encodeOutput(value: unknown, form: ObjectForm): string {
  return form === "json"
    ? JSON.stringify(value, undefined, 4)
    : stringify(value, { lineWidth: 0, aliasDuplicateObjects: false }).trimEnd();
}

/** One that was asked for by name, else a list as `kubectl get -o json` prints it. */
export function encodeObjects(objects: readonly KubeObject[], isOne: boolean): unknown {
  const cleaned = objects.map(withoutManagers);
  return isOne ? cleaned[0] : { apiVersion: "v1", kind: "List", metadata: { resourceVersion: "" }, items: cleaned };
}

/** Who owns which field is several screens that nobody asked for. */
function withoutManagers({ metadata, ...rest }: KubeObject): Json {
  const kept = Object.fromEntries(Object.entries(metadata).filter(([name]) => name !== "managedFields"));
  const { apiVersion, kind, ...others } = rest;
  return { apiVersion, kind, metadata: kept, ...others };
}
