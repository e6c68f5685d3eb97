/** Leases as the fake keeps them; what every store has to do is in record-store.test.ts. */
import { describe, expect, test } from "@jest/globals";
import { FakeLeases, type Fate } from "../../test/quorum/fake-leases.ts";
import { aRecord } from "../../test/quorum/records.ts";
import { leaseNameOf, LeaseStore, RECORD_ANNOTATION } from "./lease-store.ts";
import { StoreFailure, type SetOutcome } from "./record-store.ts";

const timing = { attemptTimeoutMs: 20, timeoutMs: 100 } as const;
const record = aRecord({ guest: "g" });

function open(...fates: readonly Fate[]): { readonly leases: FakeLeases; readonly store: LeaseStore } {
  const leases = new FakeLeases();
  leases.fates.push(...fates);
  return { leases, store: new LeaseStore({ leases, ...timing }) };
}

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    (value) => `no failure but ${JSON.stringify(value)}`,
    (error: unknown) => (error instanceof StoreFailure ? error.detail.code : String(error)),
  );

describe("names", () => {
  test.each([
    { guest: "db-1a2b3c4d", name: "guest-db-1a2b3c4d" },
    { guest: "a.b", name: "guest-a.b" },
    { guest: "shop/db", name: expect.stringMatching(/^hashed-guest-[0-9a-f]{64}$/) },
    { guest: "Db", name: expect.stringMatching(/^hashed-guest-[0-9a-f]{64}$/) },
    { guest: "a..b", name: expect.stringMatching(/^hashed-guest-[0-9a-f]{64}$/) },
    { guest: "a-", name: expect.stringMatching(/^hashed-guest-[0-9a-f]{64}$/) },
    { guest: "x".repeat(100), name: expect.stringMatching(/^hashed-guest-[0-9a-f]{64}$/) },
  ])("$guest => $name", ({ guest, name }) => {
    expect(leaseNameOf(guest)).toEqual(name);
  });

  test("different guests have different Leases", () => {
    const guests = ["a", "A", "a.b", "a/b", "a_b", "ab", "a-b", "hashed-a", leaseNameOf("A").replace("guest-", "")];
    expect(new Set(guests.map(leaseNameOf)).size).toBe(guests.length);
  });
});

test("people see whose record it is and who owns the guest", async () => {
  const { leases, store } = open();
  await store.compareAndSet("g", undefined, record);
  expect(leases.leases.get("guest-g")).toMatchObject({
    metadata: { labels: { "twinrun.dev/guest": "g" } },
    spec: { holderIdentity: "a" },
  });
});

type Case = {
  readonly when: string;
  readonly fates: readonly Fate[];
  readonly outcome: unknown;
  /** Whether the record is there afterwards. */
  readonly isThere: boolean;
};
const stored: unknown = { tag: "stored", revision: expect.any(String) as unknown };
const unknown: unknown = { tag: "unknown", why: expect.any(String) as unknown };

test.each<Case>([
  { when: "the answer is lost once", fates: ["answerLost"], outcome: stored, isThere: true },
  { when: "the first request does not get there", fates: ["notReached"], outcome: stored, isThere: true },
  { when: "the server asks to wait", fates: [{ status: 429 }], outcome: stored, isThere: true },
  { when: "the token is too old", fates: [{ status: 401 }], outcome: stored, isThere: true },
  { when: "the server fails once", fates: [{ status: 500 }], outcome: stored, isThere: true },
  {
    when: "the answer is lost and then nobody is there",
    fates: ["answerLost", ...Array<Fate>(20).fill("notReached")],
    outcome: unknown,
    isThere: true,
  },
  {
    when: "the answer is lost, and what is there cannot be read",
    fates: ["answerLost", "carriedOut", ...Array<Fate>(20).fill("notReached")],
    outcome: unknown,
    isThere: true,
  },
  {
    when: "the server fails all the time",
    fates: Array<Fate>(20).fill({ status: 503 }),
    outcome: unknown,
    isThere: false,
  },
  { when: "nobody is there", fates: Array<Fate>(20).fill("notReached"), outcome: "StoreUnavailable", isThere: false },
  { when: "we may not", fates: [{ status: 403 }], outcome: "StoreUnavailable", isThere: false },
  { when: "the server finds it wrong", fates: [{ status: 422 }], outcome: "StoreUnavailable", isThere: false },
  {
    when: "the first answer is lost and then we may not any more",
    fates: ["answerLost", { status: 403 }],
    outcome: unknown,
    isThere: true,
  },
])("$when => $outcome", async ({ fates, outcome, isThere }) => {
  const { leases, store } = open(...fates);
  const setting: Promise<SetOutcome> = store.compareAndSet("g", undefined, record);
  expect(await setting.catch((error: unknown) => (error as StoreFailure).detail.code)).toEqual(outcome);
  leases.fates.length = 0;
  expect((await store.read("g"))?.record).toEqual(isThere ? record : undefined);
});

test("after a lost answer another's record is a conflict and not ours", async () => {
  const { leases, store } = open("notReached");
  const setting = store.compareAndSet("g", undefined, record);
  leases.put("guest-g", { [RECORD_ANNOTATION]: JSON.stringify(aRecord({ guest: "g", owner: "b", peer: "a" })) });
  expect(await setting).toMatchObject({ tag: "conflict", current: { record: { owner: "b" } } });
});

test("of a conflict nobody can read the other side of, it is certain that it was not stored", async () => {
  const { leases, store } = open();
  await store.compareAndSet("g", undefined, aRecord({ guest: "g", owner: "b", peer: "a" }));
  leases.fates.push("carriedOut", ...Array<Fate>(20).fill("notReached"));
  expect(await codeOf(store.compareAndSet("g", undefined, record))).toBe("StoreUnavailable");
});

test("a Lease that was deleted is not made anew by whoever expects a revision of it", async () => {
  const { leases, store } = open();
  const first = await store.compareAndSet("g", undefined, record);
  leases.leases.clear();
  const revision = first.tag === "stored" ? first.revision : "";
  expect(await store.compareAndSet("g", revision, aRecord({ guest: "g", version: 2 }))).toEqual({
    tag: "conflict",
    current: undefined,
  });
  expect(leases.leases.size).toBe(0);
});

test.each([
  { when: "nothing in it", annotations: {} },
  { when: "no JSON", annotations: { [RECORD_ANNOTATION]: "{" } },
  { when: "no record", annotations: { [RECORD_ANNOTATION]: '{"owner":"a"}' } },
  { when: "another guest's record", annotations: { [RECORD_ANNOTATION]: JSON.stringify(aRecord({ guest: "h" })) } },
  {
    when: "far too much",
    annotations: { [RECORD_ANNOTATION]: JSON.stringify({ ...record, more: "x".repeat(10_000) }) },
  },
])("a Lease with $when is reported, not used", async ({ annotations }) => {
  const { leases, store } = open();
  leases.put("guest-g", annotations);
  expect(await codeOf(store.read("g"))).toBe("RecordDamaged");
  expect(await codeOf(store.compareAndSet("g", undefined, record))).toBe("RecordDamaged");
});
