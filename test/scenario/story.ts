/**
 * A story: commands in, the whole timeline out. A line of a command file is
 *
 *   node NAME [label=value...] [models=A,B] [links=NAME:HOST,...]   a node that is there from the start, or comes later
 *   vm NAME [stopped] [lun] [local=NODE] [on=NODE]   a VirtualMachine with one disk, as a user has it; on local storage it is
 *                                                on NODE already, or where KubeVirt starts it first if nobody says where
 *   sites NAME [SITE=label=value SITE=label=value [quorum=HOST:PORT,HOST:PORT]]   a SplitSitePair; without sites it is deleted
 *   blind NODE SEAT, sees NODE SEAT              a node does not reach that quorum, or does again
 *   force NAME NODE [certain]                    a person overrides the quorum
 *   label NODE LABEL [VALUE]                     without a value the label goes
 *   bind NAME NODE                               its volume is bound there now, whoever did it
 *   apply NAME nodes=A,B | select=label=value | sites=NAME | ref=VM | reprotect=Manual | mode=HighAvailability | secret |
 *     group=NAME | order=NUMBER | labels=label=value | apart=label=value ...
 *   spec NAME JSON                               merges a patch into the spec
 *   annotate NAME ANNOTATION VALUE
 *   delete NAME | delete-vmi NAMESPACE/NAME-PREFIX
 *   fault NODE COMPONENT CODE WORDS...           its agent sees a fault that is over at once
 *   traffic NAME MIB PEAK [late]                 what a guest puts on the links, and the most its nodes were seen to send
 *   declare NODE MIB                             the capacity of its links
 *   power NODE off|on, cordon NODE, uncordon NODE, drain NODE, kill NODE [NAME], shutdown NODE
 *   maintain NODE, maintained NODE, resume NODE  kubectl twinrun maintenance NODE begin, status, end
 *   outdate                                      KubeVirt has a new launcher: every instance there is has an old one
 *   spoil NAME                                   somebody edits the GuestPair
 *   unmark KIND NAMESPACE/NAME-PREFIX            somebody takes away what the operator finds an object by
 *   refuse KIND WORDS..., allow KIND, refuse-handover NODE WORDS...
 *   crash-always                                 from here on the operator dies after every single action
 *   wait SECONDS
 *   objects                                      prints what there is
 *   machine NAME                                 prints what differs between a VirtualMachine's spec and its owner's
 *   port-range LOW HIGH                          the operator gives engines other ports from here on
 *   ports                                        prints which guest has which
 */
import { LINK_CAPACITY_ANNOTATION, requestAnnotations } from "../../src/api/requests.ts";
import { vmiAnnotations } from "../../src/api/vmi-contract.ts";
import { type Node } from "../../src/cli/kube-objects.ts";
import {
  decideBeginning,
  encodeBeginning,
  encodeEnd,
  judgeNode,
  type MaintenanceFacts,
} from "../../src/cli/maintenance.ts";
import { diffJson, type Json, mergeJson, readObjects } from "../../src/lib/json-merge.ts";
import { type FaultCode, type FaultComponent } from "../../src/protocol/faults.ts";
import { ProtectedVmReconciler } from "../../src/operator/protected-vm-reconciler.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import { SimulatedAgents } from "./agents.ts";
import { LOCAL_ANNOTATION, nameOf, SimulatedCluster } from "./cluster.ts";

class Died extends Error {}

const NAMESPACE = "shop";
/** Kubernetes waits 40 s for a kubelet; the stories are shorter with five. */
const NODE_SILENT_SECONDS = 5;

const readValue = (text = ""): string | number => (/^[0-9]+$/.test(text) ? Number(text) : text);

export class Story {
  readonly #cluster = new SimulatedCluster();
  readonly #agents = new SimulatedAgents(this.#cluster);
  readonly #offSince = new Map<string, number>();
  /** Specs as their owners wrote them. */
  readonly #machines = new Map<string, Json>();
  readonly #deaths = new Set<string>();
  #reconciler = this.#begin();
  #isDeadly = false;

  /** Dies after every action from the start, whatever the commands say. */
  constructor(isDeadly = false) {
    this.#isDeadly = isDeadly;
  }

  get lines(): readonly string[] {
    return this.#cluster.lines;
  }

  /** What there is, whichever way it came to be. */
  names(): readonly string[] {
    return this.#cluster.names();
  }

  /** What is said of each ProtectedVM in the end. */
  ends(): readonly unknown[] {
    return this.#cluster.listKind("ProtectedVM").map(({ metadata, status }) => ({
      name: metadata.name,
      conditions: readObjects(status, "conditions").map(({ type, status: held, reason }) => ({ type, held, reason })),
      primary: status?.["primary"],
    }));
  }

  async run(commands: string): Promise<void> {
    for (const line of commands.split("\n")) {
      const words = line.split("#")[0]?.trim().split(/\s+/) ?? [];
      if (words[0] !== undefined && words[0] !== "") {
        await this.#run(words);
      }
    }
  }

  #begin(): ProtectedVmReconciler {
    return new ProtectedVmReconciler({
      cluster: this.#cluster,
      nowMs: () => this.#cluster.nowMs,
      log: silentLog,
      pass: (step) => {
        this.#die(step);
      },
    });
  }

  /** Once for each thing it does in a second, or what has to be done again in each life would leave no time for the rest. */
  #die(step: string): void {
    const done = `${this.#cluster.seconds} ${step === "writeStatus" ? step : this.#cluster.lastAct}`;
    if (this.#isDeadly && !this.#deaths.has(done)) {
      this.#deaths.add(done);
      throw new Died();
    }
  }

  async #run([command = "", ...args]: readonly string[]): Promise<void> {
    const known: Readonly<Record<string, (args: readonly string[]) => void | Promise<void>>> = {
      node: ([name = "", ...options]) => {
        this.#addNode(name, options);
      },
      vm: ([name = "", ...options]) => {
        this.#addMachine(name, options);
      },
      bind: ([name = "", node = ""]) => {
        this.#cluster.bindTo(this.#find("PersistentVolumeClaim", `${name}-disk`), node);
      },
      apply: ([name = "", ...options]) => {
        this.#apply(name, options);
      },
      spec: ([name = "", json = "{}"]) => {
        this.#changeSpec(name, JSON.parse(json) as Json);
      },
      sites: ([name = "", ...sites]) => {
        this.#setSites(name, sites);
      },
      label: ([node = "", label = "", value]) => {
        this.#label(node, label, value);
      },
      annotate: ([name = "", annotation = "", value = ""]) => {
        this.#annotate(name, annotation, value);
      },
      blind: ([node = "", seat = ""]) => void this.#agents.blind.add(`${node} ${seat}`),
      sees: ([node = "", seat = ""]) => void this.#agents.blind.delete(`${node} ${seat}`),
      force: ([name = "", node = "", certain]) => {
        const override = { node, who: "admin", why: "fire", at: this.#cluster.iso(), isCertain: certain === "certain" };
        this.#annotate(name, requestAnnotations.forceOwner, JSON.stringify(override));
      },
      delete: ([name = ""]) => {
        this.#delete(name);
      },
      "delete-vmi": ([prefix = ""]) => {
        this.#deleteInstance(prefix);
      },
      traffic: ([name = "", mib = "", peak = "", late]) => {
        const rates = { mibPerSecond: Number(mib), nodePeakMiBPerSecond: Number(peak) };
        this.#agents.traffic.set(name, { ...rates, isLate: late === "late" });
        this.#cluster.say(
          name,
          `sends ${mib} of ${peak} MiB/s${late === undefined ? "" : ", and its answers are late"}`,
        );
      },
      declare: ([node = "", mib = ""]) => {
        this.#patchNode(node, { metadata: { annotations: { [LINK_CAPACITY_ANNOTATION]: mib } } });
        this.#cluster.say("person", `declares ${mib} MiB/s for the links of ${node}`);
      },
      power: ([node = "", state = ""]) => {
        this.#power(node, state === "on");
      },
      cordon: ([node = ""]) => {
        this.#cordon(node, true);
      },
      uncordon: ([node = ""]) => {
        this.#cordon(node, false);
      },
      drain: ([node = ""]) => {
        this.#drain(node);
      },
      maintain: ([node = ""]) => {
        this.#beginMaintenance(node);
      },
      maintained: ([node = ""]) => {
        this.#cluster.say("person", `is told: ${judgeNode(this.#readFacts(node)).says}`);
      },
      resume: ([node = ""]) => {
        this.#patchNode(node, encodeEnd(this.#readFacts(node).node));
        this.#cluster.say("person", `ends the maintenance of ${node}`);
      },
      outdate: () => {
        this.#cluster.outdateInstances();
      },
      kill: ([node = "", name = ""]) => {
        this.#kill(node, name);
      },
      fault: ([node = "", component = "", code = "", ...words]) => {
        const fault = { component: component as FaultComponent, code: code as FaultCode, message: words.join(" ") };
        this.#cluster.say(node, `sees a fault of ${component}: ${fault.message}`);
        this.#agents.fault(node, fault);
      },
      shutdown: ([node = ""]) => {
        this.#agents.end(node);
      },
      spoil: ([name = ""]) => {
        this.#spoil(name);
      },
      unmark: ([kind = "", prefix = ""]) => {
        this.#unmark(kind, prefix);
      },
      refuse: ([kind = "", ...words]) => void this.#cluster.refusals.set(kind, words.join(" ")),
      allow: ([kind = ""]) => void this.#cluster.refusals.delete(kind),
      "refuse-handover": ([node = "", ...words]) => void this.#agents.refusals.set(node, words.join(" ")),
      "crash-always": () => {
        this.#isDeadly = true;
      },
      wait: ([seconds = "1"]) => this.#wait(Number(seconds)),
      "port-range": ([low = "", high = ""]) => {
        this.#cluster.ports = { low: Number(low), high: Number(high) };
      },
      ports: () => {
        const given = this.#cluster.listPairs().map(({ metadata, spec }) => `${metadata.name} ${spec.port}`);
        this.#cluster.say("ports", given.join(", "));
      },
      machine: ([name = ""]) => {
        const difference = diffJson(this.#machines.get(name) ?? {}, this.#find("VirtualMachine", name).spec ?? {});
        this.#cluster.say("machine", `${name} differs from what its owner wrote by ${JSON.stringify(difference)}`);
      },
      objects: () => {
        this.#cluster.say("there is", this.#cluster.names().join(", ") || "nothing");
      },
    };
    const run = known[command];
    if (run === undefined) {
      throw new Error(`no command ${command}`);
    }
    await run(args);
  }

  #addNode(name: string, options: readonly string[]): void {
    const pairs = options.map((option) => option.split("=") as [string, string]);
    const models = pairs.find(([key]) => key === "models")?.[1].split(",");
    const links = pairs.find(([key]) => key === "links")?.[1].replaceAll(":", "=");
    const labels = Object.fromEntries(pairs.filter(([key]) => key !== "models" && key !== "links"));
    this.#cluster.addNode(name, { labels, links, ...(models === undefined ? {} : { models }) });
  }

  #addMachine(name: string, options: readonly string[]): void {
    const disk = options.includes("lun") ? { name: "system", lun: {} } : { name: "system", disk: { bus: "virtio" } };
    const [local, on] = ["local=", "on="].map((key) => options.find((each) => each.startsWith(key))?.slice(key.length));
    const chosen = on ?? local;
    const claim = this.#cluster.put({
      apiVersion: "v1",
      kind: "PersistentVolumeClaim",
      metadata: {
        ...{ namespace: NAMESPACE, name: `${name}-disk` },
        ...(chosen === undefined ? {} : { annotations: { [LOCAL_ANNOTATION]: chosen } }),
      },
      spec: { resources: { requests: { storage: "10Gi" } } },
    });
    if (on !== undefined) {
      this.#cluster.bindTo(claim, on);
    }
    const { spec = {} } = this.#cluster.put({
      apiVersion: "kubevirt.io/v1",
      kind: "VirtualMachine",
      metadata: { namespace: NAMESPACE, name },
      spec: {
        runStrategy: options.includes("stopped") ? "Halted" : "Always",
        template: {
          metadata: { labels: { app: name } },
          spec: {
            domain: { memory: { guest: "1Gi" }, devices: { disks: [disk] } },
            volumes: [{ name: "system", persistentVolumeClaim: { claimName: `${name}-disk` } }],
          },
        },
      },
    });
    this.#machines.set(name, spec);
  }

  #setSites(name: string, sites: readonly string[]): void {
    if (sites.length === 0) {
      this.#cluster.say("person", `deletes SplitSitePair ${name}`);
      this.#cluster.remove("SplitSitePair", { namespace: "", name });
      return;
    }
    const [preferred, alternate] = (sites.find((each) => each.startsWith("quorum=")) ?? "=").slice(7).split(",");
    const quorum = { preferred: [preferred], ...(alternate === undefined ? {} : { alternate: [alternate] }) };
    const spec = {
      sites: sites.slice(0, 2).map((site) => {
        const [siteName = "", label = "", value = ""] = site.split("=");
        return { name: siteName, nodeSelector: { [label]: value } };
      }),
      ...(sites.length > 2 ? { quorum } : {}),
    };
    this.#cluster.put({ apiVersion: "twinrun.dev/v1alpha1", kind: "SplitSitePair", metadata: { name }, spec });
    this.#cluster.say("person", `applies SplitSitePair ${name}: ${sites.join(" ")}`);
  }

  #label(node: string, label: string, value: string | undefined): void {
    const object = this.#find("Node", node);
    const labels = Object.entries({ ...object.metadata.labels, [label]: value });
    const kept = labels.flatMap(([name, text]) => (text === undefined ? [] : [[name, text] as const]));
    this.#cluster.put({ ...object, metadata: { ...object.metadata, labels: Object.fromEntries(kept) } });
    this.#cluster.say("person", `labels ${node} ${label}=${value ?? ""}`);
  }

  #apply(name: string, options: readonly string[]): void {
    const all = ["mode=FaultTolerant", ...options];
    const given = new Map(all.map((option) => [option.split("=")[0] ?? "", option.split("=").slice(1)]));
    const [label = "", value = ""] = given.get("select") ?? [];
    const nodes = given.get("nodes")?.[0]?.split(",");
    const sites = given.get("sites")?.[0];
    const selected = sites === undefined ? { nodeSelector: { [label]: value } } : { splitSitePairRef: { name: sites } };
    const ref = given.get("ref")?.[0];
    const pick = (...names: readonly string[]): Json =>
      Object.fromEntries(
        names.filter((each) => given.has(each)).map((each) => [each, readValue(given.get(each)?.[0])]),
      );
    const read = (option: string): Json => {
      const [key = "", text = ""] = given.get(option) ?? [];
      return key === "" ? {} : { [key]: text };
    };
    const cloudInit = given.has("secret")
      ? [{ name: "init", cloudInitNoCloud: { secretRef: { name: "web-init" } } }]
      : [];
    const template = {
      spec: {
        dataVolumeTemplates: [
          {
            metadata: { name: `${name}-system` },
            spec: { source: { blank: {} }, storage: { resources: { requests: { storage: "10Gi" } } } },
          },
        ],
        template: {
          spec: {
            domain: {
              memory: { guest: "1Gi" },
              devices: {
                disks: [{ name: "system", disk: { bus: "virtio" } }],
                interfaces: [{ name: "lan", bridge: {} }],
              },
            },
            networks: [{ name: "lan", multus: { networkName: "lan" } }],
            volumes: [{ name: "system", dataVolume: { name: `${name}-system` } }, ...cloudInit],
          },
        },
      },
    };
    this.#cluster.put({
      apiVersion: "twinrun.dev/v1alpha1",
      kind: "ProtectedVM",
      metadata: { namespace: NAMESPACE, name, labels: read("labels") as Record<string, string> },
      spec: {
        mode: given.get("mode")?.[0],
        ...(ref === undefined ? { virtualMachineTemplate: template } : { virtualMachineRef: { name: ref } }),
        placement: {
          ...(nodes === undefined ? selected : { nodes }),
          ...(given.has("apart") ? { apartFrom: read("apart") } : {}),
        },
        failover: pick("reprotect", "group"),
        start: pick("order"),
      },
    });
    this.#cluster.say("person", `applies ProtectedVM ${name}: ${options.join(" ")}`);
  }

  #changeSpec(name: string, patch: Json): void {
    const object = this.#find("ProtectedVM", name);
    this.#cluster.put({ ...object, spec: mergeJson(object.spec ?? {}, patch) });
    this.#cluster.say("person", `changes ProtectedVM ${name}: ${JSON.stringify(patch)}`);
  }

  #annotate(name: string, annotation: string, value: string): void {
    this.#cluster.annotate(name, annotation, value);
    this.#cluster.say("person", `annotates ProtectedVM ${name}: ${annotation}=${value}`);
  }

  #delete(name: string): void {
    this.#cluster.say("person", `deletes ProtectedVM ${name}`);
    this.#cluster.remove("ProtectedVM", { namespace: NAMESPACE, name });
  }

  #deleteInstance(prefix: string): void {
    const vmi = this.#cluster
      .listKind("VirtualMachineInstance")
      .find(({ metadata }) => `${metadata.namespace ?? ""}/${metadata.name}`.startsWith(prefix));
    if (vmi !== undefined) {
      this.#cluster.say(
        "person",
        `deletes VirtualMachineInstance ${vmi.metadata.namespace ?? ""}/${vmi.metadata.name}`,
      );
      this.#cluster.remove("VirtualMachineInstance", vmi.metadata);
    }
  }

  #power(node: string, isOn: boolean): void {
    this.#cluster.power(node, isOn);
    this.#offSince.delete(node);
    if (!isOn) {
      this.#offSince.set(node, this.#cluster.seconds);
    }
  }

  #cordon(node: string, unschedulable: boolean): void {
    const object = this.#find("Node", node);
    object.spec = { unschedulable };
    this.#cluster.say("person", `${unschedulable ? "cordons" : "uncordons"} ${node}`);
  }

  #drain(node: string): void {
    this.#cordon(node, true);
    for (const vmi of this.#cluster.listKind("VirtualMachineInstance")) {
      if (vmi.status?.["nodeName"] === node) {
        this.#cluster.setStatus("VirtualMachineInstance", nameOf(vmi), { evacuationNodeName: node });
      }
    }
  }

  #readFacts(node: string): MaintenanceFacts {
    const nodes = this.#cluster.listKind("Node") as unknown as readonly Node[];
    return { node: this.#find("Node", node) as unknown as Node, nodes, pairs: this.#cluster.listPairs() };
  }

  #beginMaintenance(name: string): void {
    const facts = this.#readFacts(name);
    const beginning = decideBeginning(facts);
    if (beginning.tag !== "possible") {
      this.#cluster.say(
        "person",
        `may not begin the maintenance of ${name}: ${"says" in beginning ? beginning.says : ""}`,
      );
      return;
    }
    this.#patchNode(name, encodeBeginning(facts.node, { by: "", since: this.#cluster.iso(), reason: "" }));
    this.#cluster.say("person", `begins the maintenance of ${name}`);
  }

  #patchNode(name: string, patch: Json): void {
    const node = this.#find("Node", name);
    const { metadata, spec } = mergeJson({ metadata: node.metadata, spec: node.spec }, patch);
    node.metadata = metadata as typeof node.metadata;
    node.spec = spec as Json;
  }

  #kill(node: string, name: string): void {
    this.#cluster.say("person", `kills QEMU${name === "" ? "" : ` of ${name}`} on ${node}`);
    for (const vmi of this.#cluster.listKind("VirtualMachineInstance")) {
      if (vmi.status?.["nodeName"] === node && vmi.metadata.name.startsWith(name)) {
        this.#cluster.setStatus("VirtualMachineInstance", nameOf(vmi), { qemu: "dead" });
      }
    }
  }

  /** As somebody does who means well. */
  #spoil(name: string): void {
    const pair = this.#cluster.listKind("GuestPair").find(({ metadata }) => metadata.name.startsWith(name));
    if (pair !== undefined) {
      this.#cluster.put({ ...pair, spec: mergeJson(pair.spec ?? {}, { port: 9_999 }) });
      this.#cluster.say("person", `edits GuestPair ${pair.metadata.name}`);
    }
  }

  #unmark(kind: string, prefix: string): void {
    const object = this.#cluster
      .listKind(kind)
      .find(({ metadata }) => `${metadata.namespace ?? ""}/${metadata.name}`.startsWith(prefix));
    if (object !== undefined) {
      const { namespace = "", name, annotations = {} } = object.metadata;
      const others = Object.entries(annotations).filter(([annotation]) => annotation !== vmiAnnotations.protectedVm);
      object.metadata = { ...object.metadata, labels: {}, annotations: Object.fromEntries(others) };
      this.#cluster.say("person", `takes the marks off ${kind} ${namespace}/${name}`);
    }
  }

  #find(kind: string, name: string) {
    const object = this.#cluster.listKind(kind).find(({ metadata }) => metadata.name === name);
    if (object === undefined) {
      throw new Error(`no ${kind} ${name}`);
    }
    return object;
  }

  async #wait(seconds: number): Promise<void> {
    for (let passed = 0; passed < seconds; passed += 1) {
      this.#cluster.seconds += 1;
      for (const [node, since] of this.#offSince) {
        if (this.#cluster.seconds - since >= NODE_SILENT_SECONDS) {
          this.#cluster.markAway(node);
        }
      }
      this.#cluster.runKubeVirt();
      this.#agents.run();
      await this.#reconcileAll();
    }
  }

  /** Every object is looked at every second, as if something of it had changed; that must not do anything twice. */
  async #reconcileAll(): Promise<void> {
    for (const { metadata } of this.#cluster.listKind("ProtectedVM")) {
      await this.#reconcile(`${NAMESPACE}/${metadata.name}`);
    }
  }

  async #reconcile(key: string): Promise<void> {
    for (let lives = 0; lives < 100; lives += 1) {
      try {
        await this.#reconciler.reconcile(key);
        return;
      } catch (error) {
        if (!(error instanceof Died)) {
          throw error;
        }
        this.#reconciler = this.#begin();
      }
    }
    throw new Error(`${key}: a hundred lives were not enough for one second`);
  }
}
