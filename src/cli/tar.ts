/**
 * A tar file in the form that every tar reads (POSIX ustar), from texts in memory.
 *
 * Paths of up to 255 bytes; a longer one is cut in the middle, for a bundle with an odd name is better than none.
 */

export type TarFile = { readonly path: string; readonly content: string | Buffer };

const BLOCK_BYTES = 512;

export function encodeTar(files: readonly TarFile[], modifiedMs: number): Buffer {
  const end = Buffer.alloc(2 * BLOCK_BYTES);
  return Buffer.concat([...files.flatMap((file) => encodeFile(file, modifiedMs)), end]);
}

function encodeFile({ path, content }: TarFile, modifiedMs: number): readonly Buffer[] {
  const body = typeof content === "string" ? Buffer.from(content) : content;
  return [encodeTarHeader(path, body.length, modifiedMs), body, padTar(body.length)];
}

/** What stands behind so many bytes of content. */
export const padTar = (sizeBytes: number): Buffer =>
  Buffer.alloc((BLOCK_BYTES - (sizeBytes % BLOCK_BYTES)) % BLOCK_BYTES);

/** Eleven octal digits hold 8 GiB; more is written in binary, as GNU, BSD and POSIX tars read it. */
function encodeSize(sizeBytes: number): Buffer {
  const field = Buffer.alloc(12);
  if (sizeBytes < 8 ** 11) {
    field.write(`${sizeBytes.toString(8).padStart(11, "0")}\0`);
    return field;
  }
  field.writeBigUInt64BE(BigInt(sizeBytes), 4);
  field[0] = 0x80;
  return field;
}

export function encodeTarHeader(path: string, sizeBytes: number, modifiedMs: number): Buffer {
  const header = Buffer.alloc(BLOCK_BYTES);
  const { prefix, name } = splitPath(path);
  const octal = (value: number, digits: number): string => `${value.toString(8).padStart(digits, "0")}\0`;
  header.write(name, 0, 100);
  header.write(octal(0o644, 7), 100);
  header.write(octal(0, 7), 108);
  header.write(octal(0, 7), 116);
  encodeSize(sizeBytes).copy(header, 124);
  header.write(octal(Math.floor(modifiedMs / 1_000), 11), 136);
  header.write("        ", 148); // The sum is taken with blanks where it stands.
  header.write("0", 156);
  header.write("ustar\x0000", 257, "latin1");
  header.write(prefix, 345, 155);
  header.write(
    `${octal(
      header.reduce((sum, byte) => sum + byte, 0),
      6,
    )} `,
    148,
  );
  return header;
}

/** The name has room for 100 bytes, what stands before a slash for 155. */
function splitPath(path: string): { readonly prefix: string; readonly name: string } {
  if (Buffer.byteLength(path) <= 100) {
    return { prefix: "", name: path };
  }
  const cuts = [...path.matchAll(/\//g)].map(({ index }) => index);
  const cut = cuts.find(
    (index) => Buffer.byteLength(path.slice(index + 1)) <= 100 && Buffer.byteLength(path.slice(0, index)) <= 155,
  );
  return cut === undefined
    ? { prefix: "", name: `${path.slice(0, 40)}...${path.slice(-40)}` }
    : { prefix: path.slice(0, cut), name: path.slice(cut + 1) };
}
