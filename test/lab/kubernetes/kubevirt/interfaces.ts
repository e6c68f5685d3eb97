/** Names of a VMI's network interfaces inside its pod, as KubeVirt gives them. */
import { createHash } from "node:crypto";
import { type VmiInterface, type VmiSpec } from "./vmi.ts";

/** The one on the pod's own network is eth0; those of Multus are named by a hash of the network's name in the VMI. */
export function podInterfaceOf(spec: VmiSpec, { name }: VmiInterface): string {
  const network = (spec.networks ?? []).find((each) => each.name === name);
  return network?.multus === undefined ? "eth0" : `pod${hashOf(name)}`;
}

/** tap0 for eth0, else tap and the hash. */
export function tapNameOf(spec: VmiSpec, nic: VmiInterface): string {
  const podInterface = podInterfaceOf(spec, nic);
  return podInterface === "eth0" ? "tap0" : podInterface.replace(/^pod/, "tap");
}

/** Names may have 15 characters, so of pod and the hash only the hash is kept. */
export function bridgeNameOf(spec: VmiSpec, nic: VmiInterface): string {
  return `k6t-${podInterfaceOf(spec, nic).replace(/^pod/, "")}`;
}

const hashOf = (name: string): string => createHash("sha256").update(name).digest("hex").slice(0, 11);
