/**
 * Every command and flag there is, as data: parsing, help and completion are made of this, so they cannot differ.
 *
 * A flag means the same in every command that takes it.
 */

export type Choice = readonly [string, ...string[]];

export type FlagKind =
  | { readonly tag: "switch" }
  | { readonly tag: "text"; readonly what: string }
  | { readonly tag: "duration" }
  | { readonly tag: "count" };

export type Flag = {
  readonly kind: FlagKind;
  readonly short?: string;
  readonly says: string;
  /** What its value can be completed with; a list, or what has to be asked. */
  readonly completes?: Completes;
};
export type Completes = "protectedVm" | "fault" | "virtualMachine" | "namespace" | "node" | "context" | "file";

const text = (what: string): FlagKind => ({ tag: "text", what });
const aSwitch: FlagKind = { tag: "switch" };

const flagTable = {
  namespace: {
    kind: text("NAME"),
    short: "n",
    says: "the namespace, instead of the context's",
    completes: "namespace",
  },
  "all-namespaces": { kind: aSwitch, short: "A", says: "all namespaces" },
  context: { kind: text("NAME"), says: "the context of the kubeconfig to use", completes: "context" },
  kubeconfig: {
    kind: text("FILE"),
    says: "the kubeconfig, instead of KUBECONFIG or ~/.kube/config",
    completes: "file",
  },
  "request-timeout": {
    kind: { tag: "duration" },
    says: "how long one request may take (30s unless told; 0: for ever)",
  },
  "system-namespace": {
    ...{ kind: text("NAME"), completes: "namespace" },
    says: "where Twinrun is installed (TWINRUN_NAMESPACE, else twinrun)",
  },
  output: { kind: text("FORM"), short: "o", says: "in which form" },
  "no-headers": { kind: aSwitch, says: "a table without its first line" },
  watch: { kind: aSwitch, short: "w", says: "go on and show every change" },
  yes: { kind: aSwitch, short: "y", says: "do not ask" },
  wait: { kind: aSwitch, says: "wait until it is done; --no-wait: come back at once" },
  timeout: { kind: { tag: "duration" }, says: "how long to wait" },
  nodes: { kind: text("A,B"), says: "the two nodes; the guest starts on the first", completes: "node" },
  selector: { kind: text("KEY=VALUE,..."), short: "l", says: "labels of the nodes that may be the two" },
  name: { kind: text("NAME"), says: "the ProtectedVM's name, instead of the VM's" },
  "max-added-latency": {
    kind: { tag: "duration" },
    says: "the most that protection may add to an answer (50ms unless told)",
  },
  "detection-timeout": {
    kind: { tag: "duration" },
    says: "the silence after which a side counts as lost (500ms unless told, 2s in HighAvailability)",
  },
  mode: { kind: text("LEVEL"), says: "FaultTolerant (unless told), or HighAvailability" },
  "allow-restart": { kind: aSwitch, says: "restart a running VM, once, so that it can be protected" },
  force: { kind: aSwitch, says: "go on although a check failed" },
  "dry-run": { kind: aSwitch, says: "only check, and print what would be made" },
  to: { kind: text("NODE"), says: "the node that is to run the guest (the standby's unless told)", completes: "node" },
  file: { kind: text("FILE"), short: "f", says: 'where to write; "-" is standard output', completes: "file" },
  since: { kind: { tag: "duration" }, says: "only what pods said in this time" },
  tail: { kind: { tag: "count" }, says: "at most that many lines of each container (10000 unless told)" },
  "force-owner": {
    kind: text("NODE"),
    says: "make this node the owner of the guest, although the quorum would not let it",
    completes: "node",
  },
  reason: { kind: text("TEXT"), says: "why, for whoever reads the record later" },
  "i-know-the-other-side-is-down": {
    kind: aSwitch,
    says: "what the cluster sees of the other side is wrong: it does not run the guest, and will not",
  },
  client: { kind: aSwitch, says: "only this program's own version" },
  format: {
    kind: text("FORMAT"),
    says: "what the file is (import: what it says itself; export: by the end of its name)",
  },
  memory: { kind: text("SIZE"), says: "the guest's memory, as in 2Gi (what an OVA says)" },
  cpus: { kind: { tag: "count" }, says: "the guest's processors (what an OVA says, else 1)" },
  network: { kind: text("NAME,..."), says: "the network of each card: a NetworkAttachmentDefinition, or pod" },
  firmware: { kind: text("KIND"), says: "bios or efi (what an OVA says, else bios)" },
  "disk-bus": { kind: text("BUS"), says: "virtio (unless told), or sata or scsi for a guest without drivers for it" },
  "nic-model": { kind: text("MODEL"), says: "virtio (unless told), or e1000e for a guest without drivers for it" },
  "storage-class": { kind: text("NAME"), says: "the class of the volumes, instead of the cluster's default" },
  size: { kind: text("SIZE"), says: "how large each volume is made at least" },
  "max-size": { kind: text("SIZE"), says: "how large a disk is taken at most (2Ti unless told)" },
  template: { kind: text("FILE"), says: "a ProtectedVM to add the disks to", completes: "file" },
  image: {
    kind: text("IMAGE"),
    says: "the image of Twinrun for the pod that holds the volume (the operator's unless told)",
  },
  "work-dir": { kind: text("DIR"), says: "where disks are made raw, with room for one of them", completes: "file" },
  disk: { kind: text("NAME"), says: "which disk, as the guest's spec calls it; not needed where there is one" },
  live: { kind: aSwitch, says: "while the guest runs: it is paused for the last of the copy" },
  help: { kind: aSwitch, short: "h", says: "what the command does and takes" },
} as const satisfies Readonly<Record<string, Flag>>;

export type FlagName = keyof typeof flagTable;
export const FLAGS: Readonly<Record<FlagName, Flag>> = flagTable;
export const FLAG_NAMES = Object.keys(flagTable) as readonly FlagName[];

/** Every command takes these. */
export const COMMON_FLAGS = [
  ...(["namespace", "context", "kubeconfig", "request-timeout", "system-namespace", "help"] as const),
] as const satisfies readonly FlagName[];

export type Command = {
  readonly says: string;
  /** What comes after the name, as the help shows it. */
  readonly takes: string;
  readonly arguments: {
    readonly min: number;
    readonly max: number;
    readonly completes?: Completes;
    /** What the last of them may be. */
    readonly then?: Choice;
  };
  readonly flags: readonly FlagName[];
  /** What -o may be. */
  readonly outputs?: Choice;
  /** Paragraphs below the first line of its help. */
  readonly details: readonly string[];
  readonly examples: readonly { readonly line: string; readonly says: string }[];
};

const someProtectedVms = { min: 0, max: 100, completes: "protectedVm" } as const;
const oneProtectedVm = { min: 1, max: 1, completes: "protectedVm" } as const;
const none = { min: 0, max: 0 };

export const MAINTENANCE_STEPS = ["begin", "end", "status"] as const;

const commandTable = {
  status: {
    says: "show protected VMs and whether they would survive a loss",
    takes: "[NAME...]",
    arguments: someProtectedVms,
    flags: ["all-namespaces", "output", "no-headers", "watch"],
    outputs: ["table", "wide", "json", "yaml", "name"],
    details: ["READY is True when the guest runs and would survive the loss of either side at this moment."],
    examples: [
      { line: "status -A", says: "all protected VMs of the cluster" },
      { line: "status web -o wide --watch", says: "one of them, with figures, as it changes" },
    ],
  },
  describe: {
    says: "show everything known about a protected VM, and its events",
    takes: "NAME",
    arguments: oneProtectedVm,
    flags: [],
    details: ["What both agents report is shown to whoever may read GuestPairs in the system namespace."],
    examples: [{ line: "describe web -n shop", says: "sides, conditions, figures, disks, events" }],
  },
  protect: {
    says: "protect a VirtualMachine that exists",
    takes: "VM",
    arguments: { min: 1, max: 1, completes: "virtualMachine" },
    flags: [
      ...(["nodes", "selector", "name", "mode", "max-added-latency", "detection-timeout", "allow-restart"] as const),
      ...(["force", "dry-run", "wait", "timeout"] as const),
    ],
    details: [
      "Makes a ProtectedVM that names the VM. First it checks what doctor checks for a VM and says every obstacle with its " +
        "remedy; with an obstacle nothing is made, unless --force is given.",
      "A VM that runs has to be restarted once, for its QEMU must be started in a shape that can be copied. Twinrun does " +
        "that only when --allow-restart is given; else protection waits for it.",
    ],
    examples: [
      { line: "protect web --nodes node-a,node-b --allow-restart --wait", says: "on two nodes, and wait until it is" },
      { line: "protect web --selector rack=1 --dry-run > web.yaml", says: "only check; the manifest is for Git" },
    ],
  },
  unprotect: {
    says: "end the protection of a VM",
    takes: "NAME",
    arguments: oneProtectedVm,
    flags: ["yes", "wait", "timeout"],
    details: [
      "A VM that existed before is given back as it was and runs on. A guest that was made from the ProtectedVM's own " +
        "template exists only under protection: it ends, and its volumes go.",
    ],
    examples: [{ line: "unprotect web", says: "says what will happen, asks, and waits until it is done" }],
  },
  switchover: {
    says: "let the standby run the guest, without a gap for clients",
    takes: "NAME",
    arguments: oneProtectedVm,
    flags: ["to", "wait", "timeout"],
    details: ["A planned change of sides, as before maintenance. Refused while the standby is not in sync."],
    examples: [{ line: "switchover web --to node-b", says: "before node-a is taken down" }],
  },
  failover: {
    says: "kill the primary and let the standby take over, as after a fault",
    takes: "NAME",
    arguments: oneProtectedVm,
    flags: ["yes", "force-owner", "reason", "i-know-the-other-side-is-down", "wait", "timeout"],
    details: [
      "For a primary that is sick but not dead, and for drills. Its QEMU is killed; the standby goes on from the last " +
        "acknowledged checkpoint. Use switchover where the primary still works.",
      "--force-owner is for a site or a quorum that is lost for good, when nothing else starts the guest any more: its node owns " +
        "the guest from then on, and goes on from what it holds or boots from its disks. If the other side runs the guest too, both " +
        "are seen by clients; so it is refused while that side's node or agent is there. Who, when and why stay in the quorum's " +
        "record, in annotation twinrun.dev/last-override, in an event and in the agent's log.",
    ],
    examples: [
      { line: "failover web", says: "asks for the name before it does it" },
      { line: 'failover web --force-owner node-b --reason "site A burnt down"', says: "the same question" },
    ],
  },
  resync: {
    says: "give the standby a whole copy once more",
    takes: "NAME",
    arguments: oneProtectedVm,
    flags: ["yes"],
    details: [
      "Twinrun copies what changed where both sides know it, and compares the rest by hashes. This copies every block and page, " +
        "for whoever trusts neither. The guest runs on, unprotected meanwhile; spec.checkpoint.resyncMiBPerSecond limits the pace.",
    ],
    examples: [{ line: "resync web", says: "says what it means and asks" }],
  },
  maintenance: {
    says: "empty a node so that it can be switched off, and let it work again",
    takes: "NODE begin|end|status",
    arguments: { min: 2, max: 2, completes: "node", then: MAINTENANCE_STEPS },
    flags: ["reason", "yes", "wait", "timeout", "output"],
    outputs: ["table", "json", "yaml"],
    details: [
      "begin marks the node and cordons it; the operator hands the guests that run there over to their standbys, one after " +
        "the other, and gives standbys another node where placement allows one. It comes back when the node may be switched " +
        "off: when no guest would lose anything by it. Refused while another node is in maintenance, and while the only " +
        "whole copy of a guest is there.",
      "end takes the mark away and uncordons the node, unless it was cordoned before; it comes back when every guest with a " +
        "side there is protected again. It needs the right to change nodes.",
    ],
    examples: [
      { line: 'maintenance node-a begin --reason "kernel update"', says: "and wait until it may be switched off" },
      { line: "maintenance node-a status", says: "which guests are there, and what each awaits" },
      { line: "maintenance node-a end", says: "when it is back" },
    ],
  },
  import: {
    says: "make a protected VM of disk images (qcow2, vmdk, raw) or an OVA",
    takes: "FILE...",
    arguments: { min: 1, max: 8, completes: "file" },
    flags: [
      ...(["name", "nodes", "memory", "cpus", "network", "firmware", "disk-bus", "nic-model", "template"] as const),
      ...(["storage-class", "size", "max-size", "format", "image", "work-dir", "dry-run", "wait", "timeout"] as const),
    ],
    details: [
      "Each file becomes a volume, in their order; the first is booted from. What a file says of itself is not trusted: one that " +
        "names other files, is cut off, too large, or holds more than it can is refused. Images other than raw need qemu-img on " +
        "this machine, which is given limits, and room for the disk in --work-dir; an OVA's checksums are verified.",
      "May be broken off at any time: the same command goes on with what has not arrived. Where CDI is installed it makes the " +
        "volumes; a pod of Twinrun's image, on the first node, writes what is sent to it through the API server.",
    ],
    examples: [
      { line: "import web.ova --nodes node-a,node-b --network lan", says: "the machine as its OVF describes it" },
      {
        line: "import disk.qcow2 --name web --nodes node-a,node-b --memory 2Gi --dry-run",
        says: "only look at it, and print what would be made",
      },
    ],
  },
  export: {
    says: "write a protected VM's disk to a file (raw, qcow2, vmdk) or all of them to an OVA",
    takes: "NAME",
    arguments: oneProtectedVm,
    flags: ["file", "format", "disk", "live", "image", "yes"],
    details: [
      "The guest must be shut down, so that the disk is as it left it. With --live it may run: the disk is copied while it does, then " +
        "the guest is paused, what has changed is copied again, and it goes on. That is what a loss of power would leave. It " +
        "stands still for as long as it takes to read the disk from end to end.",
      "May be broken off at any time: the same command goes on with what has not arrived.",
    ],
    examples: [
      { line: "export web -f web.qcow2", says: "the only disk of a guest that was shut down" },
      { line: "export web --disk data --live -f data.raw", says: "one of several, while it runs" },
    ],
  },
  events: {
    says: "show what happened to protected VMs",
    takes: "[NAME...]",
    arguments: someProtectedVms,
    flags: ["all-namespaces", "output", "no-headers", "watch"],
    outputs: ["table", "json", "yaml"],
    details: ["Events of the ProtectedVMs, of their VirtualMachineInstances and of their GuestPairs, oldest first."],
    examples: [{ line: "events web -w", says: "those there are, then each as it happens" }],
  },
  faults: {
    says: "show what failed of protected VMs, and clear what is isolated",
    takes: "[NAME...] | clear NAME [COMPONENT]",
    arguments: { min: 0, max: 100, completes: "fault" },
    flags: ["all-namespaces", "output", "no-headers", "yes", "wait", "timeout"],
    outputs: ["table", "wide", "json", "yaml"],
    details: [
      "What failed, where, how often and since when; what was done, and what to do. OutOfService does not work now, InService works " +
        "again. Isolated has failed so often within an hour (spec.failover.isolateAfterFaults) that no new copy of the guest is " +
        "made there until a person clears it, whether it works or not.",
      "clear says that it can be relied on again: COMPONENT is one of the table, such as disk/system, or a NODE, or " +
        "NODE/COMPONENT; without it all that failed of the VM is meant.",
    ],
    examples: [
      { line: "faults -A", says: "of all protected VMs; -o wide shows what to do beside each" },
      { line: "faults clear web node-a/host", says: "after node-a got its new power supply" },
    ],
  },
  doctor: {
    says: "check the cluster, the nodes and each protected VM, and say how to mend what is wrong",
    takes: "[NAME...]",
    arguments: someProtectedVms,
    flags: ["all-namespaces", "output"],
    outputs: ["table", "wide", "json", "yaml"],
    details: [
      "Reads only. Without -n and NAME it looks at the protected VMs of all namespaces. The table leaves out what is well in " +
        "groups where something is not; -o wide shows every check.",
    ],
    examples: [
      { line: "doctor", says: "everything; exit status 1 when something must be mended" },
      { line: "doctor -o json | jq '.findings[] | select(.level == \"failure\")'", says: "for scripts" },
    ],
  },
  logs: {
    says: "write a support bundle: objects, events, logs and node facts",
    takes: "[NAME...]",
    arguments: someProtectedVms,
    flags: ["all-namespaces", "file", "since", "tail"],
    details: [
      "A tar of what somebody who helps needs to see. Secrets are never read. Passwords, tokens, keys, cloud-init and the " +
        "environment of containers are taken out of everything else; look through it all the same before you send it.",
    ],
    examples: [{ line: "logs --since 2h -f twinrun.tar", says: "of the last two hours" }],
  },
  completion: {
    says: "print the completion script of a shell",
    takes: "bash|zsh|fish",
    arguments: { min: 1, max: 1 },
    flags: [],
    details: [
      "For `kubectl twinrun`, kubectl itself asks the program kubectl_complete-twinrun, which is installed beside this one; " +
        "kubectl's own completion must be on. The script is for kubectl-twinrun as a command of its own.",
    ],
    examples: [{ line: "completion bash > /etc/bash_completion.d/kubectl-twinrun", says: "for every user" }],
  },
  version: {
    says: "show the versions of this program, Twinrun, KubeVirt and Kubernetes",
    takes: "",
    arguments: none,
    flags: ["client", "output"],
    outputs: ["table", "json", "yaml"],
    details: [],
    examples: [{ line: "version --client", says: "without asking a cluster" }],
  },
  help: {
    says: "show this, or the help of a command",
    takes: "[COMMAND]",
    arguments: { min: 0, max: 1 },
    flags: [],
    details: [],
    examples: [],
  },
} as const satisfies Readonly<Record<string, Command>>;

export type CommandName = keyof typeof commandTable;
export const COMMANDS: Readonly<Record<CommandName, Command>> = commandTable;
export const COMMAND_NAMES = Object.keys(commandTable) as readonly CommandName[];

export const SHELLS = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof SHELLS)[number];

/** All that a command takes, its own first. */
export const listFlags = (command: CommandName): readonly FlagName[] => [...COMMANDS[command].flags, ...COMMON_FLAGS];
