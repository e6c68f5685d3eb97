/**
 * Files of a QEMU that may have another root than this process, as it has in a pod: what they are called here and there.
 *
 * Sockets and pipes that both use are in one directory that QEMU's user may write to; who prepared this QEMU for us made it.
 * In a pod its path as we name it, /proc/PID/root/..., is some bytes longer than QEMU's: a unix socket's may have 107.
 */
import { readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import { resolveInRoot } from "../lib/rooted-path.ts";
import { type FoundGuest } from "../protocol/assignment.ts";

/** One file, as each of the two has to name it. */
export type SharedPath = { readonly own: string; readonly inQemu: string };

export class QemuFiles {
  readonly #root: string;
  readonly #sharedDirectory: string;

  constructor({ qemuRoot, sharedDirectory }: Pick<FoundGuest, "qemuRoot" | "sharedDirectory">) {
    this.#root = qemuRoot;
    this.#sharedDirectory = sharedDirectory;
  }

  /** A path of QEMU's as this process has to name it. */
  own(path: string): string {
    return this.#root === "/" ? path : resolveInRoot(this.#root, path, readLink);
  }

  /** Whether what is at a path as {@link own} gives it is a regular file; it need not be there. */
  isFile(ownPath: string): boolean {
    return statSync(ownPath, { throwIfNoEntry: false })?.isFile() === true;
  }

  shared(name: string): SharedPath {
    const inQemu = join(this.#sharedDirectory, name);
    return { own: this.own(inQemu), inQemu };
  }
}

function readLink(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}
