/** What every store of the quorum has to do; run for each of them, and for the fakes in their place. */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { present } from "../../src/lib/assert.ts";
import { type RecordStore } from "../../src/quorum/record-store.ts";
import { aRecord } from "./records.ts";

/** The store must have no record when the first test begins. `removes`: it can; see RecordStore. */
export function describeRecordStore(name: string, open: () => Promise<RecordStore>, removes = true): void {
  describe(name, () => {
    let store: RecordStore;
    beforeAll(async () => {
      store = await open();
    });
    afterAll(() => store.close());

    test("there is nothing before the first record", async () => {
      expect(await store.read("nobody")).toBeUndefined();
    });

    test("a record is stored on the expected revision and on no other", async () => {
      const [first, second] = [aRecord({ guest: "ns/g" }), aRecord({ guest: "ns/g", version: 2, peerState: "InSync" })];
      const created = await store.compareAndSet("ns/g", undefined, first);
      expect(created).toMatchObject({ tag: "stored" });
      const stored = present(await store.read("ns/g"), "stored");
      expect(stored.record).toEqual(first);
      expect(await store.compareAndSet("ns/g", undefined, second)).toEqual({ tag: "conflict", current: stored });
      expect(await store.compareAndSet("ns/g", "987654", second)).toEqual({ tag: "conflict", current: stored });
      const changed = await store.compareAndSet("ns/g", stored.revision, second);
      expect(changed).toMatchObject({ tag: "stored" });
      const newer = present(await store.read("ns/g"), "stored");
      expect(newer).toEqual({ record: second, revision: changed.tag === "stored" ? changed.revision : "" });
      expect(await store.compareAndSet("ns/g", stored.revision, first)).toEqual({ tag: "conflict", current: newer });
    });

    test("a revision is expected where there is no record: conflict", async () => {
      expect(await store.compareAndSet("absent", "5", aRecord({ guest: "absent" }))).toEqual({
        tag: "conflict",
        current: undefined,
      });
    });

    (removes ? test : test.skip)("a record that was removed is gone, the others stay", async () => {
      for (const guest of ["gone", "stays"]) {
        await store.compareAndSet(guest, undefined, aRecord({ guest }));
      }
      const remove = async (guest: string): Promise<void> => store.remove?.(guest);
      await Promise.all([remove("gone"), remove("never")]);
      await remove("gone");
      expect(await store.read("gone")).toBeUndefined();
      expect((await store.read("stays"))?.record).toEqual(aRecord({ guest: "stays" }));
    });

    test("of many that want the same revision exactly one succeeds", async () => {
      const racers = Array.from({ length: 12 }, (_, index) =>
        store.compareAndSet(
          "race",
          undefined,
          aRecord({ guest: "race", owner: `node-${index}`, lastRequestId: `r${index}` }),
        ),
      );
      const outcomes = await Promise.all(racers);
      const winners = outcomes.flatMap(({ tag }, index) => (tag === "stored" ? [`node-${index}`] : []));
      expect(winners).toEqual([(await store.read("race"))?.record.owner]);
      expect(outcomes.filter(({ tag }) => tag === "conflict").length).toBe(11);
    });
  });
}
