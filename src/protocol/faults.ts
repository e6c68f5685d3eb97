/**
 * Faults, as engines and agents name them: what failed (the component), how (the code), and a sentence for people.
 *
 * Whoever sees a fault says so each time; that the tenth word is about the same fault as the first is for the records to find
 * out (decide/fault-log.ts). A fault is over when its code's entry in decide/fault-catalogue.ts says so: by itself, once the side
 * works or is in sync again, or when whoever saw it says that it is repaired.
 */

/** Part of a side of a guest, on the node that is named beside it; after the stroke the name that an assignment gives it. */
export type FaultComponent =
  /** The node itself, or every way to it: from outside these look alike. */
  "host" | "agent" | "engine" | "qemu" | "devices" | `disk/${string}` | `link/${string}` | `uplink/${string}`;

export type FaultCode =
  /** host: its agent fell silent on every link at once, without a word. */
  | "HostSilent"
  /** host: Kubernetes holds the node for lost, or it is gone. */
  | "NodeAway"
  /** agent: it ended, and did not come back for longer than a restart takes. */
  | "AgentSilent"
  /** engine: it ended without being asked, or hung. */
  | "EngineFailed"
  /** qemu: it ended, or its monitor did, and nobody had asked for it. */
  | "QemuDied"
  /** devices: somebody plugged one into the guest, or took one out, that its other side has not or still has. */
  | "DevicesChanged"
  /** disk: an error of the volume below it. */
  | "DiskFailed"
  /** disk: the volume below it has no room left. */
  | "DiskFull"
  /** disk: the volume answers far slower than it used to. */
  | "DiskSlow"
  /** link: nothing comes over it while another link to the same peer works. */
  | "LinkDown"
  /** uplink: the node has no way to the guest's clients. */
  | "UplinkDown";

export type Fault = {
  readonly component: FaultComponent;
  readonly code: FaultCode;
  /** What was seen, in words that stay the same while the fault does; the remedy is the catalogue's. */
  readonly message: string;
};

/** Of one code, or of whatever was wrong with the component. */
export type Repair = { readonly component: FaultComponent; readonly code?: FaultCode | undefined };
