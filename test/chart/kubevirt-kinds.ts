/** KubeVirt's kinds as far as the chart's rights and policies go: names and places, without schemas. */
const kinds = [
  { kind: "VirtualMachineInstance", plural: "virtualmachineinstances" },
  { kind: "VirtualMachine", plural: "virtualmachines" },
  { kind: "VirtualMachineInstanceMigration", plural: "virtualmachineinstancemigrations" },
  { kind: "VirtualMachineInstanceReplicaSet", plural: "virtualmachineinstancereplicasets" },
];

export const kubevirtCrds = kinds.map(({ kind, plural }) => ({
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: `${plural}.kubevirt.io` },
  spec: {
    group: "kubevirt.io",
    scope: "Namespaced",
    names: { kind, plural, singular: kind.toLowerCase(), listKind: `${kind}List` },
    versions: [
      {
        name: "v1",
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } },
      },
    ],
  },
}));
