/**
 * Where the quorum keeps its records: the guest's record, and a revision that changes whenever the record does.
 *
 * Contract of every store: `compareAndSet` stores only if the revision is still the expected one (undefined: there is no
 * record yet); once it said `stored`, every later `read`, after any crash, sees that record or a later one. `unknown` means that it may or may not
 * have been stored, or still may be; a later read decides. A {@link StoreFailure} means that it was not stored and never
 * will be by that call. `read` never returns what a crash could still take back.
 */
import { Failure } from "../lib/failure.ts";
import type { QuorumRecord } from "../protocol/quorum-record.ts";

export type StoredRecord = { readonly record: QuorumRecord; readonly revision: string };

export type SetOutcome =
  | { readonly tag: "stored"; readonly revision: string }
  | { readonly tag: "conflict"; readonly current: StoredRecord | undefined }
  | { readonly tag: "unknown"; readonly why: string };

export interface RecordStore {
  read(guest: string): Promise<StoredRecord | undefined>;
  compareAndSet(guest: string, expectedRevision: string | undefined, record: QuorumRecord): Promise<SetOutcome>;
  /**
   * Of a guest that is gone and whose name is never used again; repeating it does no harm. Absent where records are objects of the
   * API server: there the operator removes them with the guest's other ones.
   */
  remove?(guest: string): Promise<void>;
  close(): Promise<void>;
}

export type StoreFailureDetail =
  /** Another process has the directory open. */
  | { readonly code: "StoreLocked"; readonly directory: string }
  /** A record's file or value is not what we wrote. */
  | { readonly code: "RecordDamaged"; readonly where: string }
  /** The store cannot be used now; the request was not carried out. */
  | { readonly code: "StoreUnavailable"; readonly why: string };
export class StoreFailure extends Failure<StoreFailureDetail> {}
