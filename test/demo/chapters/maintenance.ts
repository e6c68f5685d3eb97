/**
 * `make demo CHAPTER=maintenance`: the node that runs a guest is to be serviced. It is emptied, switched off and on, and put back
 * to work, and the guest has two copies but for moments.
 */
import { tenantNamespace } from "../../e2e/platform.ts";
import { type ClusterDemo, tellChapter } from "../cluster-demo.ts";

async function tell(demo: ClusterDemo): Promise<boolean> {
  const { narrator, shell } = demo;
  // Any two of the three nodes: the one that is serviced can be spared.
  await demo.protect({ nodeSelector: { "kubernetes.io/os": "linux" } });
  await demo.startClients(90);
  const node = await demo.findPrimary();
  narrator.announce(`${node} runs the guest and is to be serviced: everything that is protected leaves it`);
  demo.note("the node is emptied");
  await shell.show(`kubectl twinrun maintenance ${node} begin --reason "new memory" --yes`);
  await shell.show(`kubectl twinrun maintenance ${node} status`);
  await shell.show(`kubectl twinrun status --namespace ${tenantNamespace}`);
  narrator.announce("It is switched off, serviced, and switched on");
  demo.note("the node is off");
  await shell.show(`make lab-power-off NODE=${node}`);
  await shell.show(`kubectl get protectedvms --namespace ${tenantNamespace}`);
  await shell.show(`make lab-power-on NODE=${node}`);
  narrator.announce(`${node} works again`);
  demo.note("the node works again");
  await shell.show(`kubectl twinrun maintenance ${node} end`);
  await demo.findPrimary();
  await shell.show(`kubectl twinrun events --namespace ${tenantNamespace}`);
  return demo.judge();
}

await tellChapter(tell);
