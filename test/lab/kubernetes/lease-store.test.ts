/** The quorum's records in Leases of a real API server: the contract of every store, races, lost answers, rights. */
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openServiceAccount } from "../../../src/kube/access.ts";
import { LeaseClient } from "../../../src/kube/lease-client.ts";
import { present } from "../../../src/lib/assert.ts";
import { LeaseStore, type LeaseStoreOptions } from "../../../src/quorum/lease-store.ts";
import { StoreFailure } from "../../../src/quorum/record-store.ts";
import { describeRecordStore } from "../../quorum/record-store-contract.ts";
import { aRecord } from "../../quorum/records.ts";
import { openSwallower } from "../../quorum/swallower.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { describeWith } from "./describe-with.ts";
import { create, createAccount, mountToken } from "./service-accounts.ts";

const namespace = "twinrun";
const startMsMax = 180_000;
/** For a machine that has other things to do. */
const patient = { attemptTimeoutMs: 10_000, timeoutMs: 20_000 } as const;
const writer = new URL("../../quorum/lease-store-writer.ts", import.meta.url).pathname;

let plane: ControlPlane;
let directory = "";
let account = "";

type Timing = Pick<LeaseStoreOptions, "attemptTimeoutMs" | "timeoutMs">;
type StoreWish = { readonly url?: string; readonly mounted?: string; readonly timing?: Timing };

/** As a quorum's pod opens it. */
function openStore({ url = plane.url, mounted = account, timing = patient }: StoreWish = {}): LeaseStore {
  const { hostname, port } = new URL(url);
  const source = openServiceAccount(mounted, { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port });
  return new LeaseStore({ leases: new LeaseClient(source, namespace), ...timing });
}

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no failure",
    (error: unknown) => (error instanceof StoreFailure ? error.detail.code : String(error)),
  );

describeWith(["etcd", "kube-apiserver"], import.meta.filename)("Leases of a real API server", () => {
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "lease-store-"));
    plane = await startControlPlane();
    await create(plane, "/api/v1/namespaces", { metadata: { name: namespace } });
    const rules = [{ apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["get", "create", "patch"] }];
    await createAccount(plane, { namespace, name: "twinrun-quorum", rules });
    await createAccount(plane, { namespace, name: "nobody", rules: [] });
    account = await mountToken(plane, { namespace, account: "twinrun-quorum" }, join(directory, "quorum"));
  }, startMsMax);

  afterAll(async () => {
    await (plane as ControlPlane | undefined)?.stop();
    rmSync(directory, { recursive: true, force: true });
  }, startMsMax);

  describeRecordStore("as every store", () => Promise.resolve(openStore()), false);

  test("people see the owner as the holder", async () => {
    const store = openStore();
    await store.compareAndSet("seen-1a2b3c4d", undefined, aRecord({ guest: "seen-1a2b3c4d", owner: "node-1" }));
    const path = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/guest-seen-1a2b3c4d`;
    expect((await plane.admin.send("GET", path)).body).toMatchObject({
      metadata: { labels: { "twinrun.dev/guest": "seen-1a2b3c4d" } },
      spec: { holderIdentity: "node-1" },
    });
    await store.close();
  });

  test("two processes change one record at once: no change is lost and none is done twice", async () => {
    const store = openStore();
    await store.compareAndSet("raced", undefined, aRecord({ guest: "raced" }));
    const counts = await Promise.all(["p", "q"].map((name) => runWriter({ name, guest: "raced", changes: 60 })));
    const stored = present(await store.read("raced"), "record");
    expect(counts.map(({ stored: count }) => count)).toEqual([60, 60]);
    expect(stored.record.version).toBe(1 + 60 + 60);
    expect(counts.reduce((sum, { conflicts }) => sum + conflicts, 0)).toBeGreaterThan(0);
    await store.close();
  });

  test("a Lease that somebody deleted is not made anew by a change of it", async () => {
    const store = openStore();
    const created = await store.compareAndSet("gone", undefined, aRecord({ guest: "gone" }));
    await plane.admin.send("DELETE", `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/guest-gone`);
    const revision = created.tag === "stored" ? created.revision : "";
    const changing = store.compareAndSet("gone", revision, aRecord({ guest: "gone", version: 2 }));
    expect(await changing).toEqual({ tag: "conflict", current: undefined });
    expect(await store.read("gone")).toBeUndefined();
    await store.close();
  });

  test("an answer lost on every way is unknown, and a later read shows that it was stored", async () => {
    const way = await openSwallower(plane.url);
    const store = openStore({ url: way.url, timing: { attemptTimeoutMs: 1_000, timeoutMs: 2_000 } });
    await store.read("warm");
    way.swallow = true;
    expect(await store.compareAndSet("lost", undefined, aRecord({ guest: "lost" }))).toMatchObject({ tag: "unknown" });
    expect(await codeOf(store.read("lost"))).toBe("StoreUnavailable");
    way.swallow = false;
    expect((await store.read("lost"))?.record).toEqual(aRecord({ guest: "lost" }));
    way.close();
    await store.close();
  });

  test("a connection that died without a word is given up, with those that idle beside it", async () => {
    const way = await openSwallower(plane.url);
    const store = openStore({ url: way.url, timing: { attemptTimeoutMs: 1_000, timeoutMs: 8_000 } });
    await Promise.all(["a", "b", "c", "d"].map((guest) => store.read(guest)));
    way.freeze();
    const startedMs = performance.now();
    expect(await store.compareAndSet("frozen", undefined, aRecord({ guest: "frozen" }))).toMatchObject({
      tag: "stored",
    });
    expect(performance.now() - startedMs).toBeLessThan(3_000);
    way.close();
    await store.close();
  });

  test("nobody there: certainly not stored", async () => {
    const store = openStore({ url: "https://127.0.0.1:1", timing: { attemptTimeoutMs: 100, timeoutMs: 200 } });
    expect(await codeOf(store.compareAndSet("g", undefined, aRecord()))).toBe("StoreUnavailable");
    await store.close();
  });

  test("an account without the right hears what it lacks", async () => {
    const poor = await mountToken(plane, { namespace, account: "nobody" }, join(directory, "nobody"));
    const store = openStore({ mounted: poor });
    await expect(store.read("g")).rejects.toThrow(/403.*cannot get resource "leases"/);
    await store.close();
  });

  test("a token that is replaced is taken up when the server does not take the old one any more", async () => {
    const rotated = await mountToken(plane, { namespace, account: "twinrun-quorum" }, join(directory, "rotated"));
    const right = join(account, "token");
    writeFileSync(join(rotated, "token"), "not.a.token");
    const store = openStore({ mounted: rotated });
    setTimeout(() => {
      writeFileSync(join(rotated, "token"), readFileSync(right));
    }, 200);
    expect(await store.read("nothing")).toBeUndefined();
    await store.close();
  });
});

type WriterWish = { readonly name: string; readonly guest: string; readonly changes: number };
type WriterCounts = { readonly stored: number; readonly conflicts: number };

function runWriter({ name, guest, changes }: WriterWish): Promise<WriterCounts> {
  const args = [writer, plane.url, account, guest, name, String(changes)];
  return new Promise((resolve, reject) => {
    let said = "";
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    child.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
    child.on("error", reject).on("close", (status) => {
      if (status === 0) {
        resolve(JSON.parse(said) as WriterCounts);
      } else {
        reject(new Error(`the writer ended with ${String(status)}`));
      }
    });
  });
}
