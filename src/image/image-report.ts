/** What qemu-img said of an image, compared with what its header says and with what is taken. */
import { isJson, type Json, readObject, readObjects, readPath, readText } from "../lib/json-merge.ts";
import { type ImageHeader } from "./image-header.ts";
import { ImageFailure } from "./image-failure.ts";
import { isBomb, writeBytes } from "./image-limits.ts";

/**
 * Throws an {@link ImageFailure} when `info` (of `qemu-img info --output=json`) is not about the image that was looked at.
 * `filename` is how qemu-img was told to open it: nothing else may be open below.
 */
export function assertReport(info: unknown, header: ImageHeader): void {
  const format = readText(info, "format");
  if (!isJson(info) || format !== header.format) {
    throw new ImageFailure(
      "Damaged",
      `qemu-img takes it for ${format ?? "nothing it knows"}, its header says ${header.format}`,
    );
  }
  const names = ["backing-filename", "full-backing-filename"].filter((name) => info[name] !== undefined);
  const data = readObject(info, "format-specific", "data");
  if (names.length > 0 || data["data-file"] !== undefined) {
    throw new ImageFailure(
      "RefersToFiles",
      "qemu-img finds another file that it names, which its header hid; do not use it",
    );
  }
  const size = readPath(info, "virtual-size");
  if (size !== header.virtualBytes) {
    const found = typeof size === "number" ? writeBytes(size) : "no size";
    throw new ImageFailure("Damaged", `its header says ${writeBytes(header.virtualBytes)}, qemu-img finds ${found}`);
  }
  assertWhole(info, data);
}

function assertWhole(info: Json, data: Json): void {
  if (info["encrypted"] === true) {
    throw new ImageFailure("FormatRefused", "it is encrypted; decrypt it first, a guest may encrypt its own disk");
  }
  if (data["corrupt"] === true || info["dirty-flag"] === true) {
    throw new ImageFailure("Damaged", "it is marked as damaged; repair a copy of it: qemu-img check -r all COPY");
  }
  if (readObjects(data, "extents").length > 1) {
    throw new ImageFailure("RefersToFiles", "it is in several parts; make one file of it: qemu-img convert -O qcow2");
  }
}

/** Of `qemu-img measure --output=json -O qcow2`: what is in the image, in bytes. Throws TooLarge for what cannot be honest. */
export function parseContentBytes(measure: unknown, fileBytes: number): number {
  const bytes = readPath(measure, "required");
  if (typeof bytes !== "number" || !(bytes >= 0)) {
    throw new ImageFailure("Damaged", "qemu-img cannot tell how much is in it");
  }
  if (isBomb(fileBytes, bytes)) {
    throw new ImageFailure(
      "TooLarge",
      `${writeBytes(bytes)} would come out of a file of ${writeBytes(fileBytes)}: no honest image is packed like that; ` +
        "if this one is, write it as raw where you trust it and import that",
    );
  }
  return bytes;
}
