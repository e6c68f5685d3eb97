import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../../../src/lib/assert.ts";
import { describeWith } from "../describe-with.ts";
import { hookImage, provideTwinrunImages } from "../images.ts";
import { type KubernetesLab, startLab } from "../lab.ts";
import { lanBridge } from "../network.ts";
import { findDebianRoot } from "../programs.ts";
import { type LabKubevirt, startKubevirt } from "./lab-kubevirt.ts";
import { kernelImageOf, kernelPaths, provideKernelImage, provideLauncherImage } from "./launcher-image.ts";
import { findLauncher } from "./pod-processes.ts";
import { type Condition, podPaths, type Vmi } from "./vmi.ts";

const patienceMs = 300_000;
/** The launcher's file system is made by the first run. */
const buildMsMax = 1_200_000;
const node = "node-a";

const describeLab = describeWith(
  ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"],
  import.meta.filename,
);

const groups = "/apis/kubevirt.io/v1/namespaces/default";
const vmis = `${groups}/virtualmachineinstances`;
const mergePatch = "application/merge-patch+json";

/** A small guest with one disk, in the guests' network. */
function aVmi(
  name: string,
  address: string,
  spec: object = {},
  annotations: Readonly<Record<string, string>> = {},
): object {
  const kernelArgs = `console=ttyS0 quiet panic=1 random.trust_cpu=on rdinit=/init twinrun.ip=${address}/24`;
  return {
    apiVersion: "kubevirt.io/v1",
    kind: "VirtualMachineInstance",
    metadata: { name, annotations, labels: { app: "guest" } },
    spec: {
      terminationGracePeriodSeconds: 0,
      nodeSelector: { "kubernetes.io/hostname": node },
      networks: [{ name: "lan", multus: { networkName: "lan" } }],
      volumes: [{ name: "data", dataVolume: { name: `${name}-data` } }],
      domain: {
        memory: { guest: "128Mi" },
        machine: { type: "q35" },
        cpu: { model: "Westmere" },
        firmware: {
          uuid: "5a9fc181-957e-5c32-9e5a-2de5e9673531",
          kernelBoot: { container: { image: kernelImageOf("busybox"), ...kernelPaths }, kernelArgs },
        },
        devices: {
          disks: [{ name: "data", disk: { bus: "virtio" } }],
          interfaces: [{ name: "lan", bridge: {}, macAddress: `02:76:00:00:00:${address.split(".").at(-1) ?? ""}` }],
          rng: {},
        },
      },
      ...spec,
    },
  };
}

const aDataVolume = (name: string): object => ({
  apiVersion: "cdi.kubevirt.io/v1beta1",
  kind: "DataVolume",
  metadata: { name: `${name}-data` },
  spec: { source: { blank: {} }, storage: { resources: { requests: { storage: "128Mi" } } } },
});

const hookAnnotations = (startedAs: "primary" | "standby"): Readonly<Record<string, string>> => ({
  "hooks.kubevirt.io/hookSidecars": JSON.stringify([{ image: hookImage, args: ["--version", "v1alpha3"] }]),
  "twinrun.dev/guest": "hooked-1",
  "twinrun.dev/started-as": startedAs,
});

const hasCondition = ({ status }: Vmi, type: string): boolean =>
  status?.conditions?.some((condition: Condition) => condition.type === type && condition.status === "True") === true;

describeLab("KubeVirt of the lab", () => {
  let lab: KubernetesLab;
  let kubevirt: LabKubevirt | undefined;

  const send = (method: string, path: string, body?: object, type?: string) =>
    lab.plane.admin.send(method, path, { body, ...(type === undefined ? {} : { type }) });

  async function create(path: string, body: object): Promise<void> {
    expect(await send("POST", path, body)).toMatchObject({ status: 201 });
  }

  async function createGuest(vmi: object): Promise<void> {
    const { name } = (vmi as Vmi).metadata;
    await create("/apis/cdi.kubevirt.io/v1beta1/namespaces/default/datavolumes", aDataVolume(name));
    await create(vmis, vmi);
  }

  async function waitFor<T>(look: () => Promise<T | undefined>): Promise<T> {
    const startedAtMs = performance.now();
    for (;;) {
      const seen = await look();
      if (seen !== undefined) {
        return seen;
      }
      expect(performance.now() - startedAtMs).toBeLessThan(patienceMs / 2);
      await sleep(100);
    }
  }

  const waitForVmi = (name: string, holds: (vmi: Vmi) => boolean): Promise<Vmi> =>
    waitFor(async () => {
      const { status, body } = await send("GET", `${vmis}/${name}`);
      return status === 200 && holds(body as Vmi) ? (body as Vmi) : undefined;
    });

  /** What the guest's echo service says to a line of the client's. */
  function askGuest(address: string): Promise<string> {
    const busybox = `${findDebianRoot() ?? ""}/bin/busybox`;
    const ask = `(echo hello; sleep 0.5) | timeout 5 ${busybox} nc -w 2 ${address} 7200 2>/dev/null || true`;
    const client = lab.spawn("c", ["sh", "-c", ask]);
    let said = "";
    client.stdout?.setEncoding("utf8").on("data", (text: string) => (said += text));
    return new Promise((resolve) =>
      client.on("close", () => {
        resolve(said);
      }),
    );
  }

  const waitForGuest = (address: string): Promise<true> =>
    waitFor(async () => ((await askGuest(address)) === "hello\n" ? true : undefined));

  /** QEMU of a VMI, as the node's processes know it. */
  async function findQemu(name: string): Promise<{ pid: string; commandLine: string[] }> {
    const list = await lab.nodeExec(node, [
      "sh",
      "-c",
      "grep -l guest=default_ /proc/[0-9]*/cmdline 2>/dev/null || true",
    ]);
    for (const path of list.split("\n").filter(Boolean)) {
      const commandLine = (await lab.nodeExec(node, ["cat", path])).split("\0");
      if (commandLine.some((argument) => argument.startsWith(`guest=default_${name},`))) {
        return { pid: present(path.split("/")[2], "pid"), commandLine };
      }
    }
    throw new Error(`there is no QEMU of ${name}`);
  }

  async function removeVmi(name: string): Promise<void> {
    expect(await send("DELETE", `${vmis}/${name}`)).toMatchObject({ status: 200 });
    await waitFor(async () => ((await send("GET", `${vmis}/${name}`)).status === 404 ? true : undefined));
  }

  /** Says commands to the second monitor of a VMI, which ends after the last answer. */
  async function tellMonitor(vmi: Vmi, commands: readonly string[]): Promise<string> {
    const podUid = present(Object.keys(vmi.status?.activePods ?? {})[0], "a pod");
    const { pid } = present(findLauncher(podUid), "a launcher");
    const monitor = connect(`/proc/${pid}/root${podPaths.private}/twinrun.qmp`);
    let said = "";
    monitor.setEncoding("utf8").on("data", (text: string) => (said += text));
    for (const execute of ["qmp_capabilities", ...commands]) {
      monitor.write(JSON.stringify({ execute }));
    }
    await waitFor(() => Promise.resolve(said.split('"return"').length > commands.length + 1 ? true : undefined));
    monitor.destroy();
    return said;
  }

  beforeAll(async () => {
    const say = (line: string): void => {
      process.stderr.write(`${line}\n`);
    };
    const launcher = await provideLauncherImage();
    const images = [launcher.archive, await provideKernelImage("busybox"), ...(await provideTwinrunImages(say))];
    lab = await startLab({ nodes: [node], images });
    kubevirt = await startKubevirt({
      ...{ plane: lab.plane, launcher, address: lab.network.machineAddress },
      say,
    });
    const config = JSON.stringify({ cniVersion: "0.3.1", type: "bridge", bridge: lanBridge });
    await create("/apis/k8s.cni.cncf.io/v1/namespaces/default/network-attachment-definitions", {
      apiVersion: "k8s.cni.cncf.io/v1",
      kind: "NetworkAttachmentDefinition",
      metadata: { name: "lan" },
      spec: { config },
    });
  }, buildMsMax);

  afterAll(async () => {
    await kubevirt?.stop();
    await lab.stop();
  }, patienceMs);

  test(
    "makes a guest of a VMI, which clients reach",
    async () => {
      await createGuest(aVmi("plain", "10.77.0.50"));
      const vmi = await waitForVmi("plain", (now) => hasCondition(now, "Ready"));
      expect(vmi.status).toMatchObject({ phase: "Running", nodeName: node, interfaces: [{ name: "lan" }] });
      await waitForGuest("10.77.0.50");
      const { body } = await send("GET", "/api/v1/namespaces/default/pods?labelSelector=kubevirt.io=virt-launcher");
      const [pod] = (body as { items: object[] }).items;
      expect(pod).toMatchObject({
        metadata: {
          labels: { "kubevirt.io/created-by": vmi.metadata.uid, app: "guest" },
          annotations: { "kubevirt.io/domain": "plain" },
        },
        spec: { nodeName: node },
      });
    },
    patienceMs,
  );

  test(
    "shows the node what the hook made of the domain, and QEMU without rights",
    async () => {
      await createGuest(aVmi("hooked", "10.77.0.51", { startStrategy: "Paused" }, hookAnnotations("primary")));
      const vmi = await waitForVmi("hooked", (now) => hasCondition(now, "Paused"));
      expect(hasCondition(vmi, "Ready")).toBe(false);
      const { pid, commandLine } = await findQemu("hooked");
      expect(commandLine.join(" ")).toContain("path=/var/run/kubevirt-private/twinrun.qmp");
      const environment = await lab.nodeExec(node, ["cat", `/proc/${pid}/environ`]);
      expect(environment).toContain("LD_PRELOAD=/var/run/kubevirt-hooks/hook-sidecar-0/lib/twinrun-shim.so");
      expect(await lab.nodeExec(node, ["cat", `/proc/${pid}/maps`])).toContain("twinrun-shim.so");
      const status = await lab.nodeExec(node, ["cat", `/proc/${pid}/status`]);
      expect(status).toMatch(/^Uid:\s+107\s+107\s+107\s+107$/m);
      expect(status).toMatch(/^CapEff:\s+0+$/m);
      const monitor = `/proc/${pid}/root/var/run/kubevirt-private/twinrun.qmp`;
      await lab.nodeExec(node, ["test", "-S", monitor]);
    },
    patienceMs,
  );

  test(
    "takes a standby that waits for a state for one that is paused",
    async () => {
      await createGuest(aVmi("standby", "10.77.0.54", { startStrategy: "Paused" }, hookAnnotations("standby")));
      const vmi = await waitForVmi("standby", (now) => hasCondition(now, "Paused"));
      expect(vmi.status?.phase).toBe("Running");
      expect((await findQemu("standby")).commandLine).toContain("-incoming");
      expect(await tellMonitor(vmi, ["query-status"])).toContain("inmigrate");
      await removeVmi("standby");
    },
    patienceMs,
  );

  test(
    "leaves a guest paused that was started so, until the user unpauses it",
    async () => {
      const vmi = await waitForVmi("hooked", (now) => hasCondition(now, "Paused"));
      await tellMonitor(vmi, ["cont", "stop"]);
      await sleep(2_000);
      expect(await tellMonitor(vmi, ["query-status"])).toContain('"running": false');
      const unpause = `/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachineinstances/hooked/unpause`;
      expect((await send("PUT", unpause, {})).status).toBeLessThan(300);
      await waitForVmi("hooked", (now) => hasCondition(now, "Ready") && !hasCondition(now, "Paused"));
      // Nobody hears of it: without an engine the shim holds back what the guest sends.
      expect(await askGuest("10.77.0.51")).toBe("");
    },
    patienceMs,
  );

  test(
    "resumes what somebody else stopped, once the user has unpaused it",
    async () => {
      const vmi = await waitForVmi("hooked", () => true);
      await tellMonitor(vmi, ["stop"]);
      await waitFor(async () =>
        (await tellMonitor(vmi, ["query-status"])).includes('"running": true') ? true : undefined,
      );
    },
    patienceMs,
  );

  test(
    "refuses an eviction and says so in the VMI where somebody else is to move it",
    async () => {
      await createGuest(aVmi("kept", "10.77.0.52", { evictionStrategy: "External" }));
      await waitForVmi("kept", (now) => hasCondition(now, "Ready"));
      const { body } = await send("GET", "/api/v1/namespaces/default/pods?labelSelector=kubevirt.io=virt-launcher");
      const pods = (body as { items: { metadata: { name: string; namespace: string } }[] }).items;
      const pod = present(
        pods.find(({ metadata }) => metadata.name.includes("kept")),
        "pod",
      );
      const eviction = { apiVersion: "policy/v1", kind: "Eviction", metadata: pod.metadata };
      const path = `/api/v1/namespaces/default/pods/${pod.metadata.name}/eviction`;
      expect(await send("POST", path, { ...eviction, metadata: { name: pod.metadata.name } })).toMatchObject({
        status: 429,
      });
      await waitForVmi("kept", (now) => now.status?.evacuationNodeName === node);
    },
    patienceMs,
  );

  test(
    "ends the VMI with QEMU: Failed when it was killed",
    async () => {
      const { pid } = await findQemu("kept");
      await lab.nodeExec(node, ["kill", "-9", pid]);
      await waitForVmi("kept", (now) => now.status?.phase === "Failed");
    },
    patienceMs,
  );

  test(
    "starts, restarts and stops the instance of a VM by its subresources",
    async () => {
      await removeVmi("plain");
      const { metadata, spec } = aVmi("machine", "10.77.0.55") as Vmi;
      const { source, storage } = (aDataVolume("machine") as { spec: { source: object; storage: object } }).spec;
      await create(`${groups}/virtualmachines`, {
        apiVersion: "kubevirt.io/v1",
        kind: "VirtualMachine",
        metadata: { name: "machine" },
        spec: {
          runStrategy: "Manual",
          template: { metadata: { labels: metadata.labels }, spec },
          dataVolumeTemplates: [{ metadata: { name: "machine-data" }, spec: { source, storage } }],
        },
      });
      const subresource = "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachines/machine";
      const ask = async (verb: string): Promise<number> => (await send("PUT", `${subresource}/${verb}`, {})).status;
      await waitFor(async () => ((await ask("start")) === 202 ? true : undefined));
      const first = await waitForVmi("machine", (now) => hasCondition(now, "Ready"));
      expect(await ask("start")).toBe(409);
      expect(await ask("restart")).toBe(202);
      await waitForVmi("machine", (now) => now.metadata.uid !== first.metadata.uid && hasCondition(now, "Ready"));
      await waitForGuest("10.77.0.55");
      expect(await ask("stop")).toBe(202);
      await waitFor(async () => ((await send("GET", `${vmis}/machine`)).status === 404 ? true : undefined));
    },
    patienceMs,
  );

  test("refuses what KubeVirt refuses", async () => {
    const change = { spec: { domain: { memory: { guest: "1Gi" } } } };
    const answer = await send("PATCH", `${vmis}/hooked`, change, mergePatch);
    expect(JSON.stringify(answer)).toContain("update of VMI object is restricted");
    const probed = aVmi("probed", "10.77.0.53", { startStrategy: "Paused", livenessProbe: {} });
    expect(await send("POST", vmis, probed)).toMatchObject({ status: 403 });
  });
});
