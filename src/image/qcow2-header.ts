/** The header of a qcow2 file (docs/interop/qcow2.txt of QEMU): big-endian numbers, then extensions. */
import { ImageFailure } from "./image-failure.ts";

const HEADER_V2_BYTES = 72;
const HEADER_V3_BYTES = 104;
const INCOMPATIBLE = { dirty: 1n, corrupt: 2n, externalData: 4n, compression: 8n, extendedL2: 16n } as const;
const KNOWN = Object.values(INCOMPATIBLE).reduce((sum, bit) => sum | bit, 0n);
const EXTENSION_EXTERNAL_DATA = 0x44415441;

/** The size of the guest's disk in bytes. Throws an {@link ImageFailure}. */
export function parseQcow2Header(head: Uint8Array): number {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  if (head.length < HEADER_V2_BYTES) {
    throw new ImageFailure("Damaged", "it is cut off within its header; fetch it again");
  }
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3) {
    const remedy = "convert it where you trust it: qemu-img convert -f qcow -O qcow2 FILE NEW.qcow2";
    throw new ImageFailure("FormatRefused", `it is version ${version} of qcow, and 2 and 3 are taken; ${remedy}`);
  }
  if (view.getBigUint64(8) !== 0n) {
    throw new ImageFailure(
      "RefersToFiles",
      "it has a backing file, and only part of the disk is in this one; make one of the chain where both are, and where you " +
        "trust them: qemu-img convert -f qcow2 -O qcow2 FILE NEW.qcow2",
    );
  }
  if (view.getUint32(32) !== 0) {
    throw new ImageFailure("FormatRefused", "it is encrypted; decrypt it first, a guest may encrypt its own disk");
  }
  if (version === 3) {
    assertFeatures(view);
  }
  const clusterBits = view.getUint32(20);
  if (clusterBits < 9 || clusterBits > 21) {
    throw new ImageFailure("Damaged", `its clusters have 2^${clusterBits} bytes, and qcow2 knows 2^9 to 2^21`);
  }
  return Number(view.getBigUint64(24));
}

function assertFeatures(view: DataView): void {
  if (view.byteLength < HEADER_V3_BYTES) {
    throw new ImageFailure("Damaged", "it is cut off within its header; fetch it again");
  }
  const features = view.getBigUint64(72);
  if ((features & INCOMPATIBLE.externalData) !== 0n || hasExternalDataName(view)) {
    throw new ImageFailure(
      "RefersToFiles",
      "its content is in another file (external data file); make one of them where you trust both: " +
        "qemu-img convert -f qcow2 -O qcow2 FILE NEW.qcow2",
    );
  }
  if ((features & (INCOMPATIBLE.dirty | INCOMPATIBLE.corrupt)) !== 0n) {
    throw new ImageFailure(
      "Damaged",
      "it was not closed in order; repair a copy of it: qemu-img check -f qcow2 -r all COPY",
    );
  }
  if ((features & ~KNOWN) !== 0n) {
    throw new ImageFailure("FormatRefused", "it needs a feature of qcow2 that is not known here; write it as raw");
  }
}

/** The name may stand there although the bit that makes it count does not. */
function hasExternalDataName(view: DataView): boolean {
  for (let at = view.getUint32(100); at + 8 <= view.byteLength;) {
    const type = view.getUint32(at);
    if (type === 0) {
      return false;
    }
    if (type === EXTENSION_EXTERNAL_DATA) {
      return true;
    }
    at += 8 + Math.ceil(view.getUint32(at + 4) / 8) * 8;
  }
  return false;
}
