/** src/kube in front of a real API server. */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { Cluster } from "../../../src/kube/cluster.ts";
import { hasKubeCode, KubeFailure } from "../../../src/kube/kube-failure.ts";
import { kindOf, type KubeObject } from "../../../src/kube/kube-object.ts";
import { type Change, Reflector } from "../../../src/kube/reflector.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { findRemedy } from "./programs.ts";

const remedy = findRemedy(["etcd", "kube-apiserver"]);
if (remedy !== undefined) {
  process.stderr.write(`SKIPPED in test/lab/kubernetes/kube.test.ts: ${remedy}\n`);
}
const startMsMax = 180_000;

type ConfigMap = KubeObject & { readonly data?: Readonly<Record<string, string>> };
const configMaps = kindOf("v1", "ConfigMap");
const configMap = (name: string, data: Record<string, string> = {}): ConfigMap => ({
  ...{ apiVersion: "v1", kind: "ConfigMap", data },
  metadata: { name, namespace: "default", labels: { app: name } },
});
const refOf = (name: string) => ({ kind: configMaps, namespace: "default", name });

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let waitedMs = 0; !(await holds()); waitedMs += 10) {
    expect(waitedMs).toBeLessThan(30_000);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const codeOf = async (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => "none",
    (error: unknown) => (error instanceof KubeFailure ? error.detail.code : String(error)),
  );

(remedy === undefined ? describe : describe.skip)("src/kube in front of a real API server", () => {
  let plane: ControlPlane;
  let cluster: Cluster;

  beforeAll(async () => {
    plane = await startControlPlane();
    cluster = Cluster.fromKubeconfig(plane.kubeconfigPath);
  }, startMsMax);

  afterAll(async () => {
    cluster.close();
    await plane.stop();
  }, startMsMax);

  test("an object is made, read, applied, patched, replaced and removed", async () => {
    const made = await cluster.create(configMap("a", { one: "1" }));
    expect(await cluster.read<ConfigMap>(refOf("a"))).toEqual(made);
    expect(await codeOf(cluster.create(configMap("a")))).toBe("AlreadyExists");
    const applied = await cluster.apply(configMap("a", { two: "2" }), "twinrun-test");
    expect(applied.data).toEqual({ one: "1", two: "2" });
    expect(await codeOf(cluster.apply(configMap("a", { one: "9" }), "other", { force: false }))).toBe("Conflict");
    const patched = await cluster.patch<ConfigMap>(refOf("a"), { data: { one: null } });
    expect(patched.data).toEqual({ two: "2" });
    expect(await codeOf(cluster.replace(made))).toBe("Conflict");
    const replaced = await cluster.replace({ ...patched, data: {} });
    expect(replaced.data).toBeUndefined();
    expect(await codeOf(cluster.remove(refOf("a"), { uid: "another" }))).toBe("Conflict");
    await cluster.remove(refOf("a"), { uid: replaced.metadata.uid });
    await cluster.remove(refOf("a"));
    expect(await cluster.read(refOf("a"))).toBeUndefined();
  });

  test("what the server refuses has a code and names the field", async () => {
    const failure: unknown = await cluster.create(configMap("Bad_Name")).catch((error: unknown) => error);
    expect(hasKubeCode(failure, "Refused")).toBe(true);
    expect(failure).toMatchObject({ detail: { fields: [{ field: "metadata.name" }] } });
    expect(await codeOf(cluster.create({ apiVersion: "no.such/v1", kind: "A", metadata: { name: "a" } }))).toBe(
      "NotFound",
    );
  });

  test("a list is paged and a reflector follows", async () => {
    await Promise.all(Array.from({ length: 20 }, (_, index) => cluster.create(configMap(`many-${index}`))));
    const pages: number[] = [];
    await cluster.listPages({ kind: configMaps, namespace: "default", pageSize: 7 }, ({ items }) =>
      pages.push(items.length),
    );
    expect(pages).toEqual([7, 7, 6]);
    const changes: Change<ConfigMap>[] = [];
    const reflector = new Reflector<ConfigMap>({
      ...{ cluster, kind: configMaps, scope: { namespace: "default" } },
      indexes: { app: ({ metadata }) => [metadata.labels?.["app"] ?? ""] },
    });
    reflector.onChange((change) => changes.push(change));
    reflector.start();
    try {
      await reflector.synced();
      expect(reflector.size).toBe(20);
      await cluster.create(configMap("later"));
      await until(() => reflector.listBy("app", "later").length === 1);
      await cluster.remove(refOf("later"));
      await until(() => reflector.get("default/later") === undefined);
      expect(reflector.listBy("app", "later")).toEqual([]);
      expect(changes.slice(20).map(({ key, after }) => [key, after === undefined])).toEqual([
        ["default/later", false],
        ["default/later", true],
      ]);
    } finally {
      await reflector.stop();
    }
  });
});
