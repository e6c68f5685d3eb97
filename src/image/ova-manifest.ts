/** The manifest of an OVA (DSP0243, 9.1): `SHA256(NAME)= HEX`, a line a file. */
import { ImageFailure } from "./image-failure.ts";

export type Digest = { readonly algorithm: "sha1" | "sha256" | "sha512"; readonly hex: string };

const LINE = /^(SHA1|SHA256|SHA512)\s*\((.{1,255})\)\s*=\s*([0-9a-fA-F]{40,128})$/;
const DIGITS = { sha1: 40, sha256: 64, sha512: 128 } as const;

/** By file name. Throws an {@link ImageFailure}. */
export function parseManifest(text: string): ReadonlyMap<string, Digest> {
  const lines = text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== "");
  return new Map(lines.map(parseLine));
}

function parseLine(line: string): readonly [string, Digest] {
  const [, name = "", file = "", digits = ""] = LINE.exec(line) ?? [];
  const algorithm = name.toLowerCase() as Digest["algorithm"];
  if (file === "" || digits.length !== DIGITS[algorithm]) {
    throw new ImageFailure(
      "Damaged",
      `the manifest has a line that gives no checksum: ${JSON.stringify(line.slice(0, 80))}`,
    );
  }
  return [file, { algorithm, hex: digits.toLowerCase() }];
}
