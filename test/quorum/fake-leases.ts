/** An API server's Leases of one namespace, as far as the quorum's store uses them; answers get lost when told to. */
import { type LeaseAccess, type LeaseReply, type LeaseRequest } from "../../src/quorum/lease-store.ts";

type Metadata = {
  readonly name: string;
  readonly resourceVersion: string;
  readonly annotations: Readonly<Record<string, string>>;
  readonly labels?: Readonly<Record<string, string>>;
};
export type FakeLease = { readonly metadata: Metadata; readonly spec: { readonly holderIdentity?: string } };
/** What becomes of a request: its answer may get lost after it was carried out, or it may not get there at all. */
export type Fate = "carriedOut" | "answerLost" | "notReached" | { readonly status: number };

export class FakeLeases implements LeaseAccess {
  readonly leases = new Map<string, FakeLease>();
  /** Fates of the next requests; those after them are carried out. */
  readonly fates: Fate[] = [];
  readonly requests: LeaseRequest[] = [];
  #revision = 100;

  async send(request: LeaseRequest): Promise<LeaseReply> {
    await Promise.resolve();
    this.requests.push(request);
    const fate = this.fates.shift() ?? "carriedOut";
    if (typeof fate === "object") {
      return { tag: "answered", status: fate.status, body: { message: "as told" } };
    }
    if (fate === "notReached") {
      return { tag: "failed", maybeDone: false, why: "connection refused" };
    }
    const reply = this.#carryOut(request);
    return fate === "answerLost" ? { tag: "failed", maybeDone: true, why: "no answer" } : reply;
  }

  close(): void {
    this.leases.clear();
  }

  /** As if somebody else had written it. */
  put(name: string, annotations: Readonly<Record<string, string>>): void {
    this.#store({ metadata: { name, resourceVersion: "", annotations }, spec: {} });
  }

  #carryOut(request: LeaseRequest): LeaseReply {
    switch (request.tag) {
      case "read":
        return answer(200, this.leases.get(request.name));
      case "create": {
        const lease = request.lease as FakeLease;
        return this.leases.has(lease.metadata.name) ? answer(409) : answer(201, this.#store(lease));
      }
      case "patch":
        return this.#patch(request.name, request.patch as FakeLease);
    }
  }

  #patch(name: string, { metadata, spec }: FakeLease): LeaseReply {
    const lease = this.leases.get(name);
    if (lease === undefined) {
      return answer(404);
    }
    if (lease.metadata.resourceVersion !== metadata.resourceVersion) {
      return answer(409);
    }
    const annotations = { ...lease.metadata.annotations, ...metadata.annotations };
    return answer(200, this.#store({ metadata: { ...lease.metadata, annotations }, spec: { ...lease.spec, ...spec } }));
  }

  #store(lease: FakeLease): FakeLease {
    this.#revision += 1;
    const stored = { ...lease, metadata: { ...lease.metadata, resourceVersion: String(this.#revision) } };
    this.leases.set(lease.metadata.name, stored);
    return stored;
  }
}

const answer = (status: number, lease?: FakeLease): LeaseReply =>
  lease === undefined
    ? { tag: "answered", status: status === 200 ? 404 : status, body: { message: "no" } }
    : { tag: "answered", status, body: structuredClone(lease) };
