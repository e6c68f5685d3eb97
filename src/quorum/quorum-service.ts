/**
 * Carries out one call of a node on the store: reads the record, asks the rules (protocol/quorum-record.ts), and stores
 * what they grant by compare-and-set.
 *
 * The service keeps nothing itself, so any number of replicas may run on one store, and a replica may die between any two
 * steps: the caller repeats the request with its requestId, and the rules know it again. A grant is answered only after
 * the store said that it is durable.
 */
import { decideQuorumRequest, type QuorumRequest } from "../protocol/quorum-record.ts";
import type { PeerIdentity } from "../net/peer-identity.ts";
import { QUORUM_WIRE_VERSION, type CallMessage, type QuorumAnswer } from "../net/quorum-wire.ts";
import { StoreFailure, type RecordStore } from "./record-store.ts";

/** Each round somebody else has succeeded; two nodes and their retries do not come this far. */
const ROUNDS_MAX = 8;
const HEALTH_GUEST = "twinrun-health";
const HEALTH_AGE_MS = 500;

export class QuorumService {
  readonly #store: RecordStore;
  #health: { readonly answer: Promise<boolean>; readonly atMs: number } | undefined;

  constructor(store: RecordStore) {
    this.#store = store;
  }

  async answer(caller: PeerIdentity, { version, call }: CallMessage): Promise<QuorumAnswer> {
    if (version !== QUORUM_WIRE_VERSION) {
      const why = `the node speaks version ${version} of the quorum protocol, this service ${QUORUM_WIRE_VERSION}: upgrade the older one`;
      return { tag: "notDone", code: "PeerVersionMismatch", why };
    }
    try {
      switch (call.tag) {
        case "change":
          return await this.#change(caller, call.request);
        case "read":
          return { tag: "record", record: (await this.#store.read(call.guest))?.record };
        case "remove":
          return await this.#remove(caller, call.guest);
        case "health":
          return { tag: "health", storeAnswers: await this.isStoreHealthy() };
      }
    } catch (error) {
      if (error instanceof StoreFailure) {
        const code = error.detail.code === "RecordDamaged" ? "RecordDamaged" : "StoreUnavailable";
        return { tag: "notDone", code, why: error.message };
      }
      throw error;
    }
  }

  async #change(caller: PeerIdentity, request: QuorumRequest): Promise<QuorumAnswer> {
    if (caller.service !== "node" || caller.name !== request.by) {
      const why = `${caller.service} ${caller.name} asks in the name of node ${request.by}: give each node the certificate of its own name`;
      return { tag: "notDone", code: "ForeignNode", why };
    }
    for (let round = 0; round < ROUNDS_MAX; round += 1) {
      const stored = await this.#store.read(request.guest);
      const decision = decideQuorumRequest(stored?.record, request);
      if (decision.tag === "refused") {
        return { tag: "refused", reason: decision.reason, record: decision.record };
      }
      if (!decision.changed) {
        return { tag: "granted", record: decision.record, changed: false };
      }
      const outcome = await this.#store.compareAndSet(request.guest, stored?.revision, decision.record);
      if (outcome.tag === "stored") {
        return { tag: "granted", record: decision.record, changed: true };
      }
      if (outcome.tag === "unknown") {
        return { tag: "unknown", why: outcome.why };
      }
    }
    return {
      tag: "notDone",
      code: "Contended",
      why: `the record of ${request.guest} is changed all the time: ask again`,
    };
  }

  /** Who may do it knows that the guest is gone: without its record nobody is stopped from starting it. */
  async #remove(caller: PeerIdentity, guest: string): Promise<QuorumAnswer> {
    if (caller.service !== "operator") {
      const why = `${caller.service} ${caller.name} asks to remove the record of ${guest}: that is the operator's to ask`;
      return { tag: "notDone", code: "ForeignNode", why };
    }
    if (this.#store.remove === undefined) {
      const why = "records are objects of the API server here: the operator removes them there";
      return { tag: "notDone", code: "BadRequest", why };
    }
    await this.#store.remove(guest);
    return { tag: "removed" };
  }

  /** One look serves everybody for half a second, however many engines ask. */
  isStoreHealthy(): Promise<boolean> {
    const nowMs = performance.now();
    if (this.#health === undefined || nowMs - this.#health.atMs > HEALTH_AGE_MS) {
      const answer = this.#store.read(HEALTH_GUEST).then(
        () => true,
        (error: unknown) => {
          if (error instanceof StoreFailure) {
            return false;
          }
          throw error;
        },
      );
      this.#health = { answer, atMs: nowMs };
    }
    return this.#health.answer;
  }
}
