/** A VirtualMachineInstance as KubeVirt hands it to the hook, as JSON; `undefined` leaves a part out. */
export type HookedVmiParts = {
  readonly guest?: string | undefined;
  readonly startedAs?: string | undefined;
  readonly startStrategy?: string | undefined;
  readonly node?: string | undefined;
};

export function aVmi(parts: HookedVmiParts = {}): string {
  const { guest, startedAs, startStrategy, node } = {
    ...{ guest: "web", startedAs: "primary", startStrategy: "Paused", node: "node-a" },
    ...parts,
  };
  return JSON.stringify({
    apiVersion: "kubevirt.io/v1",
    kind: "VirtualMachineInstance",
    metadata: {
      name: "web-a",
      namespace: "shop",
      annotations: { "twinrun.dev/guest": guest, "twinrun.dev/started-as": startedAs },
    },
    spec: { startStrategy, domain: { devices: {} } },
    status: { phase: "Scheduled", nodeName: node },
  });
}
