/** Faults that are rare or take long, on a cluster whose quorum has an etcd of its own; the last one ends the guest, and says so. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { parseGuestPair } from "../../../src/api/guest-pair.ts";
import { type ProtectedVm } from "../../../src/api/protected-vm.ts";
import { assert, present } from "../../../src/lib/assert.ts";
import { kindOf, type KubeObject } from "../../../src/kube/kube-object.ts";
import { startClient } from "../../lab/clients/client-process.ts";
import { kubectl } from "../kubectl.ts";
import { type Platform, startPlatform, systemNamespace, tenantNamespace } from "../platform.ts";
import { component, cyclePower, deletePods, rollAgents } from "../strikes.ts";
import {
  describeOnCluster,
  type Fault,
  faultMsMax,
  say,
  type Scene,
  setUpMsMax,
  testNothingLost,
  Witness,
} from "../witness.ts";

const guest = "counter";
const address = "10.77.0.62";

const agentsRolled: Fault = {
  what: "all agents are replaced, one node after the other, as an upgrade does it",
  ends: "anywhere",
  strike: async ({ platform }) => {
    await rollAgents(platform, () => Promise.resolve(true));
  },
};

const standbyLostAgain: Fault = {
  what: "the standby's node loses power again while it receives the copy",
  ends: "there",
  strike: async (scene) => {
    const { platform, primary, standby } = scene;
    await platform.lab.powerOff(standby);
    await sleep(5_000);
    await platform.lab.powerOn(standby);
    await waitForState(scene, primary, "syncing");
    await cyclePower(platform, standby);
  },
};

const agentLostAgain: Fault = {
  what: "the agent that runs the guest is killed while the standby receives the copy of an earlier fault",
  ends: "anywhere", // The copy may be complete by the time the agent is dead, and then the standby takes over.
  strike: async (scene) => {
    await cyclePower(scene.platform, scene.standby);
    await waitForState(scene, scene.primary, "syncing");
    await deletePods(scene.platform, component("agent"), scene.primary);
  },
};

async function waitForState({ platform, guest: name }: Scene, node: string, state: string): Promise<void> {
  const uidGuest = present((await platform.readProtectedVm(name))?.status?.guest, "the guest's name");
  const ref = { kind: kindOf("twinrun.dev/v1alpha1", "GuestPair"), namespace: systemNamespace, name: uidGuest };
  for (;;) {
    const pair = parseGuestPair(await platform.cluster.read(ref), uidGuest);
    if (pair.status?.sides?.some((side) => side.node === node && side.state === state) === true) {
      return;
    }
    await sleep(50);
  }
}

type Member = { readonly ID: string; readonly name?: string };

/** What a person does for a member whose volume is lost, as charts/twinrun/README.md says it; etcdctl asks the same of the API. */
async function replaceEtcdMember(platform: Platform, index: number): Promise<void> {
  const name = `twinrun-etcd-${index}`;
  const inSystem = (...command: readonly string[]): Promise<string> =>
    kubectl(platform, "--namespace", systemNamespace, ...command);
  await inSystem("scale", "statefulset", name, "--replicas=0");
  await inSystem("wait", "--for=delete", `pod/${name}-0`, "--timeout=90s");
  await inSystem("delete", "pvc", `data-${name}-0`);
  const directory = mkdtempSync(join(tmpdir(), "twinrun-etcd-"));
  const ask = async (call: string, body: object): Promise<{ readonly members: readonly Member[] }> => {
    const other = await inSystem(
      "get",
      "service",
      `twinrun-etcd-${(index + 1) % 3}`,
      "--output=jsonpath={.spec.clusterIP}",
    );
    const files = ["--cacert", "ca.crt", "--cert", "tls.crt", "--key", "tls.key"].map((each) =>
      each.startsWith("--") ? each : join(directory, each),
    );
    const url = `https://${other}:2379/v3/cluster/member/${call}`;
    const said = await platform.lab.nodeExec("node-a", ["curl", "-sS", ...files, "-d", JSON.stringify(body), url]);
    return JSON.parse(said) as { readonly members: readonly Member[] };
  };
  try {
    const { data } = JSON.parse(await inSystem("get", "secret", "twinrun-etcd-tls", "--output=json")) as {
      readonly data: Readonly<Record<string, string>>;
    };
    for (const [file, content] of Object.entries(data)) {
      writeFileSync(join(directory, file), Buffer.from(content, "base64"), { mode: 0o600 });
    }
    const lost = (await ask("list", {})).members.find((member) => member.name === name);
    await ask("remove", { ID: present(lost, "the lost member is a member").ID });
    const own = await inSystem("get", "service", name, "--output=jsonpath={.spec.clusterIP}");
    await ask("add", { peerURLs: [`https://${own}:2380`] });
  } finally {
    rmSync(directory, { recursive: true });
  }
  await inSystem("set", "env", `statefulset/${name}`, "ETCD_INITIAL_CLUSTER_STATE=existing");
  await inSystem("scale", "statefulset", name, "--replicas=1");
  // Its pods are replaced by the operator, and kubectl follows only rollouts that Kubernetes does itself.
  await inSystem("wait", "--for=jsonpath={.status.readyReplicas}=1", `statefulset/${name}`, "--timeout=120s");
}

type ApiEvent = KubeObject & {
  readonly reason?: string;
  readonly note?: string;
  readonly regarding?: { readonly kind?: string; readonly name?: string };
};

/** What the operator told of the guest so far. */
async function listEvents({ cluster }: Platform): Promise<readonly string[]> {
  const { items } = await cluster.list<ApiEvent>(kindOf("events.k8s.io/v1", "Event"), { namespace: tenantNamespace });
  return items
    .filter(({ regarding }) => regarding?.kind === "ProtectedVM" && regarding.name === guest)
    .map(({ reason = "", note = "" }) => `${reason}: ${note}`);
}

const readReady = ({ status }: ProtectedVm): unknown => status?.conditions?.find(({ type }) => type === "Ready");

describeOnCluster(import.meta.filename)("on a cluster, rarely,", () => {
  let platform: Platform;
  let witness: Witness;

  beforeAll(async () => {
    platform = await startPlatform({ store: "etcd", kinds: ["busybox"], say });
    const placement = { nodes: ["node-a", "node-b"] };
    witness = await Witness.start(platform, { name: guest, kind: "busybox", address, placement });
  }, setUpMsMax);

  afterAll(async () => {
    await platform.stop();
  }, faultMsMax);

  test(
    "all agents are replaced, one node after the other, and no node counts as lost for it",
    async () => {
      await witness.endure(agentsRolled);
      expect((await listEvents(platform)).filter((line) => /^(Stalled|NotRunning|Reprotecting):/.test(line))).toEqual(
        [],
      );
    },
    faultMsMax,
  );

  test(
    "the API server is away for a minute: the guest runs on, and what is said of it was and stays right",
    async () => {
      const before = await platform.waitUntilReady(guest);
      await platform.lab.stopApiServer();
      const endMs = performance.now() + 60_000;
      while (performance.now() < endMs) {
        await witness.hear();
      }
      await platform.lab.startApiServer();
      say("the API server is back after a minute");
      // For as long as Kubernetes takes its nodes for lost, and then a while.
      const calmMs = performance.now() + 75_000;
      while (performance.now() < calmMs) {
        const now = await platform.readProtectedVm(guest);
        assert(now !== undefined, "the ProtectedVM");
        expect(readReady(now)).toEqual(readReady(before));
        expect(now.status).toMatchObject({ primary: before.status?.primary, standby: before.status?.standby });
        await sleep(500);
      }
      await witness.hear();
    },
    faultMsMax,
  );

  test.each([standbyLostAgain, agentLostAgain])(
    "$what",
    async (fault) => {
      await witness.endure(fault);
    },
    faultMsMax,
  );

  test(
    "a member of the quorum's etcd is lost with its volume and replaced: it counts like the others",
    async () => {
      await replaceEtcdMember(platform, 1);
      say("the member was replaced");
      const scene = await witness.readScene();
      // One of the two old members is away with it, wherever they are: the new one has to make up the majority.
      await witness.endure({
        what: "a node of the pair loses power after a member of etcd was replaced",
        ends: "elsewhere",
        strike: () => cyclePower(platform, scene.primary),
      });
    },
    faultMsMax,
  );

  testNothingLost(() => witness);

  test(
    "both nodes of a pair lose power: the guest boots anew on one side only, and that is said",
    async () => {
      const { primary, standby } = await witness.readScene();
      await Promise.all([platform.lab.powerOff(primary), platform.lab.powerOff(standby)]);
      await sleep(5_000);
      await Promise.all([platform.lab.powerOn(primary), platform.lab.powerOn(standby)]);
      const says = `no side has the guest's memory any more; ${primary} starts it anew from its disks`;
      while (!(await listEvents(platform)).includes(`NotRunning: ${says}`)) {
        await sleep(500);
      }
      say(`both nodes are back: ${says}`);
      await platform.waitForProtectedVm(guest, ({ status }) => status?.primary?.node === primary);
      await platform.waitUntilReady(guest, faultMsMax / 2);
      const client = startClient(platform.lab, "counted", {
        ...{ host: address, connectionsCount: 1, thinkMs: 50, stallMs: 60_000, requestsMax: 50 },
        connectTimeoutMs: 120_000,
      });
      expect(await client.result).toMatchObject({ faults: [], connectionsSurvived: 1 });
    },
    faultMsMax,
  );
});
