/**
 * What the operator, the hook and the agent agree on about a protected VirtualMachineInstance of KubeVirt.
 *
 * The operator writes the annotations before it creates the VMI; KubeVirt hands the whole VMI to the hook, which edits the
 * domain by them; the agent finds that QEMU by its environment and its second monitor. They are fixed for the life of a VMI:
 * a standby that took over keeps `standby`, for it says in what shape its QEMU was started.
 */

/** Annotations of the VMI (of a VM's template, where there is a VM). */
export const vmiAnnotations = {
  /** The guest that this VMI is a side of: the same on both VMIs, a name as in the assignment file. */
  guest: "twinrun.dev/guest",
  /** One of {@link VMI_SHAPES}. */
  startedAs: "twinrun.dev/started-as",
  /** `NAMESPACE/NAME` of the ProtectedVM; for the operator and for people. */
  protectedVm: "twinrun.dev/protected-vm",
} as const;

/** The label of whatever the operator makes for a guest, so that it finds all of it again: the guest's name. */
export const GUEST_LABEL = "twinrun.dev/guest";

/** KubeVirt's label of an instance that runs in a launcher of an earlier version. */
export const OUTDATED_LABEL = "kubevirt.io/outdatedLauncherImage";

export const VMI_SHAPES = ["primary", "standby"] as const;
export type VmiShape = (typeof VMI_SHAPES)[number];

/** It goes into paths, environments and quorum records. */
export const GUEST_NAME_PATTERN = /^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$/;

/** QEMU's second monitor, as seen inside the pod's compute container; the first one is libvirt's. */
export const QMP_PATH_IN_POD = "/var/run/kubevirt-private/twinrun.qmp";

/** The environment of a QEMU that the hook prepared; the agent looks for it in /proc. */
export const qemuEnvironment = { guest: "TWINRUN_GUEST", node: "TWINRUN_NODE" } as const;

/** A directory of the pod that QEMU and the engine share for sockets and pipes; the agent makes it, owned by QEMU's user. */
export const SHARED_DIRECTORY_IN_POD = "/var/run/kubevirt-private/twinrun";

/** The name of a disk's or an interface's device in QEMU; libvirt calls it a user alias. */
export const qemuDeviceOf = (name: string): string => `ua-${name}`;
