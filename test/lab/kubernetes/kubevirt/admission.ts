/**
 * What KubeVirt's admission webhooks refuse and Twinrun has to live with, as policies of the API server itself.
 *
 * Not here: KubeVirt's validation of a whole VMI, and that a status written by others is set back (the controller overwrites it
 * at its next turn).
 */

/** KubeVirt's own, who may change everything. */
export const controllerUser = "system:serviceaccount:kubevirt:kubevirt-controller";
export const kubevirtNamespace = "kubevirt";

const immutableLabels = ["created-by", "migrationJobUID", "nodeName", "migrationTargetNodeName", "schedulable"];

type Rule = { readonly expression: string; readonly message: string };
type Policy = {
  readonly name: string;
  readonly operations: readonly string[];
  readonly resources: readonly string[];
  readonly rules: readonly Rule[];
  /** The rules read the KubeVirt resource as `params`. */
  readonly hasParams?: true;
};

const labelOf = (object: string, label: string): string =>
  `(has(${object}.metadata.labels) && '${label}' in ${object}.metadata.labels ? ${object}.metadata.labels['${label}'] : '')`;

const gates =
  "(has(params.spec.configuration) && has(params.spec.configuration.developerConfiguration) && " +
  "has(params.spec.configuration.developerConfiguration.featureGates) ? " +
  "params.spec.configuration.developerConfiguration.featureGates : [])";

const policies: readonly Policy[] = [
  {
    name: "virtualmachineinstances-update.kubevirt.io",
    operations: ["UPDATE"],
    resources: ["virtualmachineinstances"],
    rules: [
      { expression: "object.spec == oldObject.spec", message: "update of VMI object is restricted" },
      ...immutableLabels.map((name) => ({
        expression: `${labelOf("object", `kubevirt.io/${name}`)} == ${labelOf("oldObject", `kubevirt.io/${name}`)}`,
        message: `modification of the following reserved kubevirt.io/ labels on a VMI object is prohibited: ${name}`,
      })),
    ],
  },
  {
    name: "virtualmachineinstances-create.kubevirt.io",
    operations: ["CREATE"],
    resources: ["virtualmachineinstances"],
    rules: [
      {
        expression: "!(has(object.spec.startStrategy) && has(object.spec.livenessProbe))",
        message:
          "either spec.startStrategy or spec.livenessProbe should be provided.Pausing VMI with LivenessProbe is not supported",
      },
      {
        expression: "!has(object.spec.startStrategy) || object.spec.startStrategy == 'Paused'",
        message: "spec.startStrategy is set with an unrecognized option",
      },
      {
        expression: "has(object.spec.domain) && has(object.spec.domain.devices)",
        message: "spec.domain.devices is a required field",
      },
    ],
  },
  {
    name: "virtualmachineinstances-sidecar.kubevirt.io",
    operations: ["CREATE"],
    resources: ["virtualmachineinstances"],
    hasParams: true,
    rules: [
      {
        expression:
          "!(has(object.metadata.annotations) && 'hooks.kubevirt.io/hookSidecars' in object.metadata.annotations) || " +
          `${gates}.exists(gate, gate == 'Sidecar')`,
        message:
          "invalid entry metadata.annotations.hooks.kubevirt.io/hookSidecars: sidecar feature gate is not enabled in kubevirt-config",
      },
    ],
  },
];

export const admissionPolicies: readonly object[] = policies.flatMap(
  ({ name, operations, resources, rules, hasParams }) => {
    const params = { apiVersion: "kubevirt.io/v1", kind: "KubeVirt" };
    const paramRef = { name: "kubevirt", namespace: kubevirtNamespace, parameterNotFoundAction: "Allow" };
    const apiVersion = "admissionregistration.k8s.io/v1";
    return [
      {
        apiVersion,
        kind: "ValidatingAdmissionPolicy",
        metadata: { name },
        spec: {
          failurePolicy: "Fail",
          ...(hasParams === true ? { paramKind: params } : {}),
          matchConstraints: {
            resourceRules: [{ apiGroups: ["kubevirt.io"], apiVersions: ["*"], operations, resources }],
          },
          matchConditions: [{ name: "by-others", expression: `request.userInfo.username != '${controllerUser}'` }],
          validations: rules.map((rule) => ({ ...rule, reason: "Forbidden" })),
        },
      },
      {
        apiVersion,
        kind: "ValidatingAdmissionPolicyBinding",
        metadata: { name },
        spec: { policyName: name, validationActions: ["Deny"], ...(hasParams === true ? { paramRef } : {}) },
      },
    ];
  },
);
