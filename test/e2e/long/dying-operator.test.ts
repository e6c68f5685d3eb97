/**
 * An operator that dies after every single thing it does, on real nodes with real guests: from a ProtectedVM's creation until it is
 * protected, through a re-protection on another node, and to its deletion. What there is in the end is what a calm operator made.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { type ProtectedVm } from "../../../src/api/protected-vm.ts";
import { kindOf } from "../../../src/kube/kube-object.ts";
import { hookImage } from "../../lab/kubernetes/images.ts";
import { mountToken, writeTokenKubeconfig } from "../../lab/kubernetes/service-accounts.ts";
import { kubectl } from "../kubectl.ts";
import { isReady, type Platform, startPlatform, systemNamespace, tenantNamespace } from "../platform.ts";
import { describeOnCluster, say, setUpMsMax, Witness } from "../witness.ts";

const root = join(import.meta.dirname, "../../..");
const pool = { "twinrun.test/pool": "x" };
/** Kubernetes takes 50 s to find a node gone, Twinrun waits a minute more for it. */
const lifeMsMax = 900_000;

/** The operator's process on this machine, with the rights of its service account, again and again. */
class DyingOperator {
  readonly #platform: Platform;
  readonly #directory = mkdtempSync(join(tmpdir(), "twinrun-operator-"));
  readonly #deaths = new Map<string, number>();
  /** Every action that it died after. */
  readonly #known = new Set<string>();
  /** How many actions the next life may do before the one it dies after. */
  #unharmed = 0;
  #child: ChildProcess | undefined;
  #isStopping = false;
  #lives: Promise<void> | undefined;

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  /** How often it died after which action. */
  get deaths(): ReadonlyMap<string, number> {
    return this.#deaths;
  }

  async start(): Promise<void> {
    const wish = { namespace: systemNamespace, account: "twinrun-operator" };
    const mounted = await mountToken(this.#platform.lab.plane, wish, join(this.#directory, "account"));
    this.#lives = this.#live(writeTokenKubeconfig(this.#platform.lab.plane, mounted));
  }

  /** `said`: the action it told of last, if it came so far as to do one; before that it writes the status. */
  #noteDeath(said: RegExpExecArray | undefined): void {
    const [line = "", action = "writeStatus"] = said ?? [];
    this.#deaths.set(action, (this.#deaths.get(action) ?? 0) + 1);
    // What each life does first, it does again: the next one has to come a step further.
    this.#unharmed = line !== "" && this.#known.has(line) ? this.#unharmed + 1 : 0;
    this.#known.add(line);
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#child?.kill("SIGTERM");
    await this.#lives;
    rmSync(this.#directory, { recursive: true });
  }

  /** It leaves its lead behind each time; nobody waits 15 s for the end of a lease here. */
  async #mayLive(): Promise<boolean> {
    const leases = kindOf("coordination.k8s.io/v1", "Lease");
    await this.#platform.cluster.remove({ kind: leases, namespace: systemNamespace, name: "twinrun-operator" });
    return !this.#isStopping;
  }

  async #live(kubeconfig: string): Promise<void> {
    const failPoint = join(this.#directory, "fail-point");
    for (let life = 1; await this.#mayLive(); life += 1) {
      writeFileSync(failPoint, `any ${this.#unharmed}\n`);
      const args = [
        ...["--disable-warning=ExperimentalWarning", join(root, "src/main/operator.ts")],
        ...[`--namespace=${systemNamespace}`, `--identity=dying-${life}`, `--hook-image=${hookImage}`],
        ...[`--kubeconfig=${kubeconfig}`],
      ];
      const environment = { TWINRUN_FAIL_POINTS: "1", TWINRUN_FAIL_POINT_FILE: failPoint, TMPDIR: this.#directory };
      const child = spawn(process.execPath, args, {
        env: { ...process.env, ...environment },
        stdio: ["ignore", "pipe", "inherit"],
      });
      this.#child = child;
      let said = "";
      child.stdout.on("data", (text: Buffer) => (said += text.toString()));
      const [, signal] = (await once(child, "close")) as [number | null, string | null];
      if (signal === "SIGKILL") {
        this.#noteDeath([...said.matchAll(/"action":"(\w+)"(,"object":"[^"]*")?/g)].at(-1));
      }
    }
  }
}

/** Kinds and namespaces of all that was made for guests; names have uids in them. */
async function listMade({ cluster }: Platform): Promise<readonly string[]> {
  const kinds = [
    ["twinrun.dev/v1alpha1", "GuestPair"],
    ["kubevirt.io/v1", "VirtualMachineInstance"],
    ["cdi.kubevirt.io/v1beta1", "DataVolume"],
    ["v1", "PersistentVolumeClaim"],
    ["v1", "Pod"],
    ["v1", "Secret"],
  ] as const;
  const found = await Promise.all(
    kinds.map(async ([apiVersion, kind]) => {
      const { items } = await cluster.list(kindOf(apiVersion, kind), { labelSelector: "twinrun.dev/guest" });
      return items.map(({ metadata }) => `${kind} in ${metadata.namespace ?? ""}`);
    }),
  );
  return found.flat().sort();
}

async function waitForMade(platform: Platform, made: readonly string[]): Promise<void> {
  while (JSON.stringify(await listMade(platform)) !== JSON.stringify(made)) {
    await sleep(1_000);
  }
}

/** One that is still ending does things, too. */
async function endCalmOperator(platform: Platform): Promise<void> {
  const labels = "app.kubernetes.io/component=operator";
  await kubectl(platform, "--namespace", systemNamespace, "scale", "deployment/twinrun-operator", "--replicas=0");
  const pods = ["pods", "--selector", labels, "--timeout=120s"];
  await kubectl(platform, "--namespace", systemNamespace, "wait", "--for=delete", ...pods);
}

/** Whether a bound is kept is for the machine to say, and no end that anything comes to. */
const endOf = ({ status }: ProtectedVm): unknown =>
  status?.conditions
    ?.filter(({ type }) => type !== "LatencyWithinBound")
    .map(({ type, status: held, reason }) => [type, held, reason]);

describeOnCluster(import.meta.filename)("a guest of an operator", () => {
  let platform: Platform;
  let calm: Life;
  let dying: DyingOperator | undefined;

  beforeAll(async () => {
    platform = await startPlatform({ store: "etcd", kinds: ["busybox"], say });
    for (const name of platform.lab.nodeNames) {
      await platform.cluster.patch({ kind: kindOf("v1", "Node"), name }, { metadata: { labels: pool } });
    }
  }, setUpMsMax);

  afterAll(async () => {
    await dying?.stop();
    await platform.stop();
  }, setUpMsMax);

  type Life = { readonly created: readonly string[]; readonly ready: unknown; readonly reprotected: unknown };

  /** From nothing to nothing; the client must not notice anything before the end. */
  async function live(name: string, address: string): Promise<Life> {
    const witness = await Witness.start(platform, {
      name,
      kind: "busybox",
      address,
      placement: { nodeSelector: pool },
    });
    const created = await listMade(platform);
    const ready = endOf(await platform.waitUntilReady(name));
    const { primary, standby } = await witness.readScene();
    await platform.lab.powerOff(primary);
    const moved = await platform.waitForProtectedVm(
      name,
      (vm) => isReady(vm) && vm.status?.primary?.node === standby,
      lifeMsMax / 2,
    );
    say(`${name}: whole again on ${standby} and ${moved.status?.standby?.node ?? "no node"}, ${primary} is off`);
    expect([primary, standby]).not.toContain(moved.status?.standby?.node);
    await platform.lab.powerOn(primary);
    await waitForMade(platform, created);
    say(`${name}: ${primary} is back, and nothing of the guest is left there`);
    const reprotected = endOf(await platform.waitUntilReady(name));
    await witness.hear();
    const result = await witness.stop();
    expect(result).toMatchObject({ faults: [], connectionsSurvived: 4 });
    const ref = { kind: kindOf("twinrun.dev/v1alpha1", "ProtectedVM"), namespace: tenantNamespace, name };
    await platform.cluster.remove(ref);
    await waitForMade(platform, []);
    while ((await platform.readProtectedVm(name)) !== undefined) {
      await sleep(200);
    }
    return { created, ready, reprotected };
  }

  test(
    "that is calm becomes whole on another node when one stays off, and leaves nothing there",
    async () => {
      calm = await live("calm", "10.77.0.63");
    },
    lifeMsMax,
  );

  test(
    "that dies after every action comes to the same end, and nothing is there twice",
    async () => {
      await endCalmOperator(platform);
      dying = new DyingOperator(platform);
      await dying.start();
      const life = await live("dying", "10.77.0.64");
      while (!dying.deaths.has("removeFinalizer")) {
        await sleep(100); // The ProtectedVM is gone a moment before the operator dies of it.
      }
      say(`the operator died: ${[...dying.deaths].map(([action, times]) => `${action} ${times}`).join(", ")}`);
      expect(life).toEqual(calm);
      for (const action of ["applyFinalizer", "apply", "create", "delete"]) {
        expect([...dying.deaths.keys()]).toContain(action);
      }
    },
    lifeMsMax,
  );
});
