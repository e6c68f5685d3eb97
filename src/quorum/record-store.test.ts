/**
 * What every store has to do, on each of them: the directory, the fake disk, etcd with one member and with three, and
 * Leases as the fake keeps them (those of a real API server: test/lab/kubernetes/lease-store.test.ts).
 */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findLeader, killMember, startEtcd, type EtcdCluster } from "../../test/quorum/etcd-members.ts";
import { FakeDisk } from "../../test/quorum/fake-disk.ts";
import { FakeLeases } from "../../test/quorum/fake-leases.ts";
import { describeRecordStore } from "../../test/quorum/record-store-contract.ts";
import { aRecord } from "../../test/quorum/records.ts";
import { openSwallower } from "../../test/quorum/swallower.ts";
import { present } from "../lib/assert.ts";
import { EtcdStore } from "./etcd-store.ts";
import { FileStore } from "./file-store.ts";
import { LeaseStore } from "./lease-store.ts";
import { StoreFailure, type RecordStore } from "./record-store.ts";

let one: EtcdCluster;
let three: EtcdCluster;
let directory = "";

beforeAll(async () => {
  [one, three] = await Promise.all([startEtcd(1), startEtcd(3)]);
  directory = await mkdtemp(join(tmpdir(), "record-store-"));
}, 30_000);

afterAll(async () => {
  await Promise.all([one.close(), three.close(), rm(directory, { recursive: true, force: true })]);
}, 30_000);

const STORES: readonly { readonly name: string; readonly open: () => Promise<RecordStore> }[] = [
  { name: "a directory", open: () => FileStore.open(directory) },
  { name: "the fake disk", open: () => FileStore.load(new FakeDisk()) },
  { name: "etcd, one member", open: () => Promise.resolve(new EtcdStore({ urls: one.urls })) },
  { name: "etcd, three members", open: () => Promise.resolve(new EtcdStore({ urls: three.urls })) },
  { name: "fake Leases", open: () => Promise.resolve(new LeaseStore({ leases: new FakeLeases() })) },
];

STORES.forEach(({ name, open }) => {
  describeRecordStore(name, open, !name.includes("Leases"));
});

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no failure",
    (error: unknown) => (error instanceof StoreFailure ? error.detail.code : String(error)),
  );

describe("an etcd that misbehaves", () => {
  test("a member that says nothing is not waited for", async () => {
    const way = await openSwallower(present(one.urls[0], "url"));
    const urls = [way.url, present(one.urls[0], "url")];
    const store = new EtcdStore({ urls, attemptTimeoutMs: 60_000, timeoutMs: 120_000 });
    const record = aRecord({ guest: "hedged" });
    await store.read("hedged");
    way.freeze();
    expect(await store.compareAndSet("hedged", undefined, record)).toMatchObject({ tag: "stored" });
    expect(await store.read("hedged")).toMatchObject({ record });
    way.close();
    await store.close();
  });

  test("an answer lost on every way is unknown, and a later read shows that it was stored", async () => {
    const way = await openSwallower(present(one.urls[0], "url"));
    const store = new EtcdStore({ urls: [way.url], timeoutMs: 300 });
    await store.read("warm");
    way.swallow = true;
    expect(await store.compareAndSet("lost", undefined, aRecord({ guest: "lost" }))).toMatchObject({ tag: "unknown" });
    expect(await codeOf(store.read("lost"))).toBe("StoreUnavailable");
    way.swallow = false;
    expect((await store.read("lost"))?.record).toEqual(aRecord({ guest: "lost" }));
    way.close();
    await store.close();
  });

  test("an answer lost on one way is made good on another, and carried out once", async () => {
    const way = await openSwallower(present(one.urls[0], "url"));
    const store = new EtcdStore({ urls: [way.url, ...one.urls] });
    await store.read("warm");
    way.swallow = true;
    const outcome = await store.compareAndSet("twice", undefined, aRecord({ guest: "twice" }));
    expect(outcome).toEqual({ tag: "stored", revision: (await store.read("twice"))?.revision });
    way.close();
    await store.close();
  });

  test("no etcd at all: certainly not stored, with the remedy", async () => {
    const store = new EtcdStore({ urls: ["http://127.0.0.1:1"], timeoutMs: 100 });
    expect(await codeOf(store.compareAndSet("g", undefined, aRecord()))).toBe("StoreUnavailable");
    await expect(store.read("g")).rejects.toThrow("check that etcd has a leader");
    await store.close();
  });

  test("a value that is no record is reported, not used", async () => {
    const [url = ""] = one.urls;
    const key = Buffer.from("/twinrun/quorum/strange").toString("base64");
    const body = JSON.stringify({ key, value: Buffer.from('{"owner":"a"}').toString("base64") });
    await fetch(`${url}/v3/kv/put`, { method: "POST", body });
    const store = new EtcdStore({ urls: one.urls });
    expect(await codeOf(store.read("strange"))).toBe("RecordDamaged");
    await store.close();
  });
});

test("the leader of three members is killed under load: every acknowledged change stays, none is done twice", async () => {
  const store = new EtcdStore({ urls: three.urls, attemptTimeoutMs: 200, timeoutMs: 3_000 });
  let version = 0;
  let revision: string | undefined;
  let unknown = 0;
  const stop = performance.now() + 3_000;
  const killing = new Promise<void>((resolve) => {
    setTimeout(() => {
      findLeader(three).then(killMember).then(resolve, resolve);
    }, 700);
  });
  while (performance.now() < stop) {
    const record = aRecord({ guest: "load", version: version + 1 });
    const outcome = await store.compareAndSet("load", revision, record);
    if (outcome.tag === "conflict") {
      throw new Error(`lost version ${version}: ${JSON.stringify(outcome)}`);
    }
    if (outcome.tag === "unknown") {
      unknown += 1;
      continue; // The same record again: either it is there already, byte for byte, or it gets there now.
    }
    version += 1;
    revision = outcome.revision;
  }
  await killing;
  const stored = present(await store.read("load"), "stored");
  expect(stored).toEqual({ record: aRecord({ guest: "load", version }), revision });
  expect(three.members.filter(({ process }) => process.signalCode === "SIGKILL").length).toBe(1);
  expect(version).toBeGreaterThan(50);
  expect(unknown).toBeLessThan(5);
  await store.close();
}, 20_000);
