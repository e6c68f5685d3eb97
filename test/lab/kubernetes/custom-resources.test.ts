/**
 * The custom resources in front of a real API server: it takes their CRDs, and it decides about objects as zod and the miniature
 * of src/api's tests do. Skipped, with a line that says how to mend that, where there is no API server to be had.
 */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { API_VERSION, GROUP, type CustomResource } from "../../../src/api/custom-resource.ts";
import { customResources } from "../../../src/api/custom-resources.ts";
import { guestPairResource, parseGuestPair } from "../../../src/api/guest-pair.ts";
import { parseProtectedVm, protectedVmResource } from "../../../src/api/protected-vm.ts";
import { parseSplitSitePair, splitSitePairResource } from "../../../src/api/split-site-pair.ts";
import { encodeStructural } from "../../../src/api/structural.ts";
import { present } from "../../../src/lib/assert.ts";
import { buildReport } from "../../build/engine-report.ts";
import { buildReportedSide, guestPairRows } from "../../build/guest-pair-rows.ts";
import { judgeByZod } from "../../build/judge.ts";
import { protectedVmRows } from "../../build/protected-vm-rows.ts";
import { type Refusal } from "../../build/resource-rows.ts";
import { buildGuestPair, buildProtectedVm, buildSplitSitePair, type ResourceObject } from "../../build/resources.ts";
import { splitSitePairRows } from "../../build/split-site-pair-rows.ts";
import { type ApiAnswer, applyPatch } from "./api-client.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { findPrograms, findRemedy } from "./programs.ts";

type Json = Readonly<Record<string, unknown>>;
type Stored = ResourceObject & { readonly metadata: { readonly resourceVersion: string; readonly generation: number } };

const root = join(import.meta.dirname, "../../..");
const namespace = "shop";
const startMsMax = 180_000;

const remedy = findRemedy(["etcd", "kube-apiserver", "kubectl"]);
if (remedy !== undefined) {
  process.stderr.write(`SKIPPED test/integration/custom-resources.test.ts: ${remedy}\n`);
}

let plane: ControlPlane;

const kinds = [
  { resource: protectedVmResource, parse: parseProtectedVm, build: buildProtectedVm, rows: protectedVmRows },
  { resource: guestPairResource, parse: parseGuestPair, build: buildGuestPair, rows: guestPairRows },
  {
    ...{ resource: splitSitePairResource, parse: parseSplitSitePair },
    ...{ build: buildSplitSitePair, rows: splitSitePairRows },
  },
].map((kind) => ({ ...kind, kind: kind.resource.kind }));

(remedy === undefined ? describe : describe.skip)("a real API server", () => {
  beforeAll(async () => {
    plane = await startControlPlane();
    await expectStatus(201, "POST", "/api/v1/namespaces", { metadata: { name: namespace } });
    kubectl("apply", "--server-side", "-f", "crds/");
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s");
    await Promise.all(customResources.map(waitUntilServed));
  }, startMsMax);

  afterAll(async () => {
    await (plane as ControlPlane | undefined)?.stop();
  }, startMsMax);

  test.each(customResources.map((resource) => ({ resource, kind: resource.kind })))(
    "takes the CRD of $kind and finds nothing wrong with it",
    async ({ resource: { plural } }) => {
      const crd = await expectStatus(
        200,
        "GET",
        `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${plural}.${GROUP}`,
      );
      const { conditions } = crd["status"] as {
        readonly conditions: readonly { readonly type: string; readonly status: string }[];
      };
      // A schema that is not structural would be told by a third condition, NonStructuralSchema.
      expect(Object.fromEntries(conditions.map(({ type, status }) => [type, status]))).toEqual({
        NamesAccepted: "True",
        Established: "True",
      });
    },
  );

  test("is asked about enough: 60 bad objects, 20 good ones, and in these every field there is", () => {
    const bad = kinds.flatMap(({ rows }) => [
      ...rows.refused,
      ...rows.changes.filter(({ refused }) => refused !== undefined),
    ]);
    expect(bad.length).toBeGreaterThanOrEqual(60);
    expect(kinds.flatMap(({ rows }) => rows.taken).length).toBeGreaterThanOrEqual(20);
    for (const { resource, rows } of kinds) {
      const { spec, status } = resource;
      const fields = listFields({ properties: { spec: encodeStructural(spec), status: encodeStructural(status) } });
      const given = new Set(rows.taken.flatMap(({ object }) => listGiven(object)));
      // A probe may only be left out.
      const missing = fields.filter((field) => !given.has(field) && !field.endsWith(".livenessProbe"));
      expect(missing).toEqual([]);
    }
  });

  test("fills in what is left out as kubectl explain says", async () => {
    const path = collectionOf(protectedVmResource);
    const filled = await expectStatus(201, "POST", `${path}?dryRun=All`, buildProtectedVm());
    const side = { accessModes: ["ReadWriteOnce"], sizePolicy: "Capacity" };
    expect(filled["spec"]).toEqual({
      mode: "FaultTolerant",
      virtualMachineRef: { name: "web" },
      placement: { nodes: ["node-a", "node-b"] },
      storage: { first: side, second: side },
      checkpoint: { maxAddedLatencyMs: 50, minIntervalMs: 5, maxIntervalMs: 1_000 },
      failover: { reprotect: "Automatic", isolateAfterFaults: 3 },
      start: { order: 0, waitSeconds: 300 },
    });
    expect(kubectl("explain", "protectedvm.spec.checkpoint.maxAddedLatencyMs")).toContain("in milliseconds");
  });

  describe.each(kinds)("of a $kind takes", ({ resource, parse, rows }) => {
    test.each(rows.taken)("$when, and makes the same of it as zod", async ({ object }) => {
      const answer = await offer(resource, object);
      expect(listProblems(answer)).toEqual([]);
      expect(contentOf(answer.body)).toEqual(contentOf(judgeByZod(parse, object).object));
    });
  });

  describe.each(kinds)("of a $kind refuses", ({ resource, build, rows }) => {
    test.each(rows.refused)("$when", async ({ spec, status, ...refusal }) => {
      expectRefusal(await offer(resource, build(spec, status)), refusal);
    });
  });

  describe.each(kinds)("of a $kind that is there", ({ resource, build, rows }) => {
    test.each(rows.changes)("$when", async ({ before, after, refused }) => {
      const answer = await withStored(resource, build(before), ({ metadata }) =>
        plane.admin.send("PUT", `${pathOf(resource, metadata)}?dryRun=All`, { body: { ...build(after), metadata } }),
      );
      if (refused === undefined) {
        expect(listProblems(answer)).toEqual([]);
      } else {
        expectRefusal(answer, refused);
      }
    });
  });

  test("two agents share a GuestPair's status, each under its own field manager", async () => {
    const sideA = buildReportedSide("node-a", buildReport());
    const sideB = buildReportedSide("node-b", buildReport({ role: "standby" }));
    await withStored(guestPairResource, buildGuestPair(), async ({ metadata }) => {
      const apply = (manager: string, sides: readonly object[]): Promise<ApiAnswer> =>
        plane.admin.send("PATCH", `${pathOf(guestPairResource, metadata)}/status?fieldManager=${manager}`, {
          body: { apiVersion: API_VERSION, kind: "GuestPair", metadata: { name: metadata["name"] }, status: { sides } },
          type: applyPatch,
        });
      const read = async (): Promise<Stored> =>
        (await expectStatus(200, "GET", pathOf(guestPairResource, metadata))) as Stored;

      expect((await apply("agent-node-a", [sideA])).status).toBe(200);
      expect((await apply("agent-node-b", [sideB])).status).toBe(200);
      expect((await read()).status).toEqual({ sides: [sideA, sideB] });

      const later = { ...sideA, epoch: sideA.epoch + 1 };
      expect((await apply("agent-node-a", [later])).status).toBe(200);
      expect((await read()).status).toEqual({ sides: [later, sideB] });

      // What the other wrote is not to be written over by mistake.
      expect((await apply("agent-node-a", [later, { ...sideB, epoch: 0 }])).status).toBe(409);

      // A field left out is given up, and with it whatever nobody else wrote.
      expect((await apply("agent-node-a", [])).status).toBe(200);
      const { status, metadata: last } = await read();
      expect(status).toEqual({ sides: [sideB] });
      expect(last.generation).toBe(1);
    });
  });

  test("the main resource leaves the status alone, and the status subresource the spec", async () => {
    const side = buildReportedSide("node-a", buildReport());
    await withStored(guestPairResource, buildGuestPair({}, { sides: [side] }), async (stored) => {
      expect(stored.status).toBeUndefined();
      const both = { ...buildGuestPair({ port: 1 }, { sides: [side] }), metadata: stored.metadata };
      const path = pathOf(guestPairResource, stored.metadata);
      expect(await expectStatus(200, "PUT", `${path}/status?dryRun=All`, both)).toMatchObject({
        spec: { port: 7_500 },
        status: { sides: [side] },
      });
      const changed = await expectStatus(200, "PUT", `${path}?dryRun=All`, both);
      expect(changed).toMatchObject({ spec: { port: 1 } });
      expect(changed["status"]).toBeUndefined();
    });
  });

  test("kubectl get shows the columns, under every name there is for the kinds", async () => {
    const sides = [
      buildReportedSide("node-a", buildReport({ syncPercent: 99.5 })),
      buildReportedSide("node-b", buildReport({ role: "standby" })),
    ];
    await withStored(guestPairResource, buildGuestPair(), (pair) =>
      withStored(protectedVmResource, buildProtectedVm(), async (vm) => {
        await writeStatus(guestPairResource, pair, { sides });
        await writeStatus(protectedVmResource, vm, present(findTaken("a status").status, "status"));
        const pairTable = [
          ["NAME", "GUEST", "PRIMARY", "STATE", "TERM", "STANDBY", "SYNC", "AGE"],
          ["web", "shop.web", "node-a", "protected", "3", "node-b", "99.5", age],
        ];
        const vmTable = [
          ["NAME", "MODE", "READY", "REASON", "PRIMARY", "STANDBY", "AGE", "IN-SYNC", "TERM", "LATENCY-P99"],
          ["web", "FaultTolerant", "True", "Protected", "node-b", "node-a", age, "", "2", "21.5"],
        ];
        for (const name of ["guestpairs", ...guestPairResource.shortNames]) {
          expect(readTable("get", name)).toEqual(pairTable);
        }
        for (const name of ["protectedvms", ...protectedVmResource.shortNames]) {
          expect(readTable("get", name, "-o", "wide").map((row) => row.slice(0, 10))).toEqual(vmTable);
        }
        expect(kubectl("get", "twinrun", "-n", namespace, "-o", "name").trim().split("\n").sort()).toEqual([
          `guestpair.${GROUP}/web`,
          `protectedvm.${GROUP}/web`,
        ]);
      }),
    );
  });

  test("the sample is taken, and nothing in it is unknown", () => {
    const args = ["apply", "--server-side", "--dry-run=server", "--validate=strict"];
    expect(kubectl(...args, "-f", "config/samples/protected-vm.yaml")).toContain("serverside-applied");
  });
});

const age: unknown = expect.stringMatching(/^[0-9]+[smh]/);

/** Runs kubectl against the control plane, to its end; its output. */
function kubectl(...args: string[]): string {
  const path = present(findPrograms(["kubectl"]).get("kubectl"), "kubectl");
  const command = [`--kubeconfig=${plane.kubeconfigPath}`, ...args];
  const { status, stdout, stderr } = spawnSync(path, command, { cwd: root, encoding: "utf8" });
  if (status !== 0) {
    throw new Error(`kubectl ${args.join(" ")} failed: ${stderr}`);
  }
  return stdout;
}

/** Cells by the places of the headings, for a cell may be empty. */
function readTable(...args: string[]): string[][] {
  const lines = kubectl(...args, "-n", namespace)
    .trimEnd()
    .split("\n");
  const starts = [...(lines[0] ?? "").matchAll(/\S+/g)].map(({ index }) => index);
  return lines.map((line) => starts.map((start, column) => line.slice(start, starts[column + 1]).trim()));
}

async function expectStatus(wanted: number, method: string, path: string, body?: unknown): Promise<Json> {
  const answer = await plane.admin.send(method, path, { body });
  expect({ path, ...answer }).toMatchObject({ path, status: wanted });
  return answer.body as Json;
}

const collectionOf = ({ plural, scope }: CustomResource): string =>
  `/apis/${API_VERSION}/${scope === "Cluster" ? "" : `namespaces/${namespace}/`}${plural}`;
const pathOf = (resource: CustomResource, metadata: Json): string =>
  `${collectionOf(resource)}/${String(metadata["name"])}`;

/** A CRD is established a moment before its objects can be asked for. */
async function waitUntilServed(resource: CustomResource): Promise<void> {
  while ((await plane.admin.send("GET", collectionOf(resource))).status !== 200) {
    await sleep(50);
  }
}

/** What the server would do with a new object. A status it takes only of an object that is there. */
function offer(resource: CustomResource, object: ResourceObject): Promise<ApiAnswer> {
  return object.status === undefined
    ? plane.admin.send("POST", `${collectionOf(resource)}?dryRun=All`, { body: object })
    : withStored(resource, object, ({ metadata }) =>
        plane.admin.send("PUT", `${pathOf(resource, metadata)}/status?dryRun=All`, { body: { ...object, metadata } }),
      );
}

async function withStored<T>(
  resource: CustomResource,
  object: ResourceObject,
  body: (stored: Stored) => Promise<T>,
): Promise<T> {
  const stored = (await expectStatus(201, "POST", collectionOf(resource), object)) as Stored;
  try {
    return await body(stored);
  } finally {
    await expectStatus(200, "DELETE", pathOf(resource, stored.metadata));
  }
}

async function writeStatus(resource: CustomResource, stored: Stored, status: Json): Promise<void> {
  await expectStatus(200, "PUT", `${pathOf(resource, stored.metadata)}/status`, { ...stored, status });
}

type SchemaPart = { readonly [keyword: string]: unknown };

/** Paths of all properties below, items of lists as the list. Where anything may be, nothing is listed. */
function listFields(schema: SchemaPart, path = ""): string[] {
  const items = schema["items"] as SchemaPart | undefined;
  const own = Object.entries((schema["properties"] ?? {}) as Readonly<Record<string, SchemaPart>>);
  return [
    ...(items === undefined ? [] : listFields(items, path)),
    ...own.flatMap(([name, child]) => [`${path}.${name}`, ...listFields(child, `${path}.${name}`)]),
  ];
}

function listGiven(value: unknown, path = ""): string[] {
  if (Array.isArray(value)) {
    return value.flatMap((item: unknown) => listGiven(item, path));
  }
  const entries = typeof value === "object" && value !== null ? Object.entries(value) : [];
  return entries.flatMap(([name, child]) =>
    child === undefined ? [] : [`${path}.${name}`, ...listGiven(child, `${path}.${name}`)],
  );
}

const findTaken = (wanted: string): ResourceObject =>
  present(protectedVmRows.taken.find(({ when }) => when === wanted)?.object, wanted);

/** What an object is apart from what every server notes about it. */
function contentOf(object: unknown): unknown {
  const { apiVersion, kind, spec, status } = object as ResourceObject;
  return JSON.parse(JSON.stringify({ apiVersion, kind, spec, status }));
}

type Cause = { readonly field: string; readonly message: string };

/** None for an object that was taken. */
function listProblems({ status, body }: ApiAnswer): readonly Cause[] {
  const { details, message } = body as { details?: { causes?: readonly Cause[] }; message?: string };
  return status < 300 ? [] : (details?.causes ?? [{ field: "", message: message ?? "" }]);
}

/** Of an item that is there twice the server names the second, the others the list. */
function expectRefusal(answer: ApiAnswer, { path, says = "" }: Refusal): void {
  const problems = listProblems(answer);
  const isNamed = problems.some(
    ({ field, message }) => (field === path || field.startsWith(`${path}[`)) && message.includes(says),
  );
  expect({ status: answer.status, problems, isNamed }).toEqual({ status: 422, problems, isNamed: true });
}
