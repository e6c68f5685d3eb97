/**
 * `make demo CHAPTER=disk-fault`: one disk after the other below the guest's volumes begins to fail, hangs and is repaired, under the
 * side that runs the guest and under its standby.
 */
import { tenantNamespace } from "../../e2e/platform.ts";
import { type ClusterDemo, guest, tellChapter } from "../cluster-demo.ts";

async function tell(demo: ClusterDemo): Promise<boolean> {
  const { narrator, shell } = demo;
  narrator.announce(
    "The disks of this guest can fail: each volume is a file system on a device that does so when it is told to",
  );
  await shell.show("make lab-frail-disks");
  await demo.protect();
  await demo.startClients(90);
  const first = await demo.findPrimary();
  narrator.announce(`The disk of ${first}, which runs the guest, fails every write`);
  demo.note(`every write fails on ${first}, which runs the guest`);
  await shell.show(`make lab-fail-disk NODE=${first} TROUBLE=write`);
  await demo.waitForMove(first);
  await tellFaults(demo, first, "DiskFailed");
  await mend(demo, first);
  const second = await demo.findPrimary();
  narrator.announce(`The disk of ${second}, which runs it now, does not answer any more`);
  demo.note(`nothing is answered on ${second}, which runs it now`);
  await shell.show(`make lab-fail-disk NODE=${second} TROUBLE=hang`);
  await demo.waitForMove(second);
  await mend(demo, second);
  const standby = (await demo.readReady()).status?.standby?.node ?? "";
  narrator.announce(`The disk of the standby on ${standby} fails every write`);
  demo.note(`every write fails on ${standby}, the standby`);
  await shell.show(`make lab-fail-disk NODE=${standby} TROUBLE=write`);
  await tellFaults(demo, standby, "DiskFailed");
  await shell.show(`kubectl get protectedvms --namespace ${tenantNamespace}`);
  await mend(demo, standby);
  await shell.show(`kubectl twinrun events ${guest} --namespace ${tenantNamespace}`);
  return demo.judge();
}

async function tellFaults({ cluster, shell }: ClusterDemo, node: string, code: string): Promise<void> {
  await cluster.waitForProtectedVm(
    guest,
    ({ status }) =>
      status?.faults?.some((fault) => fault.node === node && fault.code === code && fault.state !== "InService") ===
      true,
  );
  await shell.show(`kubectl twinrun faults ${guest} --namespace ${tenantNamespace}`);
}

/** Resolves when the guest is protected again. */
async function mend(demo: ClusterDemo, node: string): Promise<void> {
  await demo.shell.show(`make lab-mend-disk NODE=${node}`);
  await demo.readReady();
  demo.narrator.say("protected again");
}

await tellChapter(tell);
