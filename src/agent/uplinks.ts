/**
 * Whether this node's way to the guests' clients works, as far as the node itself can see.
 *
 * An uplink is the name of a network interface (its carrier counts), or the absolute path of a file whose first character
 * is 1 while the way works, for checks the owner writes himself. An interface that is missing or switched off is down.
 */
import { readFileSync } from "node:fs";

export type UplinkStatus = { readonly name: string; readonly up: boolean };

export function readUplinks(names: readonly string[]): readonly UplinkStatus[] {
  return names.map((name) => {
    const path = name.startsWith("/") ? name : `/sys/class/net/${name}/carrier`;
    try {
      return { name, up: readFileSync(path, "latin1").startsWith("1") };
    } catch {
      return { name, up: false };
    }
  });
}
