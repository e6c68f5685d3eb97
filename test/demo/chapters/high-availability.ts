/**
 * `make demo CHAPTER=high-availability`: the level below FaultTolerant. A lost node costs a reboot on the other one, with every
 * transaction that was acknowledged; planned work moves the guest live; and the level is raised while it works, after which the
 * loss of a node is seen by nobody.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { tenantNamespace } from "../../e2e/platform.ts";
import { SerialLine } from "../../e2e/side-files.ts";
import { type Fault } from "../../lab/clients/conversation.ts";
import { type ClusterDemo, guest, tellChapter } from "../cluster-demo.ts";

/** From the loss of power. */
const KERNEL_MS_MAX = 20_000;
const BOOT_MS_MAX = 300_000;
/** Of a client whose guest boots anew. */
const STALL_MS = 20_000;

async function tell(demo: ClusterDemo): Promise<boolean> {
  const { narrator, shell } = demo;
  await demo.protect(undefined, { mode: "HighAvailability", isVerbose: true });
  const isBooted = await loseNode(demo);
  await demo.startClients(60);
  const { status } = await demo.readReady();
  narrator.announce("The guest is moved: with its memory, while it works");
  demo.note("it is moved live");
  await shell.show(
    `kubectl twinrun switchover ${guest} --to ${status?.standby?.node ?? ""} --namespace ${tenantNamespace}`,
  );
  await demo.findPrimary();
  narrator.announce("Its level is raised while it works");
  demo.note("its level is raised");
  const patch = JSON.stringify({ spec: { mode: "FaultTolerant" } });
  await shell.show(`kubectl patch protectedvm/${guest} --namespace ${tenantNamespace} --type merge --patch '${patch}'`);
  const raised = await demo.findPrimary();
  narrator.announce(`Power off again: ${raised}; this time nobody is to notice`);
  demo.note("power off, FaultTolerant");
  await shell.show(`make lab-power-off NODE=${raised}`);
  await demo.waitForMove(raised);
  await shell.show(`kubectl twinrun events ${guest} --namespace ${tenantNamespace}`);
  await shell.show(`make lab-power-on NODE=${raised}`);
  return (await demo.judge()) && isBooted;
}

/** Whether the guest's kernel was there in time, and everything that a client was told is done. */
async function loseNode(demo: ClusterDemo): Promise<boolean> {
  const { narrator, shell } = demo;
  const { status } = await demo.readReady();
  const [lost, other] = [status?.primary?.node ?? "", status?.standby?.node ?? ""];
  narrator.announce("A client commits one transaction after the other");
  const ledger = demo.startLedger(STALL_MS);
  await sleep(10_000);
  const serial = new SerialLine(status?.guest ?? "", other);
  narrator.announce(`Power off: ${lost}, on which the guest runs; it is to boot on ${other}`);
  const struckAtMs = Date.now();
  await shell.show(`make lab-power-off NODE=${lost}`);
  await serial.waitForKernel(BOOT_MS_MAX);
  const kernelMs = Date.now() - struckAtMs;
  narrator.say(`its kernel starts ${(kernelMs / 1000).toFixed(1)} s after the command`);
  await demo.waitForDatabase();
  const databaseMs = Date.now() - struckAtMs;
  narrator.say(`PostgreSQL answers ${(databaseMs / 1000).toFixed(1)} s after it`);
  const { repliesCount, faults } = await ledger.stop();
  const missing = faults.filter((fault) => !isEndOfConnection(fault));
  demo.addRow("HighAvailability, power off to the guest's kernel", `${(kernelMs / 1000).toFixed(1)} s`);
  demo.addRow("HighAvailability, power off to PostgreSQL's answer", `${(databaseMs / 1000).toFixed(1)} s`);
  demo.addRow("transactions acknowledged before that / missing", `${repliesCount} / ${missing.length}`);
  narrator.announce(`${lost} gets its power back, and the guest its second copy`);
  await shell.show(`make lab-power-on NODE=${lost}`);
  await sleep(2_000);
  await demo.readReady();
  await shell.show(`kubectl twinrun status --namespace ${tenantNamespace}`);
  return kernelMs <= KERNEL_MS_MAX && repliesCount > 0 && missing.length === 0;
}

/** What a client has to expect of a guest that boots anew; rows that are not there, or cannot be read, are another matter. */
const isEndOfConnection = ({ kind, detail }: Fault): boolean =>
  (kind === "lost" && detail.startsWith("no reply")) || (kind === "broken" && !detail.startsWith("the rows"));

await tellChapter(tell);
