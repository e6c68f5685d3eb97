/**
 * The pod that holds a volume while it is filled or read: Twinrun's own image with src/main/volume.ts, without rights, without a
 * token and without a port. Its name is made from the volume's, so that a command that was broken off finds it again.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { readObjects, readPath, readText } from "../lib/json-merge.ts";
import { sha256 } from "../lib/sha256.ts";
import { type Cluster } from "../kube/cluster.ts";
import { hasKubeCode, KubeFailure } from "../kube/kube-failure.ts";
import { type PodStream } from "../kube/pod-stream.ts";
import { CliFailure } from "./cli-failure.ts";
import { type KubeObject, type Pod, valueOr, type Workload } from "./kube-objects.ts";
import { ask, findObject, kinds, listObjects, type Session } from "./session.ts";

export type VolumeRef = { readonly namespace: string; readonly claim: string; readonly isBlock: boolean };

export type TransferPod = {
  readonly volume: VolumeRef;
  readonly access: "read" | "write";
  readonly image: string;
  /** Where the volume is to be made or is in use; anywhere without it. */
  readonly node?: string | undefined;
};

const CONTAINER = "volume";
const PROGRAM = ["node", "src/main/volume.ts"];
/** Of virt-launcher and CDI: what it writes QEMU must be able to open. */
const QEMU_USER = 107;
const MOUNT_PATH = "/volume";
const DEVICE_PATH = "/dev/volume";
const START_MS_MAX = 10 * 60_000;
const LOOK_EVERY_MS = 500;

export const pathInPod = ({ isBlock }: VolumeRef): string => (isBlock ? DEVICE_PATH : `${MOUNT_PATH}/disk.img`);
export const podNameOf = (claim: string): string => `twinrun-volume-${sha256(claim).slice(0, 10)}`;

export function buildTransferPod({ volume, access, image, node }: TransferPod): KubeObject {
  const { namespace, claim, isBlock } = volume;
  const readOnly = access === "read";
  const pod = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      ...{ name: podNameOf(claim), namespace },
      labels: { "app.kubernetes.io/managed-by": "kubectl-twinrun" },
      annotations: { "twinrun.dev/volume": claim },
    },
    spec: {
      ...{ restartPolicy: "Never", automountServiceAccountToken: false, enableServiceLinks: false },
      ...{
        terminationGracePeriodSeconds: 1,
        ...(node === undefined ? {} : { nodeSelector: { "kubernetes.io/hostname": node } }),
      },
      securityContext: {
        ...{ runAsNonRoot: true, runAsUser: QEMU_USER, runAsGroup: QEMU_USER, fsGroup: QEMU_USER },
        seccompProfile: { type: "RuntimeDefault" },
      },
      containers: [
        {
          ...{ name: CONTAINER, image, imagePullPolicy: "IfNotPresent", command: [...PROGRAM, "hold"] },
          resources: { requests: { cpu: "100m", memory: "128Mi" }, limits: { memory: "512Mi" } },
          securityContext: {
            ...{ allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ["ALL"] } },
          },
          volumeMounts: [
            { name: "scratch", mountPath: "/tmp" },
            ...(isBlock ? [] : [{ name: "volume", mountPath: MOUNT_PATH, readOnly }]),
          ],
          ...(isBlock ? { volumeDevices: [{ name: "volume", devicePath: DEVICE_PATH }] } : {}),
        },
      ],
      volumes: [
        { name: "volume", persistentVolumeClaim: { claimName: claim } },
        { name: "scratch", emptyDir: { medium: "Memory", sizeLimit: "1Mi" } },
      ],
    },
  };
  return pod;
}

/** --image, else that of the operator, where it may be seen. */
export async function readTransferImage(session: Session): Promise<string> {
  const { invocation, systemNamespace: namespace } = session;
  const labelSelector = "app.kubernetes.io/name=twinrun,app.kubernetes.io/component=operator";
  const found = await ask(listObjects<Workload>(session, kinds.deployment, { namespace, labelSelector }));
  const own = valueOr(found, [])[0]?.spec?.template?.spec?.containers?.[0]?.image;
  const image = invocation.texts.get("image") ?? own;
  if (image === undefined) {
    throw new CliFailure(
      "Failed",
      `the image of Twinrun cannot be found out (no operator can be seen in namespace ${namespace}): name it with --image, as ` +
        "`kubectl get deployments --namespace twinrun --output wide` shows it to an administrator",
    );
  }
  return image;
}

/** Comes back when the pod runs. One of an earlier attempt is used again. */
export async function startTransferPod(session: Session, wish: TransferPod): Promise<void> {
  const { cluster, terminal, signal, call } = session;
  const wanted = buildTransferPod(wish);
  const { namespace = "", name } = wanted.metadata;
  const untilMs = performance.now() + START_MS_MAX;
  for (;;) {
    signal.throwIfAborted();
    const pod = await findObject<Pod>(session, { kind: kinds.pod, namespace, name });
    const state = decidePodState(pod);
    if (state.tag === "running") {
      return;
    }
    if (pod === undefined) {
      await createUnlessThere(cluster, wanted, call);
    } else if (state.tag === "ended") {
      await cluster.remove({ kind: kinds.pod, namespace, name }, { ...call, uid: pod.metadata.uid });
    }
    if (performance.now() > untilMs) {
      throw new CliFailure("TimedOut", `pod ${name}, which is to hold the volume, does not run: ${state.says}`);
    }
    terminal.showProgress(`waiting for pod ${name}: ${state.says}`);
    await sleep(LOOK_EVERY_MS, undefined, { signal });
  }
}

async function createUnlessThere(cluster: Cluster, pod: KubeObject, call: Session["call"]): Promise<void> {
  await cluster.create(pod, call).catch((error: unknown) => {
    if (!hasKubeCode(error, "AlreadyExists")) {
      throw error;
    }
  });
}

type PodState = { readonly tag: "running" | "starting" | "ended"; readonly says: string };

export function decidePodState(pod: Pod | undefined): PodState {
  if (pod === undefined) {
    return { tag: "starting", says: "being made" };
  }
  if (pod.metadata.deletionTimestamp !== undefined) {
    return { tag: "starting", says: "an earlier one is being deleted" };
  }
  const phase = readText(pod.status, "phase") ?? "Pending";
  if (phase === "Succeeded" || phase === "Failed") {
    return { tag: "ended", says: `it has ended (${phase})` };
  }
  const state = readPath(readObjects(pod.status, "containerStatuses")[0], "state");
  return phase === "Running" && readPath(state, "running") !== undefined
    ? { tag: "running", says: "runs" }
    : { tag: "starting", says: findWaiting(pod, readPath(state, "waiting")) ?? phase };
}

/** What the kubelet says of its container, else the scheduler. */
function findWaiting({ status }: Pod, waiting: unknown): string | undefined {
  const unscheduled = status?.conditions?.find((each) => each.type === "PodScheduled" && each.status === "False");
  return readText(waiting, "message") ?? readText(waiting, "reason") ?? unscheduled?.message;
}

export function openVolumeStream(
  { cluster, signal }: Session,
  { volume, access }: Pick<TransferPod, "volume" | "access">,
): Promise<PodStream> {
  const command = [...PROGRAM, "serve", access, pathInPod(volume)];
  const { namespace, claim } = volume;
  return cluster.openPodStream({ namespace, pod: podNameOf(claim), container: CONTAINER, command }, { signal });
}

/** Comes back when it is gone, so that the volume is free. After ^C it is only asked for. */
export async function removeTransferPod(session: Session, { namespace, claim }: VolumeRef): Promise<void> {
  const { cluster, signal } = session;
  const ref = { kind: kinds.pod, namespace, name: podNameOf(claim) };
  await cluster.remove(ref, { gracePeriodSeconds: 1 });
  while (!signal.aborted && (await findObject(session, ref)) !== undefined) {
    await sleep(LOOK_EVERY_MS, undefined, { signal });
  }
}

/** What a moment's patience may mend. */
export const isPassing = (error: unknown): boolean =>
  error instanceof KubeFailure &&
  ["Unreachable", "TimedOut", "ServerTrouble", "TooManyRequests", "BadAnswer", "NotFound"].includes(error.detail.code);
