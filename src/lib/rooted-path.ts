/**
 * Where an absolute path of a process leads that has another root than ours: symbolic links are followed as that process would
 * follow them, an absolute one from its root, and `..` never leads out of it. What does not exist is taken as it is named.
 */

/** The target of a symbolic link, undefined for anything else. The path given to it is as we see it. */
export type ReadLink = (path: string) => string | undefined;

/** As the kernel does. */
const LINKS_MAX = 40;

/** The path as we have to name it; `root` is the other root as we see it. */
export function resolveInRoot(root: string, path: string, readLink: ReadLink): string {
  const base = root.replace(/\/+$/, "");
  const pending = path.split("/").reverse();
  const resolved: string[] = [];
  let linksCount = 0;
  for (let part = pending.pop(); part !== undefined; part = pending.pop()) {
    if (part === "" || part === ".") {
      continue;
    }
    if (part === "..") {
      resolved.pop();
      continue;
    }
    const target = linksCount < LINKS_MAX ? readLink([base, ...resolved, part].join("/")) : undefined;
    if (target === undefined) {
      resolved.push(part);
      continue;
    }
    linksCount += 1;
    if (target.startsWith("/")) {
      resolved.length = 0;
    }
    pending.push(...target.split("/").reverse());
  }
  return [base, ...resolved].join("/");
}
