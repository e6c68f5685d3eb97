/** When guests of a cluster ran again after a strike, as their engines wrote into the log of the agent that took them over. */
import { kindOf, type KubeObject } from "../../src/kube/kube-object.ts";
import { present } from "../../src/lib/assert.ts";
import { kubectl } from "../e2e/kubectl.ts";
import { type Platform, systemNamespace } from "../e2e/platform.ts";

const podKind = kindOf("v1", "Pod");
const agentSelector = "app.kubernetes.io/component=agent";
const isRunning = /^activating -> alone/;

/** From `strikeMs` (epoch) until the output of each guest was open, in milliseconds; one for each guest that was taken over. */
export async function readTakeovers(platform: Platform, node: string, strikeMs: number): Promise<readonly number[]> {
  const scope = { namespace: systemNamespace, labelSelector: agentSelector, fieldSelector: `spec.nodeName=${node}` };
  const { items } = await platform.cluster.list<KubeObject>(podKind, scope);
  const { metadata } = present(items[0], `an agent on ${node}`);
  const log = await kubectl(platform, "logs", "--namespace", systemNamespace, metadata.name);
  return log.split("\n").flatMap((line) => {
    const { msg, time } = parseLine(line);
    const atMs = new Date(time).getTime();
    return isRunning.test(msg) && atMs >= strikeMs ? [Math.round(atMs - strikeMs)] : [];
  });
}

function parseLine(line: string): { readonly msg: string; readonly time: string | number } {
  try {
    const { msg, time } = JSON.parse(line) as { readonly msg?: string; readonly time?: string | number };
    return { msg: msg ?? "", time: time ?? 0 };
  } catch {
    return { msg: "", time: 0 }; // What Node itself writes is no JSON.
  }
}
