/**
 * Records in Lease objects of a Kubernetes API server: nothing to install, but a failover waits while the API server is down.
 *
 * One Lease for each guest, all in one namespace. The record is JSON in the annotation `twinrun.dev/quorum-record`; the
 * holder is the record's owner, for people and `kubectl get leases`. Revision: the Lease's resourceVersion, which the server
 * never uses twice, so that a merge patch that names it is the compare-and-set (a patch, unlike a PUT, makes no Lease anew
 * that somebody deleted). Reads name no resourceVersion, and so are answered from etcd's quorum and not from a cache.
 *
 * A change may be sent again after a lost answer: if the first one got through, the second conflicts and the value that
 * is there is byte for byte ours (every record carries its request's id and version), which counts as stored; if the first
 * comes through after the second, it conflicts itself. Only when the time is up with an answer missing is the outcome unknown.
 *
 * A Lease must never be deleted or restored from a backup while its guest is protected: the record is what keeps the guest
 * from running twice.
 */
import { createHash } from "node:crypto";
import { recordLeaseName } from "../decide/guest-names.ts";
import { parseQuorumRecord } from "../net/quorum-wire.ts";
import type { QuorumRecord } from "../protocol/quorum-record.ts";
import { StoreFailure, type RecordStore, type SetOutcome, type StoredRecord } from "./record-store.ts";

export type LeaseRequest =
  | { readonly tag: "read"; readonly name: string }
  | { readonly tag: "create"; readonly lease: object }
  | { readonly tag: "patch"; readonly name: string; readonly patch: object };

export type LeaseReply =
  | { readonly tag: "answered"; readonly status: number; readonly body: unknown }
  /** Not `maybeDone`: the request cannot have reached the server. */
  | { readonly tag: "failed"; readonly maybeDone: boolean; readonly why: string };

/** Leases of one namespace, as src/kube gives them. */
export interface LeaseAccess {
  send(request: LeaseRequest, timeoutMs: number): Promise<LeaseReply>;
  close(): void;
}

export type LeaseStoreOptions = {
  readonly leases: LeaseAccess;
  /** For one try. */
  readonly attemptTimeoutMs?: number | undefined;
  /** For the whole operation. */
  readonly timeoutMs?: number | undefined;
};

/** What came of one try. `final`: trying again would change nothing. */
type Attempt =
  | { readonly tag: "stored"; readonly revision: string }
  | { readonly tag: "conflict" }
  | { readonly tag: "failed"; readonly maybeDone: boolean; readonly final: boolean; readonly why: string };

export const RECORD_ANNOTATION = "twinrun.dev/quorum-record";
const GUEST_LABEL = "twinrun.dev/guest";
/** Lower-case labels separated by dots, of a length that leaves room for the prefix and fits into a label's value. */
const PLAIN_NAME = /^(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const RECORD_LENGTH_MAX = 4_096;
const ATTEMPT_TIMEOUT_MS = 400;
/** Less than a node waits for an answer, so that it hears what is wrong. */
const TIMEOUT_MS = 900;
const PAUSE_MS = 20;
const WHYS_MAX = 4;
/** Refused before anything was stored; of these only the first may be answered otherwise a moment later. */
const REFUSED_FOR_NOW = new Set([401, 429]);
const REFUSED = new Set([400, 403, 404, 405, 406, 413, 415, 422]);

/**
 * The name of a guest's Lease. Two guests never share one: whatever is no name of an object is hashed, under a prefix that no
 * other guest's name can give.
 */
export function leaseNameOf(guest: string): string {
  return PLAIN_NAME.test(guest)
    ? recordLeaseName(guest)
    : `hashed-guest-${createHash("sha256").update(guest, "utf8").digest("hex")}`;
}

export class LeaseStore implements RecordStore {
  readonly #leases: LeaseAccess;
  readonly #attemptTimeoutMs: number;
  readonly #timeoutMs: number;

  constructor({ leases, attemptTimeoutMs, timeoutMs }: LeaseStoreOptions) {
    this.#leases = leases;
    this.#attemptTimeoutMs = attemptTimeoutMs ?? ATTEMPT_TIMEOUT_MS;
    this.#timeoutMs = timeoutMs ?? TIMEOUT_MS;
  }

  read(guest: string): Promise<StoredRecord | undefined> {
    return this.#read(guest, performance.now() + this.#timeoutMs);
  }

  async compareAndSet(guest: string, expectedRevision: string | undefined, record: QuorumRecord): Promise<SetOutcome> {
    const deadlineMs = performance.now() + this.#timeoutMs;
    const request = buildChange(guest, expectedRevision, record);
    const whys = new Set<string>();
    let maybeDone = false;
    for (;;) {
      const attempt = decodeChange(request, await this.#leases.send(request, this.#attemptTime(deadlineMs)));
      if (attempt.tag === "stored") {
        return attempt;
      }
      if (attempt.tag === "conflict") {
        return this.#settle(guest, record, { deadlineMs, maybeDone });
      }
      maybeDone ||= attempt.maybeDone;
      whys.add(attempt.why);
      if (attempt.final || isOver(deadlineMs)) {
        return endUnsettled(maybeDone, whys);
      }
      await pause();
    }
  }

  close(): Promise<void> {
    this.#leases.close();
    return Promise.resolve();
  }

  /** Of a conflict: what is there now, and whether it is ours from a try whose answer was lost. */
  async #settle(
    guest: string,
    record: QuorumRecord,
    { deadlineMs, maybeDone }: { readonly deadlineMs: number; readonly maybeDone: boolean },
  ): Promise<SetOutcome> {
    let current: StoredRecord | undefined;
    try {
      current = await this.#read(guest, deadlineMs);
    } catch (error) {
      if (maybeDone && error instanceof StoreFailure) {
        return { tag: "unknown", why: error.message };
      }
      throw error; // This try was refused and there was no other.
    }
    // Parsed, so that both have their fields in the same order.
    return current !== undefined && JSON.stringify(current.record) === JSON.stringify(parseQuorumRecord(record))
      ? { tag: "stored", revision: current.revision }
      : { tag: "conflict", current };
  }

  async #read(guest: string, deadlineMs: number): Promise<StoredRecord | undefined> {
    const whys = new Set<string>();
    for (;;) {
      const request = { tag: "read", name: leaseNameOf(guest) } as const;
      const reply = await this.#leases.send(request, this.#attemptTime(deadlineMs));
      if (reply.tag === "answered" && (reply.status === 200 || reply.status === 404)) {
        return reply.status === 404 ? undefined : decodeLease(guest, reply.body);
      }
      whys.add(writeReply(reply));
      if ((reply.tag === "answered" && REFUSED.has(reply.status)) || isOver(deadlineMs)) {
        throw unavailable(whys);
      }
      await pause();
    }
  }

  /** The pause before may have ended late: then there is still one attempt, a short one. */
  #attemptTime(deadlineMs: number): number {
    return Math.min(this.#attemptTimeoutMs, Math.max(1, deadlineMs - performance.now()));
  }
}

function buildChange(guest: string, expectedRevision: string | undefined, record: QuorumRecord): LeaseRequest {
  const name = leaseNameOf(guest);
  const annotations = { [RECORD_ANNOTATION]: JSON.stringify(record) };
  const spec = { holderIdentity: record.owner };
  if (expectedRevision !== undefined) {
    return { tag: "patch", name, patch: { metadata: { resourceVersion: expectedRevision, annotations }, spec } };
  }
  const labels = PLAIN_NAME.test(guest) ? { [GUEST_LABEL]: guest } : {};
  const metadata = { name, labels: { ...labels, "app.kubernetes.io/part-of": "twinrun" }, annotations };
  return { tag: "create", lease: { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata, spec } };
}

function decodeChange(request: LeaseRequest, reply: LeaseReply): Attempt {
  const why = writeReply(reply);
  if (reply.tag === "failed") {
    return { tag: "failed", maybeDone: reply.maybeDone, final: false, why };
  }
  const { status } = reply;
  if (status === 200 || status === 201) {
    const revision = readRevision(reply.body);
    return revision === undefined
      ? { tag: "failed", maybeDone: true, final: false, why: "the API server's answer has no resourceVersion" }
      : { tag: "stored", revision };
  }
  // There is no Lease to patch: then somebody expects a revision of a record that is not there.
  if (status === 409 || (status === 404 && request.tag === "patch")) {
    return { tag: "conflict" };
  }
  return {
    tag: "failed",
    maybeDone: !REFUSED.has(status) && !REFUSED_FOR_NOW.has(status),
    final: REFUSED.has(status),
    why,
  };
}

function decodeLease(guest: string, body: unknown): StoredRecord {
  const value = (body as LeaseObject).metadata?.annotations?.[RECORD_ANNOTATION];
  const revision = readRevision(body);
  try {
    if (revision === undefined || typeof value !== "string" || value.length > RECORD_LENGTH_MAX) {
      throw new Error(`it has no annotation ${RECORD_ANNOTATION} of at most ${RECORD_LENGTH_MAX} characters`);
    }
    const record = parseQuorumRecord(JSON.parse(value));
    if (record.guest !== guest) {
      throw new Error(`it is the record of ${record.guest}`);
    }
    return { record, revision };
  } catch (error) {
    const says = `Lease ${leaseNameOf(guest)} holds no quorum record of ${guest} (${String(error)}): put back the record that the log of the quorum shows last for it`;
    throw new StoreFailure({ code: "RecordDamaged", where: guest }, says, { cause: error });
  }
}

type LeaseObject = {
  readonly metadata?: {
    readonly resourceVersion?: unknown;
    readonly annotations?: Readonly<Record<string, unknown>>;
  };
  readonly message?: unknown;
};

function readRevision(body: unknown): string | undefined {
  const revision = (body as LeaseObject | null)?.metadata?.resourceVersion;
  return typeof revision === "string" && revision !== "" ? revision : undefined;
}

function writeReply(reply: LeaseReply): string {
  if (reply.tag === "failed") {
    return reply.why;
  }
  const message = (reply.body as LeaseObject | null)?.message;
  return `the API server answers ${reply.status}${typeof message === "string" ? `, ${message.slice(0, 200)}` : ""}`;
}

function endUnsettled(maybeDone: boolean, whys: ReadonlySet<string>): SetOutcome {
  if (maybeDone) {
    return { tag: "unknown", why: writeWhys(whys) };
  }
  throw unavailable(whys);
}

function unavailable(whys: ReadonlySet<string>): StoreFailure {
  const why = writeWhys(whys);
  const says = `${why}; check that the API server is up and that the quorum's service account may get, create and patch Leases`;
  return new StoreFailure({ code: "StoreUnavailable", why }, says);
}

const writeWhys = (whys: ReadonlySet<string>): string => [...whys].slice(0, WHYS_MAX).join("; ");
const isOver = (deadlineMs: number): boolean => performance.now() + PAUSE_MS >= deadlineMs;
const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
