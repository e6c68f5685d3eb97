/**
 * Changes one record as often as told, whatever others do to it meanwhile; says in the end how often it lost against them.
 *
 *   node test/quorum/lease-store-writer.ts URL DIRECTORY GUEST NAME CHANGES
 */
import { openServiceAccount } from "../../src/kube/access.ts";
import { LeaseClient } from "../../src/kube/lease-client.ts";
import { present } from "../../src/lib/assert.ts";
import { LeaseStore } from "../../src/quorum/lease-store.ts";
import { aRecord } from "./records.ts";

const [url = "", directory = "", guest = "", name = "", changes = ""] = process.argv.slice(2);
const { hostname, port } = new URL(url);
const source = openServiceAccount(directory, { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port });
const namespace = present((await source.read()).namespace, "namespace");
const store = new LeaseStore({
  leases: new LeaseClient(source, namespace),
  attemptTimeoutMs: 10_000,
  timeoutMs: 20_000,
});
let [stored, conflicts] = [0, 0];
while (stored < Number(changes)) {
  const current = present(await store.read(guest), "record");
  const version = current.record.version + 1;
  const record = aRecord({ guest, version, owner: name, lastRequestId: `${name} ${stored}` });
  const outcome = await store.compareAndSet(guest, current.revision, record);
  if (outcome.tag === "unknown") {
    throw new Error(outcome.why);
  }
  if (outcome.tag === "stored") {
    stored += 1;
  } else {
    conflicts += 1;
  }
}
process.stdout.write(JSON.stringify({ stored, conflicts }));
await store.close();
