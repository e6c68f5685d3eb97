/**
 * A lock on a directory that the kernel lets go when its holder dies, however it dies.
 *
 * It is the POSIX record lock that SQLite takes on an empty database file in exclusive mode: Node offers no flock of its
 * own, a file with a process id says nothing across PID namespaces and survives kill -9, and an abstract socket is not
 * seen from another network namespace. Works between containers that share the directory, and on NFS with lockd.
 */
import { DatabaseSync } from "node:sqlite";
import { join } from "node:path";
import { StoreFailure } from "./record-store.ts";

const LOCK_FILE = "lock";

/** Throws a {@link StoreFailure} when another process holds it. Returns what lets it go. */
export function openProcessLock(directory: string): () => void {
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(join(directory, LOCK_FILE));
    database.exec("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE");
  } catch (error) {
    database?.close();
    const isTaken = String(error).includes("database is locked");
    const detail = isTaken
      ? ({ code: "StoreLocked", directory } as const)
      : ({ code: "StoreUnavailable", why: String(error) } as const);
    const says = isTaken
      ? `${directory} is in use by another quorum process: stop that one, or give this one a directory of its own`
      : `${directory} cannot be locked (${String(error)}): it must be a directory this user may write to`;
    throw new StoreFailure(detail, says, { cause: error });
  }
  const held = database;
  return () => {
    held.close();
  };
}
