/**
 * The file behind a shared RAM block (memfd, /dev/shm, hugetlbfs): its holes are guest memory nobody has touched yet, and a hole
 * made in it gives memory back while QEMU runs.
 *
 * Reached through QEMU's own descriptor in /proc/PID/fd, since a memfd has no name and another mount namespace hides the others.
 */
import { closeSync, openSync, readdirSync, readFileSync, statSync } from "node:fs";
import { type RamBlock } from "./ram-blocks.ts";

export type BackingFile = { readonly fd: number; readonly offset: number };
/** `private` blocks without a file are zero where nothing is mapped; private ones with a file are not. */
export type Backing =
  { readonly tag: "shared"; readonly file: BackingFile } | { readonly tag: "anonymous" } | { readonly tag: "unknown" };

export function openBacking(pid: number, block: RamBlock): Backing {
  const area = readArea(pid, block.address);
  if (area === undefined) {
    return { tag: "unknown" };
  }
  if (!area.shared) {
    return { tag: area.inode === 0 ? "anonymous" : "unknown" };
  }
  const fd = openDescriptorOf(pid, area.inode);
  return fd === undefined ? { tag: "unknown" } : { tag: "shared", file: { fd, offset: area.offset } };
}

export function closeBacking(backing: Backing): void {
  if (backing.tag === "shared") {
    closeSync(backing.file.fd);
  }
}

type Area = { readonly shared: boolean; readonly offset: number; readonly inode: number };

/** What lies at `address`, with the file offset of exactly that address. */
function readArea(pid: number, address: number): Area | undefined {
  for (const line of readFileSync(`/proc/${pid}/maps`, "latin1").split("\n")) {
    const [, start = "", end = "", permissions = "", offset = "", inode = ""] =
      /^(\w+)-(\w+) (\S+) (\w+) \S+ (\d+)/.exec(line) ?? [];
    const from = Number.parseInt(start, 16);
    if (from <= address && address < Number.parseInt(end, 16)) {
      const within = Number.parseInt(offset, 16) + address - from;
      return { shared: permissions.endsWith("s"), offset: within, inode: Number(inode) };
    }
  }
  return undefined;
}

function openDescriptorOf(pid: number, inode: number): number | undefined {
  for (const name of readdirSync(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${name}`;
    try {
      const found = statSync(path);
      if (found.isFile() && found.ino === inode) {
        return openSync(path, "r+");
      }
    } catch {
      // Closed meanwhile, or not ours to open.
    }
  }
  return undefined;
}
