/**
 * The controllers of KubeVirt and CDI in one: looks at everything whenever something changed, and does what is to be done.
 *
 * The lab has a handful of VMs, so a turn costs little; what one turn could not do the next one does. Its decisions are in
 * vmi-status.ts, launcher-pod.ts, vm-plan.ts and data-volumes.ts.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Cluster } from "../../../../src/kube/cluster.ts";
import { hasKubeCode } from "../../../../src/kube/kube-failure.ts";
import { kindOf, type KubeObject } from "../../../../src/kube/kube-object.ts";
import { Reflector } from "../../../../src/kube/reflector.ts";
import { type Claim, type DataVolume } from "./data-volumes.ts";
import { DataVolumeTurn } from "./data-volume-turn.ts";
import { type LauncherImage } from "./launcher-image.ts";
import { type LauncherCommand } from "./launcher-link.ts";
import { type LabNodeObject, NodeTurn } from "./node-turn.ts";
import { type Vm } from "./vm-plan.ts";
import { VmTurn } from "./vm-turn.ts";
import { type LauncherPod } from "./vmi-status.ts";
import { VmiTurn } from "./vmi-turn.ts";
import { type Vmi } from "./vmi.ts";

export type ControllerOptions = {
  readonly cluster: Cluster;
  readonly launcherImage: string;
  readonly images: Readonly<Record<string, string>>;
  readonly launcher: LauncherImage;
  readonly say: (line: string) => void;
};

/** What the turns see; each is a copy that follows the API server. */
export type Caches = {
  readonly vmis: Reflector<Vmi & KubeObject>;
  readonly vms: Reflector<Vm & KubeObject>;
  readonly dataVolumes: Reflector<DataVolume & KubeObject>;
  readonly pods: Reflector<LauncherPod & KubeObject>;
  readonly claims: Reflector<Claim & KubeObject>;
  readonly nodes: Reflector<LabNodeObject & KubeObject>;
};

/** Turns come at least so often: heartbeats of nodes are renewed by them. */
const idleMs = 15_000;
const retryMs = 500;
/** What belongs together changes together. */
const settleMs = 20;

export class Controller {
  readonly #caches: Caches;
  readonly #turns: readonly { take: () => Promise<void> }[];
  readonly #vmiTurn: VmiTurn;
  readonly #options: ControllerOptions;
  readonly #stopping = new AbortController();
  #isWanted = false;
  #said = "";
  #wake = (): void => undefined;
  #running: Promise<void> | undefined;

  constructor(options: ControllerOptions) {
    const { cluster } = options;
    this.#options = options;
    const follow = <T extends KubeObject>(apiVersion: string, kind: string, labelSelector?: string): Reflector<T> =>
      new Reflector<T>({ cluster, kind: kindOf(apiVersion, kind), scope: { labelSelector } });
    this.#caches = {
      vmis: follow("kubevirt.io/v1", "VirtualMachineInstance"),
      vms: follow("kubevirt.io/v1", "VirtualMachine"),
      dataVolumes: follow("cdi.kubevirt.io/v1beta1", "DataVolume"),
      pods: follow("v1", "Pod", "kubevirt.io=virt-launcher"),
      claims: follow("v1", "PersistentVolumeClaim"),
      nodes: follow("v1", "Node"),
    };
    const request = (): void => {
      this.#request();
    };
    this.#vmiTurn = new VmiTurn({ ...options, caches: this.#caches, onChange: request });
    this.#turns = [
      new NodeTurn(cluster, this.#caches, options.launcher),
      new DataVolumeTurn(cluster, this.#caches),
      new VmTurn(cluster, this.#caches),
      this.#vmiTurn,
    ];
    for (const reflector of Object.values(this.#caches)) {
      reflector.onChange(request);
    }
  }

  async start(): Promise<void> {
    for (const reflector of Object.values(this.#caches)) {
      reflector.start();
      await reflector.synced();
    }
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#request();
    await this.#running;
    this.#vmiTurn.stop();
    await Promise.all(Object.values(this.#caches).map((reflector) => reflector.stop()));
  }

  findVmi(key: string): Vmi | undefined {
    return this.#caches.vmis.get(key);
  }

  findPod(key: string): LauncherPod | undefined {
    return this.#caches.pods.get(key);
  }

  /** What a subresource asks of a VMI's launcher. */
  async send(vmi: Vmi, command: LauncherCommand): Promise<void> {
    await this.#vmiTurn.send(vmi, command);
  }

  #request(): void {
    this.#isWanted = true;
    this.#wake();
  }

  async #run(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      this.#isWanted = false;
      for (const turn of this.#turns) {
        await turn.take().catch((cause: unknown) => {
          this.#tell(cause);
        });
      }
      await this.#waitUntilWanted();
      await sleep(settleMs);
    }
  }

  #waitUntilWanted(): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, this.#isWanted ? 0 : idleMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Whoever changed an object before us woke us, too. Else it is tried again in a moment. */
  #tell(cause: unknown): void {
    if (this.#stopping.signal.aborted) {
      return;
    }
    const line = `KubeVirt of the lab: ${cause instanceof Error ? cause.message : String(cause)}`;
    if (!hasKubeCode(cause, "Conflict", "NotFound", "AlreadyExists") && line !== this.#said) {
      this.#said = line;
      this.#options.say(line);
    }
    setTimeout(() => {
      this.#request();
    }, retryMs);
  }
}
