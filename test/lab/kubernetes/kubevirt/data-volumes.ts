/**
 * CDI's part: a DataVolume becomes a claim of its name, with content.
 *
 *   source blank                      an empty disk, made by virt-launcher as for any claim without one
 *   source http, url lab://NAME       the file that the lab knows by this name, copied when the first launcher has the volume
 *
 * In CDI a pod of its own imports before a VMI may start; here the launcher waits, for the volume's place is known only then.
 */
import { execFile } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { promisify } from "node:util";
import { diskPathOf, type ObjectMeta, parseQuantity } from "./vmi.ts";

const run = promisify(execFile);

export type ClaimSpec = {
  readonly accessModes?: readonly string[];
  readonly storageClassName?: string;
  readonly volumeMode?: string;
  readonly resources: { readonly requests: { readonly storage: string } };
};

export type DataVolume = {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: ObjectMeta;
  readonly spec: {
    readonly source?: { readonly http?: { readonly url: string }; readonly blank?: object };
    readonly pvc?: ClaimSpec;
    readonly storage?: ClaimSpec;
  };
  readonly status?: { readonly phase?: string };
};

export type Claim = {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: ObjectMeta;
  readonly spec: ClaimSpec;
  readonly status?: { readonly phase?: string };
};

/** CDI's own word for a claim whose content is there. */
export const importedAnnotation = "cdi.kubevirt.io/storage.pod.phase";

const scheme = "lab://";

export function planClaim({ apiVersion, kind, metadata, spec }: DataVolume): object {
  const { name, namespace, uid, labels } = metadata;
  const given = spec.pvc ?? spec.storage;
  return {
    apiVersion: "v1",
    kind: "PersistentVolumeClaim",
    metadata: {
      name,
      namespace,
      labels: { ...labels, "app.kubernetes.io/managed-by": "cdi-controller" },
      annotations: { "cdi.kubevirt.io/storage.contentType": "kubevirt" },
      ownerReferences: [{ apiVersion, kind, name, uid, controller: true, blockOwnerDeletion: true }],
    },
    spec: { accessModes: ["ReadWriteOnce"], ...given },
  };
}

export function decideVolumePhase({ spec }: DataVolume, claim: Claim | undefined): string {
  if (claim?.status?.phase === undefined) {
    return "Pending";
  }
  if (claim.status.phase !== "Bound") {
    return "WaitForFirstConsumer";
  }
  const isImported =
    spec.source?.http === undefined || claim.metadata.annotations?.[importedAnnotation] === "Succeeded";
  return isImported ? "Succeeded" : "ImportInProgress";
}

/** Puts the content into the volume, seen in the files of a launcher that has it; nothing if it has content already. */
export async function fillVolume(
  volumeName: string,
  { spec }: DataVolume,
  launcherRoot: string,
  images: Readonly<Record<string, string>>,
): Promise<void> {
  const url = spec.source?.http?.url;
  const path = `${launcherRoot}${diskPathOf(volumeName)}`;
  if (url === undefined || existsSync(path)) {
    return;
  }
  const image = url.startsWith(scheme) ? images[url.slice(scheme.length)] : undefined;
  if (image === undefined) {
    throw new Error(`${url} is no image of the lab: ${scheme}{${Object.keys(images).join(",")}}`);
  }
  const bytes = parseQuantity((spec.pvc ?? spec.storage)?.resources.requests.storage ?? "");
  mkdirSync(dirname(path), { recursive: true });
  await run("cp", ["--sparse=always", image, `${path}.part`]);
  // An image may be smaller than its volume, and never the other way round.
  await run("truncate", ["--size", `>${bytes}`, `${path}.part`]);
  await run("chown", ["107:107", `${path}.part`]);
  await run("mv", [`${path}.part`, path]);
}
