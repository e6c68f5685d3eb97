/**
 * KubeVirt's and CDI's custom resources, and Multus's, as far as the lab has them. Their schemas take everything; what is true
 * to the original is names, scope, versions, and that a VirtualMachineInstance has no status subresource.
 */

type Definition = {
  readonly kind: string;
  readonly plural: string;
  readonly shortNames?: readonly string[];
  readonly hasStatus?: true;
  readonly columns?: Readonly<Record<string, string>>;
};

export const customResourceDefinitions: readonly object[] = [
  ...define(
    "kubevirt.io",
    ["v1", "v1alpha3"],
    [
      {
        kind: "VirtualMachine",
        plural: "virtualmachines",
        shortNames: ["vm", "vms"],
        hasStatus: true,
        columns: { Status: ".status.printableStatus", Ready: ".status.conditions[?(@.type=='Ready')].status" },
      },
      {
        kind: "VirtualMachineInstance",
        plural: "virtualmachineinstances",
        shortNames: ["vmi", "vmis"],
        columns: {
          Phase: ".status.phase",
          IP: ".status.interfaces[0].ipAddress",
          NodeName: ".status.nodeName",
          Ready: ".status.conditions[?(@.type=='Ready')].status",
        },
      },
      {
        kind: "VirtualMachineInstanceMigration",
        plural: "virtualmachineinstancemigrations",
        shortNames: ["vmim", "vmims"],
        hasStatus: true,
        columns: { Phase: ".status.phase", VMI: ".spec.vmiName" },
      },
      {
        kind: "KubeVirt",
        plural: "kubevirts",
        shortNames: ["kv", "kvs"],
        hasStatus: true,
        columns: { Phase: ".status.phase" },
      },
    ],
  ),
  ...define(
    "cdi.kubevirt.io",
    ["v1beta1"],
    [
      {
        kind: "DataVolume",
        plural: "datavolumes",
        shortNames: ["dv", "dvs"],
        hasStatus: true,
        columns: { Phase: ".status.phase", Progress: ".status.progress" },
      },
    ],
  ),
  ...define(
    "k8s.cni.cncf.io",
    ["v1"],
    [
      {
        kind: "NetworkAttachmentDefinition",
        plural: "network-attachment-definitions",
        shortNames: ["net-attach-def"],
      },
    ],
  ),
];

/** The first version is the stored one. */
function define(group: string, versions: readonly string[], definitions: readonly Definition[]): object[] {
  return definitions.map(({ kind, plural, shortNames, hasStatus, columns = {} }) => ({
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `${plural}.${group}` },
    spec: {
      group,
      scope: "Namespaced",
      names: { kind, plural, singular: kind.toLowerCase(), shortNames, categories: ["all"] },
      versions: versions.map((name, index) => ({
        name,
        served: true,
        storage: index === 0,
        schema: { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } },
        ...(hasStatus === true ? { subresources: { status: {} } } : {}),
        additionalPrinterColumns: [
          { name: "Age", type: "date", jsonPath: ".metadata.creationTimestamp" },
          ...Object.entries(columns).map(([name, jsonPath]) => ({ name, type: "string", jsonPath })),
        ],
      })),
    },
  }));
}
