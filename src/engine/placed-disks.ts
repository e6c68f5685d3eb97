/** Where the disks that an assignment names are: in QEMU, and as a file or block device that this process can open. */
import { type DiskAssignment } from "../protocol/assignment.ts";
import { type MachineDisk } from "../qemu/machine.ts";

export type PlacedDisk = {
  /** Its name between the engines. */
  readonly id: string;
  /** What QEMU's block commands take for it; may differ between the sides. */
  readonly device: string;
  /** As this process has to name it. */
  readonly path: string;
  /** The guest only reads it: what one side has is copied once. */
  readonly isReadOnly: boolean;
  /** It has no size of its own: the standby's takes that of the primary's. */
  readonly isElastic: boolean;
  /** As QEMU saw it when it was attached to; undefined on a plain host. */
  readonly bytesInQemu: number | undefined;
};

export type DiskPlacing = {
  readonly disks: readonly PlacedDisk[];
  /** Why some could not be placed, for people. */
  readonly missing: readonly string[];
};

/**
 * `files.own` gives a path of QEMU's as this process has to name it.
 *
 * An image file in a pod has whatever length KubeVirt gave it: one that was there is enlarged to nine tenths of its claim, one that
 * was not is as long as the claim. So the two sides' differ, and either may be the longer one.
 */
export function placeDisks(
  wanted: readonly DiskAssignment[],
  machine: { readonly disks: readonly MachineDisk[] },
  files: { own(path: string): string; isFile(ownPath: string): boolean },
): DiskPlacing {
  const disks: PlacedDisk[] = [];
  const missing: string[] = [];
  for (const disk of wanted) {
    if ("path" in disk) {
      const common = { isReadOnly: false, isElastic: false, bytesInQemu: undefined };
      disks.push({ id: disk.id, device: disk.id, path: disk.path, ...common });
      continue;
    }
    const { id, device, isOfPod = false } = disk;
    const found = findDisk(machine, device);
    const path = found === undefined ? undefined : parseFilename(found.path);
    if (found === undefined || path === undefined) {
      missing.push(
        found === undefined
          ? `disk ${id} is not in QEMU (no device ${device} with a medium): name the disks that the guest has`
          : `disk ${id} is no file and no block device (${found.path}): give the guest a raw volume`,
      );
      continue;
    }
    const { isReadOnly, bytes } = found;
    const ownPath = files.own(path);
    disks.push({
      ...{ id, device: found.node, path: ownPath, isReadOnly },
      ...{ isElastic: isOfPod || files.isFile(ownPath), bytesInQemu: bytes },
    });
  }
  return { disks, missing };
}

/** The disk of the device with this id. */
export function findDisk(machine: { readonly disks: readonly MachineDisk[] }, device: string): MachineDisk | undefined {
  return machine.disks.find(({ qdev }) => isDevice(qdev, device));
}

/** A virtio device shows its backend, others themselves: /machine/peripheral/NAME or /machine/peripheral/NAME/virtio-backend. */
function isDevice(qdev: string, device: string): boolean {
  return (
    qdev
      .replace(/\/virtio-backend$/, "")
      .split("/")
      .at(-1) === device
  );
}

/** Where a name alone does not tell all of a node's options QEMU gives them as JSON. */
export function parseFilename(given: string): string | undefined {
  if (!given.startsWith("json:")) {
    return given.startsWith("/") ? given : undefined;
  }
  try {
    return findFilename(JSON.parse(given.slice("json:".length)));
  } catch {
    return undefined;
  }
}

function findFilename(node: unknown): string | undefined {
  if (typeof node !== "object" || node === null) {
    return undefined;
  }
  const { filename, file } = node as {
    readonly filename?: unknown;
    readonly file?: unknown;
  };
  return typeof filename === "string" && filename.startsWith("/") ? filename : findFilename(file);
}
