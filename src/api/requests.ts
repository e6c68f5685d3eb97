/**
 * What a person asks a ProtectedVM to do once: annotations on it. The operator takes the annotation away when it is done or
 * refused, and says which in an event (SwitchedOver, SwitchoverRefused, FailedOver, FailoverRefused, Started).
 */
export const requestAnnotations = {
  /** The name of the node that is to run the guest: a planned change of sides, without a gap for clients. */
  switchoverTo: "twinrun.dev/switchover-to",
  /** The name of the node that is to lose the guest: its QEMU is killed and the standby takes over, as after a fault. */
  failoverFrom: "twinrun.dev/failover-from",
  /** "true": a guest that shut itself down starts again, from the disks it left. */
  start: "twinrun.dev/start",
} as const;

/** Node annotation: `NAME=ADDRESS,...`, the node's replication links, the first one preferred; else its InternalIP. */
export const REPLICATION_LINKS_ANNOTATION = "twinrun.dev/replication-links";
