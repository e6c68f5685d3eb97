import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../../src/lib/assert.ts";
import { removeDeadLabs } from "../hosts.ts";
import { type KubernetesLab, startLab } from "./lab.ts";
import { busyboxImage } from "./image-store.ts";
import { findDebianRoot, findPrograms, findRemedy } from "./programs.ts";

const patienceMs = 180_000;
const names = ["node-a", "node-b", "node-c"];
const busybox = "/run/lab/debian/bin/busybox";

const remedy =
  findRemedy([
    ...(["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] as const),
    ...(["kubelet", "kube-proxy", "kubectl"] as const),
  ]) ?? (findDebianRoot() === undefined ? "make lab-binaries PROGRAMS=debian" : undefined);
if (remedy !== undefined) {
  process.stderr.write(`SKIPPED in test/lab/kubernetes/lab.test.ts: ${remedy}\n`);
}
const describeLab = remedy === undefined ? describe : describe.skip;

/** Everything of the labs of a process: what they have in file systems, networks and processes. */
function listTraces(pid: number): string[] {
  const id = `tr${pid.toString(36)}-`;
  const listIn = (directory: string): string[] =>
    existsSync(directory) && statSync(directory).isDirectory()
      ? readdirSync(directory).map((name) => `${directory}/${name}`)
      : [];
  const hierarchies = listIn("/sys/fs/cgroup");
  const processes = listIn("/proc").filter((path) => /[0-9]$/.test(path) && readOwner(path).includes(id));
  const places = ["/tmp", "/dev/shm", "/run/netns", "/sys/fs/cgroup", ...hierarchies].flatMap(listIn);
  return [...places.filter((path) => path.includes(id)), ...processes];
}

/** The control groups of a node's process, the directory of a control plane's. */
function readOwner(path: string): string {
  try {
    return `${readFileSync(`${path}/cgroup`, "utf8")} ${readlinkSync(`${path}/cwd`)}`;
  } catch {
    return ""; // It ended while we looked.
  }
}

async function waitFor<T>(look: () => Promise<T | undefined>): Promise<T> {
  const startedAtMs = performance.now();
  for (;;) {
    const seen = await look();
    if (seen !== undefined) {
      return seen;
    }
    expect(performance.now() - startedAtMs).toBeLessThan(patienceMs);
    await sleep(100);
  }
}

type Pod = {
  readonly metadata: { readonly name: string; readonly uid: string; readonly labels: { readonly app: string } };
  readonly spec: { readonly nodeName: string };
  readonly status: {
    readonly podIP: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly containerStatuses?: readonly { readonly containerID: string; readonly restartCount: number }[];
  };
};

const isReady = ({ status }: Pod): boolean =>
  status.conditions?.some((condition) => condition.type === "Ready" && condition.status === "True") === true;

const container = (command: string, more: object = {}): object => ({
  ...{ name: "main", image: busyboxImage, command: ["/bin/busybox", "sh", "-c", command], ...more },
});

/** One pod on each node. */
const daemonSet = (app: string, spec: object): object => ({
  metadata: { name: app },
  spec: {
    selector: { matchLabels: { app } },
    template: { metadata: { labels: { app } }, spec: { terminationGracePeriodSeconds: 0, ...spec } },
  },
});

const web = daemonSet("web", {
  containers: [
    container("cd /www && hostname >index.html && exec busybox httpd -f -p 8080", {
      volumeMounts: [{ name: "www", mountPath: "/www" }],
    }),
  ],
  volumes: [{ name: "www", emptyDir: {} }],
});

const agent = daemonSet("agent", {
  ...{ hostPID: true, hostNetwork: true },
  containers: [
    container("exec busybox sleep 1000000", {
      securityContext: { privileged: true },
      volumeMounts: [{ name: "kubelet", mountPath: "/var/lib/kubelet", mountPropagation: "Bidirectional" }],
    }),
  ],
  volumes: [{ name: "kubelet", hostPath: { path: "/var/lib/kubelet" } }],
});

const claim = {
  metadata: { name: "disk" },
  spec: {
    ...{ storageClassName: "lab-local", accessModes: ["ReadWriteOnce"] },
    resources: { requests: { storage: "1Gi" } },
  },
};

/** Writes down each of its starts, as the user that KubeVirt has for guests. */
const writer = {
  metadata: { name: "writer", labels: { app: "writer" } },
  spec: {
    nodeSelector: { "kubernetes.io/hostname": "node-b" },
    terminationGracePeriodSeconds: 0,
    securityContext: { runAsUser: 107, runAsGroup: 107, fsGroup: 107 },
    containers: [
      container("echo started >>/disk/starts && exec busybox sleep 1000000", {
        resources: { requests: { "ephemeral-storage": "50Mi" } },
        volumeMounts: [{ name: "disk", mountPath: "/disk" }],
      }),
    ],
    volumes: [{ name: "disk", persistentVolumeClaim: { claimName: "disk" } }],
  },
};

describeLab("three nodes", () => {
  let lab: KubernetesLab;

  async function create(path: string, body: object): Promise<void> {
    expect(await lab.plane.admin.send("POST", path, { body })).toMatchObject({ status: 201 });
  }

  async function listPods(app: string): Promise<readonly Pod[]> {
    const { body } = await lab.plane.admin.send("GET", `/api/v1/namespaces/default/pods?labelSelector=app=${app}`);
    return (body as { items: Pod[] }).items;
  }

  const waitForPods = (app: string, count: number): Promise<readonly Pod[]> =>
    waitFor(async () => {
      const ready = (await listPods(app)).filter(isReady);
      return ready.length === count ? ready : undefined;
    });

  function execInPod(pod: string, command: string): string {
    const kubectl = present(findPrograms(["kubectl"]).get("kubectl"), "kubectl");
    const args = [`--kubeconfig=${lab.kubeconfigPath}`, "exec", pod, "--", "busybox", "sh", "-c", command];
    const { status, stdout, stderr } = spawnSync(kubectl, args, { encoding: "utf8", timeout: patienceMs });
    expect({ status, stderr }).toMatchObject({ status: 0 });
    return stdout;
  }

  const canPing = (node: string, address: string): Promise<boolean> =>
    lab.nodeExec(node, [busybox, "ping", "-c", "1", "-W", "1", address]).then(
      () => true,
      () => false,
    );

  beforeAll(async () => {
    lab = await startLab();
    await create("/apis/apps/v1/namespaces/default/daemonsets", web);
    await create("/apis/apps/v1/namespaces/default/daemonsets", agent);
    const service = {
      metadata: { name: "web" },
      spec: { selector: { app: "web" }, ports: [{ port: 80, targetPort: 8080 }] },
    };
    await create("/api/v1/namespaces/default/services", {
      ...service,
      spec: { ...service.spec, clusterIP: "10.96.7.7" },
    });
    await create("/api/v1/namespaces/default/persistentvolumeclaims", claim);
    await create("/api/v1/namespaces/default/pods", writer);
    await Promise.all([waitForPods("web", 3), waitForPods("agent", 3), waitForPods("writer", 1)]);
  }, patienceMs);

  afterAll(async () => {
    await lab.stop();
    expect(listTraces(process.pid)).toEqual([]);
  }, patienceMs);

  /** Names of the pods that answered eight requests to the service's address. */
  const askService = `for i in 1 2 3 4 5 6 7 8; do
    printf 'GET / HTTP/1.0\\r\\n\\r\\n' | ${busybox} nc -w 5 10.96.7.7 80 | ${busybox} tail -n 1
  done`;
  const askInPod = askService.replaceAll(busybox, "busybox");
  const parse = (text: string): string[] => text.split("\n").filter(Boolean);

  test("run pods, which say what a node has and where it is", async () => {
    const pods = await listPods("agent");
    expect(pods.map(({ spec }) => spec.nodeName).sort()).toEqual(names);
    for (const { spec, status } of pods) {
      expect(status.podIP).toBe(lab.node(spec.nodeName).place.address);
    }
    const { body } = await lab.plane.admin.send("GET", "/api/v1/nodes/node-b");
    const address = lab.node("node-b").place.address;
    expect(body).toMatchObject({
      metadata: {
        annotations: { "twinrun.dev/replication-links": `management=${address},replication=10.76.1.12` },
      },
      status: { allocatable: { "ephemeral-storage": "50Gi" } },
    });
  });

  test(
    "reach pods of every node by a service's address, from a node and from a pod, and the API server too",
    async () => {
      const pods = (await listPods("web")).map(({ metadata }) => metadata.name);
      const seen = new Set<string>();
      for (const node of names) {
        for (const name of parse(await lab.nodeExec(node, ["sh", "-c", askService]))) {
          seen.add(name);
        }
      }
      for (const pod of [...pods, "writer"]) {
        // A pod that reaches itself, or one beside it, gets an answer as well.
        const answers = parse(execInPod(pod, askInPod));
        expect(answers).toHaveLength(8);
        answers.forEach((name) => seen.add(name));
      }
      expect([...seen].sort()).toEqual([...pods].sort());
      expect(execInPod("writer", "busybox nc -w 5 10.96.0.1 443 </dev/null && echo reached")).toBe("reached\n");
    },
    patienceMs,
  );

  test(
    "show a pod that may see them their own processes and no others, and let it read memory of other pods",
    async () => {
      const pods = await listPods("agent");
      const pod = present(
        pods.find(({ spec }) => spec.nodeName === "node-a"),
        "agent of node-a",
      );
      const list = "busybox ps | busybox awk '{ print $1, $3, $4 }'";
      const processes = execInPod(pod.metadata.name, list);
      expect(processes).toContain("1 bash");
      expect(processes.match(/ kubelet /g)).toHaveLength(1);
      expect(processes.match(/ busybox httpd/g)).toHaveLength(1);
      const httpd = present(/^([0-9]+) busybox httpd/m.exec(processes)?.[1], "httpd");
      const read = `stack=$(busybox awk '/stack/ { split($1, a, "-"); print a[1] }' /proc/${httpd}/maps)
        busybox dd if=/proc/${httpd}/mem bs=4096 skip=$((0x$stack / 4096)) count=1 2>/dev/null | busybox wc -c
        busybox cat /proc/${httpd}/root/www/index.html`;
      expect(execInPod(pod.metadata.name, read)).toMatch(/^4096\nweb-/);
    },
    patienceMs,
  );

  test(
    "have a network for guests that the client is in",
    async () => {
      await lab.nodeExec("node-c", ["ip", "address", "add", "10.77.0.50/24", "dev", "lan"]);
      const pingFrom = [`${findDebianRoot() ?? ""}/bin/busybox`, "ping", "-c", "1", "-W", "1"];
      const ping = (): number | null =>
        spawnSync("ip", ["netns", "exec", lab.network.clientNamespace, ...pingFrom, "10.77.0.50"]).status;
      expect(ping()).toBe(0);
      lab.cutLink("node-c", "lan");
      expect(ping()).not.toBe(0);
      lab.mendLink("node-c", "lan");
      expect(ping()).toBe(0);
      await lab.nodeExec("node-c", ["ip", "address", "delete", "10.77.0.50/24", "dev", "lan"]);
    },
    patienceMs,
  );

  test(
    "lose the link that is cut and no other",
    async () => {
      const [a, b, c] = ["node-a", "node-b", "node-c"].map((name) => lab.node(name).place.address);
      const { planeAddress } = lab.network;
      const [a2, b2, c2] = ["node-a", "node-b", "node-c"].map((name) => lab.node(name).place.replicationAddress);
      /** Whom of these a node reaches. */
      const reach = async (node: string, addresses: readonly (string | undefined)[]): Promise<boolean[]> =>
        Promise.all(addresses.map((address) => canPing(node, present(address, "address"))));
      lab.cutLink("node-a", "management", "node-b");
      expect(await reach("node-a", [b, c, planeAddress, b2])).toEqual([false, true, true, true]);
      expect(await reach("node-b", [a, c])).toEqual([false, true]);
      lab.mendLink("node-a", "management", "node-b");
      expect(await reach("node-a", [b])).toEqual([true]);
      lab.cutLink("node-a", "replication");
      expect(await reach("node-b", [a2, c2, a])).toEqual([false, true, true]);
      lab.mendLink("node-a", "replication");
      expect(await reach("node-b", [a2])).toEqual([true]);
    },
    patienceMs,
  );

  test(
    "go on with their pods while kubelet or API server are away",
    async () => {
      const read = async (): Promise<unknown> =>
        (await listPods("web")).map(({ metadata, status }) => ({
          ...{ uid: metadata.uid, containers: status.containerStatuses?.map(({ containerID }) => containerID) },
        }));
      const before = await read();
      await lab.stopKubelet("node-a");
      await lab.stopApiServer();
      await expect(lab.plane.admin.send("GET", "/readyz")).rejects.toThrow();
      expect(parse(await lab.nodeExec("node-b", ["sh", "-c", askService]))).toHaveLength(8);
      await sleep(2_000);
      expect(await lab.nodeExec("node-a", [busybox, "ps"])).not.toContain("kubelet --config");
      await lab.startApiServer();
      await lab.startKubelet("node-a");
      await waitForPods("web", 3);
      expect(await read()).toEqual(before);
    },
    patienceMs,
  );

  test(
    "lose power at once and keep their disk",
    async () => {
      const [old] = await waitForPods("writer", 1);
      const directory = lab.node("node-b").diskPath("/var/lib/lab-volumes");
      const [volume = ""] = readdirSync(directory);
      const startsPath = `${directory}/${volume}/starts`;
      expect(readFileSync(startsPath, "utf8")).toBe("started\n");
      const startedAtMs = performance.now();
      await lab.powerOff("node-b");
      expect(performance.now() - startedAtMs).toBeLessThan(5_000);
      const { namespace, address } = lab.node("node-b").place;
      expect(listTraces(process.pid).filter((path) => readOwner(path).includes(namespace))).toEqual([]);
      expect(listTraces(process.pid).filter((path) => path.includes(namespace))).toEqual([]);
      expect(await canPing("node-a", address)).toBe(false);
      writeFileSync(startsPath, "seen\n", { flag: "a" });
      await lab.powerOn("node-b");
      expect(await canPing("node-a", address)).toBe(true);
      const [again] = await waitFor(async () => {
        const pods = (await listPods("writer")).filter(isReady);
        return pods.some(({ status }) => (status.containerStatuses?.[0]?.restartCount ?? 0) > 0) ? pods : undefined;
      });
      expect(again?.metadata.uid).toBe(old?.metadata.uid);
      expect(readFileSync(startsPath, "utf8")).toBe("started\nseen\nstarted\n");
      await waitFor(async () => {
        const answers = parse(await lab.nodeExec("node-b", ["sh", "-c", askService]));
        return new Set(answers).size === 3 ? answers : undefined;
      });
    },
    patienceMs,
  );

  test(
    "delete a volume with its claim",
    async () => {
      const directory = lab.node("node-b").diskPath("/var/lib/lab-volumes");
      expect(readdirSync(directory)).toHaveLength(1);
      const path = "/api/v1/namespaces/default";
      expect(await lab.plane.admin.send("DELETE", `${path}/pods/writer`)).toMatchObject({ status: 200 });
      await lab.plane.admin.send("DELETE", `${path}/persistentvolumeclaims/disk`);
      await waitFor(async () => {
        const { body } = await lab.plane.admin.send("GET", "/api/v1/persistentvolumes");
        return (body as { items: object[] }).items.length === 0 ? true : undefined;
      });
      expect(readdirSync(directory)).toEqual([]);
    },
    patienceMs,
  );
});

describeLab("a lab whose process is killed", () => {
  test(
    "loses its programs at once, and everything else when the next one starts",
    async () => {
      const script = `
        const { startLab } = await import("${new URL("lab.ts", import.meta.url).pathname}");
        await startLab({ nodes: ["node-a"] });
        console.log("ready");
        setInterval(() => undefined, 1_000);`;
      const run = spawn(process.execPath, ["--input-type=module", "-e", script], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      const pid = present(run.pid, "pid");
      const ended = new Promise((resolve) => run.once("exit", resolve));
      let said = "";
      run.stdout.setEncoding("utf8").on("data", (text: string) => (said += text));
      try {
        await waitFor(() => Promise.resolve(said.includes("ready") || run.exitCode !== null ? true : undefined));
        expect(said).toContain("ready");
      } finally {
        run.kill("SIGKILL");
        await ended;
      }
      await waitFor(() =>
        Promise.resolve(listTraces(pid).some((path) => path.startsWith("/proc/")) ? undefined : true),
      );
      await removeDeadLabs();
      expect(listTraces(pid)).toEqual([]);
    },
    patienceMs,
  );
});
