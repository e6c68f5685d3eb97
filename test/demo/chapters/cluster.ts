/**
 * `make demo`: a Kubernetes of three nodes on this machine, Twinrun installed by its chart, a Debian with PostgreSQL and Redis under
 * protection, and the node it runs on loses its power.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../../src/lib/assert.ts";
import { tenantNamespace } from "../../e2e/platform.ts";
import { type ClusterDemo, tellChapter } from "../cluster-demo.ts";

async function tell(demo: ClusterDemo): Promise<boolean> {
  const { narrator, shell } = demo;
  await demo.protect();
  await demo.startClients(45);
  const lost = await demo.findPrimary();
  narrator.announce(`Power off: ${lost}, on which the guest runs`);
  demo.note("power off");
  await shell.show(`make lab-power-off NODE=${lost}`);
  const { status } = await demo.waitForMove(lost);
  const { durationMs, cause } = present(status?.lastFailover, "a failover");
  demo.addRow("standstill after the other side noticed", `${durationMs ?? "?"} ms`);
  narrator.say(`${status?.primary?.node ?? ""} goes on: ${cause}`);
  await shell.show(`kubectl get protectedvms --namespace ${tenantNamespace}`);
  await sleep(5_000);
  narrator.announce(`${lost} gets its power back, and the guest its second copy`);
  demo.note("the node comes back");
  await shell.show(`make lab-power-on NODE=${lost}`);
  await sleep(2_000);
  await demo.findPrimary();
  await shell.show(`kubectl twinrun status --namespace ${tenantNamespace}`);
  return demo.judge();
}

await tellChapter(tell);
