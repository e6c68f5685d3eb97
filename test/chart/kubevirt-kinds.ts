/** KubeVirt's kinds as far as the chart's rights and policies go: names and places, without schemas. */
const kinds = [
  { kind: "VirtualMachineInstance", plural: "virtualmachineinstances", group: "kubevirt.io", version: "v1" },
  { kind: "VirtualMachine", plural: "virtualmachines", group: "kubevirt.io", version: "v1" },
  {
    kind: "VirtualMachineInstanceMigration",
    plural: "virtualmachineinstancemigrations",
    group: "kubevirt.io",
    version: "v1",
  },
  {
    kind: "VirtualMachineInstanceReplicaSet",
    plural: "virtualmachineinstancereplicasets",
    group: "kubevirt.io",
    version: "v1",
  },
  {
    kind: "VirtualMachineSnapshot",
    plural: "virtualmachinesnapshots",
    group: "snapshot.kubevirt.io",
    version: "v1beta1",
  },
  {
    kind: "VirtualMachineRestore",
    plural: "virtualmachinerestores",
    group: "snapshot.kubevirt.io",
    version: "v1beta1",
  },
  { kind: "VirtualMachineBackup", plural: "virtualmachinebackups", group: "backup.kubevirt.io", version: "v1alpha1" },
  { kind: "VirtualMachineClone", plural: "virtualmachineclones", group: "clone.kubevirt.io", version: "v1beta1" },
];

export const kubevirtCrds = kinds.map(({ kind, plural, group, version }) => ({
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: `${plural}.${group}` },
  spec: {
    group,
    scope: "Namespaced",
    names: { kind, plural, singular: kind.toLowerCase(), listKind: `${kind}List` },
    versions: [
      {
        name: version,
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } },
      },
    ],
  },
}));
