/** What there is to say of each kind of fault: what Twinrun does about it, what a person should do, and what ends it. */
import { type FaultCode } from "../protocol/faults.ts";

export type FaultEntry = {
  /** A sentence that is true whichever side the fault is on. */
  readonly done: string;
  readonly remedy: string;
  /**
   * working: the side's engine and QEMU do their work again. inSync: the side holds all that was acknowledged again. told: only
   * who saw the fault can see its end.
   */
  readonly endsWith: "working" | "inSync" | "told";
};

export const FAULTS: Readonly<Record<FaultCode, FaultEntry>> = {
  HostSilent: {
    done: "the guest runs where it can be reached; the node gets a new copy of it once it is back",
    remedy: "find out why nothing came from the node: its power, its kernel's log, and the network of its links",
    endsWith: "told",
  },
  NodeAway: {
    done: "another node of the placement takes the side over, if there is one",
    remedy: "bring the node back: kubectl describe node says why Kubernetes holds it for lost",
    endsWith: "told",
  },
  AgentSilent: {
    done: "the side is not used until its agent is back",
    remedy: "see why the agent's pod on the node does not run: kubectl describe pod, kubectl logs --previous",
    endsWith: "told",
  },
  EngineFailed: {
    done: "a new engine was started; meanwhile the other side went on, or what the guest sends was held",
    remedy: "read what the engine said last in the log of the node's agent, and report it",
    endsWith: "working",
  },
  QemuDied: {
    done: "the guest goes on where its state is; this side gets a new QEMU and a new copy",
    remedy: "see why QEMU ended: the log of the virt-launcher pod, and the node's kernel log for lack of memory",
    endsWith: "working",
  },
  DevicesChanged: {
    done: "the guest goes on with the devices that both sides have, where there are such two; else it runs on without protection",
    remedy:
      "unprotect the guest, change its VirtualMachine, restart it, protect it again: plug in nothing while it is protected",
    endsWith: "inSync",
  },
  DiskFailed: {
    done: "the guest goes on with the other side's disk and has not seen the error; this disk is copied anew",
    remedy: "see to the volume and the device below it; if it goes on failing, replace the volume of this side",
    endsWith: "inSync",
  },
  DiskFull: {
    done: "the guest goes on with the other side's disk; this disk is copied anew once there is room",
    remedy: "make room below the volume of this side, or enlarge it",
    endsWith: "inSync",
  },
  DiskSlow: {
    done: "it is watched: nothing is taken away from the guest as long as the disk answers",
    remedy: "see what else uses the device below the volume, and whether it reports errors",
    endsWith: "told",
  },
  LinkDown: {
    done: "the other links carry the copy",
    remedy: "see to the cable, the switch and the interface of this link on both nodes",
    endsWith: "told",
  },
  UplinkDown: {
    done: "guests that are in sync move to the node whose uplink works",
    remedy: "see to the cable, the switch and the interface of this uplink",
    endsWith: "told",
  },
};
