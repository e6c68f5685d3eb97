/** Service accounts of a control plane without nodes: their rights, and directories such as a pod has them, with real tokens. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { assert } from "../../../src/lib/assert.ts";
import { type ControlPlane } from "./control-plane.ts";

export type Rule = {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
  readonly resourceNames?: readonly string[];
};

export type AccountWish = {
  readonly namespace: string;
  readonly name: string;
  readonly rules: readonly Rule[];
};

export async function create(plane: ControlPlane, path: string, body: unknown): Promise<unknown> {
  const answer = await plane.admin.send("POST", path, { body });
  assert(answer.status === 201 || answer.status === 409, `POST ${path}: ${JSON.stringify(answer)}`);
  return answer.body;
}

/** An account that may do what the rules say, in the whole cluster. */
export async function createAccount(plane: ControlPlane, { namespace, name, rules }: AccountWish): Promise<void> {
  await create(plane, `/api/v1/namespaces/${namespace}/serviceaccounts`, { metadata: { name } });
  const rbac = "/apis/rbac.authorization.k8s.io/v1";
  const role = `${namespace}-${name}`;
  await create(plane, `${rbac}/clusterroles`, { metadata: { name: role }, rules });
  await create(plane, `${rbac}/clusterrolebindings`, {
    metadata: { name: role },
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: role },
    subjects: [{ kind: "ServiceAccount", namespace, name }],
  });
}

export type TokenWish = {
  readonly namespace: string;
  readonly account: string;
  /** A pod that the token is bound to; the server notes its node in the token. */
  readonly pod?: { readonly name: string; readonly uid: string };
};

export async function requestToken(plane: ControlPlane, { namespace, account, pod }: TokenWish): Promise<string> {
  const bound = pod === undefined ? {} : { boundObjectRef: { apiVersion: "v1", kind: "Pod", ...pod } };
  const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`;
  const body = await create(plane, path, { spec: { expirationSeconds: 3_600, ...bound } });
  return (body as { status: { token: string } }).status.token;
}

/** What a kubelet would mount into the pod. */
export async function mountToken(plane: ControlPlane, wish: TokenWish, directory: string): Promise<string> {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  writeFileSync(join(directory, "token"), await requestToken(plane, wish), { mode: 0o600 });
  writeFileSync(join(directory, "ca.crt"), readFileSync(plane.authority.certPath));
  writeFileSync(join(directory, "namespace"), wish.namespace);
  return directory;
}

/** A pod that a node has as far as the API server knows; nothing runs. */
export async function createPod(
  plane: ControlPlane,
  { namespace, name, account, node }: { namespace: string; name: string; account: string; node: string },
): Promise<{ readonly name: string; readonly uid: string }> {
  await create(plane, "/api/v1/nodes", { metadata: { name: node } });
  const body = await create(plane, `/api/v1/namespaces/${namespace}/pods`, {
    metadata: { name },
    spec: { serviceAccountName: account, nodeName: node, containers: [{ name: "agent", image: "none" }] },
  });
  return { name, uid: (body as { metadata: { uid: string } }).metadata.uid };
}

/** A kubeconfig that speaks with a mounted token, for a process that is not in a pod. */
export function writeTokenKubeconfig(plane: ControlPlane, mounted: string): string {
  const path = join(mounted, "kubeconfig");
  const content = {
    "current-context": "pod",
    clusters: [{ name: "c", cluster: { server: plane.url, "certificate-authority": join(mounted, "ca.crt") } }],
    users: [{ name: "u", user: { tokenFile: join(mounted, "token") } }],
    contexts: [{ name: "pod", context: { cluster: "c", user: "u" } }],
  };
  writeFileSync(path, JSON.stringify(content), { mode: 0o600 });
  return path;
}
