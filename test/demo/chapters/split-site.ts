/**
 * `make demo CHAPTER=split-site`: two nodes stand for two buildings and the third for the place of the quorum's odd member. First a
 * building loses its power, then the lines between the two are cut while both are alive.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type KubeObject } from "../../../src/kube/kube-object.ts";
import { isReady, tenantNamespace } from "../../e2e/platform.ts";
import { type ClusterDemo, guest, tellChapter } from "../cluster-demo.ts";

const zone = "topology.kubernetes.io/zone";
/** The copy goes over either. */
const networks = ["replication", "management"] as const;
const sites = { north: "node-a", south: "node-b" } as const;

const campus = {
  apiVersion: "twinrun.dev/v1alpha1",
  kind: "SplitSitePair",
  metadata: { name: "campus" },
  spec: { sites: Object.keys(sites).map((name) => ({ name, nodeSelector: { [zone]: name } })), maxRoundTripMs: 10 },
} as KubeObject;

async function tell(demo: ClusterDemo): Promise<boolean> {
  const { narrator, shell } = demo;
  narrator.announce("Two buildings, north and south, with a node each");
  for (const [site, node] of Object.entries(sites)) {
    await shell.show(`kubectl label node ${node} ${zone}=${site} --overwrite`);
  }
  await demo.apply("campus.yaml", campus);
  await demo.protect({ splitSitePairRef: { name: campus.metadata.name } });
  await shell.show("kubectl get splitsitepairs");
  await demo.startClients(90);
  await loseSite(demo);
  await cutLine(demo);
  await shell.show(`kubectl twinrun events ${guest} --namespace ${tenantNamespace}`);
  const isFine = await demo.judge();
  await shell.show(`kubectl delete protectedvm/${guest} --namespace ${tenantNamespace}`);
  await shell.show("kubectl delete splitsitepair/campus");
  return isFine;
}

async function loseSite(demo: ClusterDemo): Promise<void> {
  const { narrator, shell } = demo;
  const lost = await demo.findPrimary();
  narrator.announce(`The building of ${lost}, which runs the guest, loses its power`);
  demo.note("a site is lost");
  await shell.show(`make lab-power-off NODE=${lost}`);
  const { status } = await demo.waitForMove(lost);
  narrator.say(`${status?.primary?.node ?? ""} goes on: ${status?.lastFailover?.cause ?? ""}`);
  await sleep(3_000);
  narrator.announce(`${lost} gets its power back; the guest has its second copy in the same building as before`);
  demo.note("the site comes back");
  await shell.show(`make lab-power-on NODE=${lost}`);
  await sleep(2_000);
  await demo.findPrimary();
  await shell.show(`kubectl twinrun status --namespace ${tenantNamespace}`);
}

/** Both sites are alive and both reach the quorum, which lets exactly one go on. */
async function cutLine(demo: ClusterDemo): Promise<void> {
  const { narrator, shell } = demo;
  const line = (network: string): string => `NODE=${sites.north} NETWORK=${network} PEER=${sites.south}`;
  narrator.announce("Both lines between the buildings are cut, and both are alive");
  demo.note("the lines between the sites are cut");
  for (const network of networks) {
    await shell.show(`make lab-cut-link ${line(network)}`);
  }
  const { status } = await demo.cluster.waitForProtectedVm(guest, (vm) => !isReady(vm));
  narrator.say(`${status?.primary?.node ?? ""} runs the guest, and the other one does not`);
  await sleep(5_000);
  narrator.announce("The lines are mended");
  demo.note("the lines are mended");
  for (const network of networks) {
    await shell.show(`make lab-mend-link ${line(network)}`);
  }
  await demo.findPrimary();
  await shell.show(`kubectl twinrun status --namespace ${tenantNamespace}`);
}

await tellChapter(tell);
