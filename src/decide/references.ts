/** The Secrets and ConfigMaps a VirtualMachineInstance names: they have to be in its own namespace. */
import { isJson, type Json, mergeJson, readObjects, readText } from "../lib/json-merge.ts";

export type Reference = { readonly kind: "Secret" | "ConfigMap"; readonly name: string };

const IN_VOLUMES: readonly { readonly kind: Reference["kind"]; readonly path: readonly string[] }[] = [
  { kind: "Secret", path: ["cloudInitNoCloud", "secretRef", "name"] },
  { kind: "Secret", path: ["cloudInitNoCloud", "networkDataSecretRef", "name"] },
  { kind: "Secret", path: ["cloudInitConfigDrive", "secretRef", "name"] },
  { kind: "Secret", path: ["cloudInitConfigDrive", "networkDataSecretRef", "name"] },
  { kind: "Secret", path: ["secret", "secretName"] },
  { kind: "Secret", path: ["sysprep", "secret", "name"] },
  { kind: "Secret", path: ["containerDisk", "imagePullSecret"] },
  { kind: "ConfigMap", path: ["configMap", "name"] },
  { kind: "ConfigMap", path: ["sysprep", "configMap", "name"] },
];
const IN_CREDENTIALS: typeof IN_VOLUMES = [
  { kind: "Secret", path: ["sshPublicKey", "source", "secret", "secretName"] },
  { kind: "Secret", path: ["userPassword", "source", "secret", "secretName"] },
];
const IN_SPEC: typeof IN_VOLUMES = [
  { kind: "Secret", path: ["domain", "firmware", "kernelBoot", "container", "imagePullSecret"] },
];
const PLACES = [
  { list: "volumes", paths: IN_VOLUMES },
  { list: "accessCredentials", paths: IN_CREDENTIALS },
];

export function listReferences(spec: Json): readonly Reference[] {
  const inLists = PLACES.flatMap(({ list, paths }) => readObjects(spec, list).flatMap((item) => listAt(item, paths)));
  const found = [...inLists, ...listAt(spec, IN_SPEC)];
  return found.filter(
    ({ kind, name }, index) => found.findIndex((each) => each.kind === kind && each.name === name) === index,
  );
}

const listAt = (item: Json, paths: typeof IN_VOLUMES): readonly Reference[] =>
  paths.flatMap(({ kind, path }) => {
    const name = readText(item, ...path);
    return name === undefined ? [] : [{ kind, name }];
  });

/** The spec with other names in it. */
export function renameReferences(spec: Json, rename: (name: string) => string): Json {
  const lists = PLACES.filter(({ list }) => Array.isArray(spec[list])).map(({ list, paths }) => {
    const items = readObjects(spec, list).map((item) =>
      paths.reduce((at, { path }) => renameAt(at, path, rename), item),
    );
    return [list, items] as const;
  });
  const renamed = { ...spec, ...Object.fromEntries(lists) };
  return IN_SPEC.reduce((at, { path }) => renameAt(at, path, rename), renamed);
}

function renameAt(item: Json, path: readonly string[], rename: (name: string) => string): Json {
  const name = readText(item, ...path);
  if (name === undefined) {
    return item;
  }
  const patch = path.reduceRight<unknown>((inner, field) => ({ [field]: inner }), rename(name));
  return isJson(patch) ? mergeJson(item, patch) : item;
}
