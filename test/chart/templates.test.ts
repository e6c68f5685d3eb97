/** The chart as Helm renders it, without a cluster. Skipped, with a line that says how to mend that, where there is no Helm. */
import { describe, expect, test } from "@jest/globals";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { customResources } from "../../src/api/custom-resources.ts";
import { parseOperatorFlags } from "../../src/operator/operator-flags.ts";
import { parseQuorumFlags } from "../../src/quorum/quorum-flags.ts";
import { findRemedy } from "../lab/kubernetes/programs.ts";
import {
  type ChartObject,
  chartPath,
  type Container,
  findPodSpec,
  type Json,
  listPodSpecs,
  renderChart,
  runHelm,
  systemNamespace,
  templateChart,
} from "./chart.ts";
import { kustomizeBasePath, renderKustomizeBase } from "./kustomize.ts";

const root = join(import.meta.dirname, "../..");
const remedy = findRemedy(["helm"]);
if (remedy !== undefined) {
  process.stderr.write(`SKIPPED in templates.test.ts: ${remedy}\n`);
}

const monitoring = ["--api-versions", "monitoring.coreos.com/v1"];
const ofKind = (objects: readonly ChartObject[], kind: string): ChartObject[] =>
  objects.filter((object) => object.kind === kind);
const namesOf = (objects: readonly ChartObject[]): string[] => objects.map(({ metadata }) => metadata.name).sort();

(remedy === undefined ? describe : describe.skip)("the chart", () => {
  test("lints, in every form", () => {
    for (const set of ["quorum.store=lease", "quorum.store=etcd", "crds.install=false", "hook.mode=NetworkBinding"]) {
      const { status, stdout } = runHelm("lint", "--strict", chartPath, "--set", set);
      expect({ set, status, stdout }).toMatchObject({ status: 0 });
    }
  });

  test("renders the same, byte for byte, each time", () => {
    const [one, other] = [templateChart({}, ...monitoring), templateChart({}, ...monitoring)];
    expect(one.status).toBe(0);
    expect(other.stdout).toBe(one.stdout);
  });

  test("is what config/kustomize has (make generate)", () => {
    expect(renderKustomizeBase()).toBe(readFileSync(kustomizeBasePath, "utf8"));
  });

  test.each<[string, Json, string]>([
    ["a store that is none", { quorum: { store: "redis" } }, "/quorum/store"],
    ["a name that is none", { quorum: { stroe: "etcd" } }, "stroe"],
    ["replicas as a text", { operator: { replicas: "two" } }, "/operator/replicas"],
    ["no replica", { quorum: { replicas: 0 } }, "/quorum/replicas"],
    ["a digest that is none", { image: { digest: "latest" } }, "/image/digest"],
    ["an empty repository", { hook: { image: { repository: "" } } }, "/hook/image/repository"],
    ["a port out of range", { agent: { heartbeatPort: 70_000 } }, "/agent/heartbeatPort"],
    ["a range of ports without its end", { agent: { enginePorts: { last: null } } }, "/agent/enginePorts"],
    [
      "a range of ports that ends before it begins",
      { agent: { enginePorts: { first: 8_100 } } },
      "first must not be greater",
    ],
    [
      "a port that engines may be given",
      { agent: { heartbeatPort: 7_500 } },
      "agent.heartbeatPort is 7500, which is one of agent.enginePorts",
    ],
    ["an endpoint without a port", { quorum: { externalEndpoints: ["10.0.0.9"] } }, "/quorum/externalEndpoints/0"],
    ["an etcd that is no URL", { quorum: { etcd: { endpoints: ["10.0.0.9:2379"] } } }, "/quorum/etcd/endpoints/0"],
    ["a prefix without its slash", { quorum: { etcd: { prefix: "twinrun" } } }, "/quorum/etcd/prefix"],
    ["agents without any quorum", { quorum: { install: false } }, "/quorum/externalEndpoints"],
    ["a standard that is none", { guests: { podSecurity: "open" } }, "/guests/podSecurity"],
    ["a relative directory", { agent: { stateDirectory: "var" } }, "/agent/stateDirectory"],
    ["a mode of the hook that is none", { hook: { mode: "Webhook" } }, "/hook/mode"],
    ["a duration without its unit", { certManager: { duration: "10" } }, "/certManager/duration"],
    ["a log level that is none", { agent: { logLevel: "loud" } }, "/agent/logLevel"],
  ])("refuses %s and names it", (_when, values, place) => {
    const { status, stderr } = templateChart(values);
    expect({ status, stderr }).toMatchObject({ status: 1 });
    expect(stderr).toContain(place);
  });

  test("has no container but the agent's that is privileged, and the others may do nothing", () => {
    const pods = (["etcd", "lease"] as const).flatMap((store) => listPodSpecs(renderChart({ quorum: { store } })));
    expect([...new Set(pods.map(({ name }) => name))].sort()).toEqual([
      "DaemonSet twinrun-agent",
      "Deployment twinrun-operator",
      "Deployment twinrun-quorum",
      "Job twinrun-cleanup",
      "Job twinrun-uninstall",
      "Pod twinrun-test",
      "StatefulSet twinrun-etcd-0",
      "StatefulSet twinrun-etcd-1",
      "StatefulSet twinrun-etcd-2",
    ]);
    for (const { name, spec } of pods) {
      const containers: Container[] = [...spec.containers, ...(spec.initContainers ?? [])];
      if (name === "DaemonSet twinrun-agent") {
        expect(containers.map((each) => [each.name, each.securityContext?.["privileged"]])).toEqual([["agent", true]]);
        continue;
      }
      expect({ name, ...spec }).not.toHaveProperty("hostNetwork");
      expect({ name, ...spec }).not.toHaveProperty("hostPID");
      expect(JSON.stringify(spec["volumes"] ?? [])).not.toContain("hostPath");
      expect(spec.securityContext).toMatchObject({
        runAsNonRoot: true,
        runAsUser: 65_532,
        seccompProfile: { type: "RuntimeDefault" },
      });
      for (const { securityContext } of containers) {
        expect(securityContext).toEqual({
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ["ALL"] },
        });
      }
    }
  });

  test("gives the processes flags that they take", () => {
    const argsOf = (values: Json, name: string): string[] => {
      const all = findPodSpec(renderChart(values), name).containers[0]?.args ?? [];
      // What comes first is Node's own.
      const [script, ...args] = all.slice(all.findIndex((each) => !each.startsWith("--")));
      expect(existsSync(join(root, script ?? ""))).toBe(true);
      // What kubelet puts in.
      return args.map((arg) =>
        arg.replace("$(POD_NAMESPACE)", systemNamespace).replaceAll(/[$][(]\w+[)]/g, "10.0.0.1"),
      );
    };
    expect(parseOperatorFlags(argsOf({}, "Deployment twinrun-operator"))).toMatchObject({
      settings: {
        guestsNamespace: "twinrun-guests",
        hookImage: expect.stringContaining("twinrun-hook:"),
        hookMode: "Sidecar",
        ports: { low: 7_100, high: 8_099 },
      },
    });
    // Leases it removes itself; other records only the quorum can.
    const quorumOf = (quorum: Json): unknown => {
      const { quorumService, quorum: others } = parseOperatorFlags(argsOf({ quorum }, "Deployment twinrun-operator"));
      return [quorumService, ...others.map(({ host }) => host)];
    };
    const externalEndpoints = ["10.0.0.9:7000"];
    expect(quorumOf({})).toEqual(["twinrun-quorum"]);
    expect(quorumOf({ externalEndpoints })).toEqual(["twinrun-quorum", "10.0.0.9"]);
    expect(quorumOf({ install: false, store: "lease", externalEndpoints })).toEqual([undefined, "10.0.0.9"]);
    expect(quorumOf({ store: "lease" })).toEqual([undefined]);
    const lease = argsOf({ quorum: { store: "lease" } }, "Deployment twinrun-quorum");
    expect(parseQuorumFlags(lease).store.tag).toBe("lease");
    const etcd = argsOf({}, "Deployment twinrun-quorum");
    expect(parseQuorumFlags(etcd).store.tag).toBe("etcd");
    const known = readFileSync(join(root, "src/main/agent.ts"), "utf8");
    const flags = argsOf({ agent: { uplinks: ["eth0"] } }, "DaemonSet twinrun-agent").map(
      (arg) => /^--([a-z-]+)=/.exec(arg)?.[1],
    );
    expect(flags.filter((flag) => !new RegExp(`^  "?${flag ?? "none"}"?: (text|[{])`, "m").test(known))).toEqual([]);
  });

  test("leaves authorities to cert-manager where that is wanted", () => {
    const kinds = (values: Json): string[] =>
      ofKind(renderChart(values), "Certificate").map(
        ({ metadata, spec }) => `${metadata.name} ${String(spec?.["isCA"])}`,
      );
    expect(kinds({})).toEqual([]);
    expect(kinds({ certManager: { enabled: true } })).toEqual(["twinrun-ca true", "twinrun-etcd-ca true"]);
    expect(kinds({ certManager: { enabled: true }, quorum: { store: "lease" } })).toEqual(["twinrun-ca true"]);
    const { containers } = findPodSpec(renderChart({ certManager: { enabled: true } }), "Deployment twinrun-operator");
    expect(containers[0]?.args).toContain("--authority=cert-manager");
  });

  test("lets in what its processes listen for, and nothing else", () => {
    const objects = renderChart();
    const listening = listPodSpecs(objects)
      .filter(({ spec }) => spec["hostNetwork"] !== true)
      .flatMap(({ name, spec }) =>
        spec.containers.flatMap(({ args = [], command = [] }) =>
          [...args, ...command].flatMap((each) => {
            const port = /^--(?:listen[a-z-]*|health|metrics)=(?:https:[/][/])?0[.]0[.]0[.]0:([0-9]+)$/.exec(each)?.[1];
            return port === undefined ? [] : [`${/(operator|quorum|etcd)/.exec(name)?.[1] ?? name} ${port}`];
          }),
        ),
      );
    const letIn = ofKind(objects, "NetworkPolicy").flatMap(({ metadata, spec }) =>
      (spec?.["ingress"] as { readonly ports: readonly { readonly port: number }[] }[]).flatMap(({ ports }) =>
        ports.map(({ port }) => `${metadata.name.replace("twinrun-", "")} ${port}`),
      ),
    );
    expect([...new Set(letIn)].sort()).toEqual([...new Set(listening)].sort());
    expect(letIn.length).toBeGreaterThanOrEqual(5);
  });

  test("bounds the memory of everything that is not a guest's", () => {
    for (const { name, spec } of listPodSpecs(renderChart())) {
      for (const { resources } of spec.containers) {
        const limits = resources?.["limits"] as Json;
        expect({ name, limits }).toEqual({
          name,
          limits: name.endsWith("agent") ? {} : { memory: expect.any(String) },
        });
        expect(resources?.["requests"]).toEqual({ cpu: expect.any(String), memory: expect.any(String) });
      }
    }
  });

  test("names images by digest where one is given", () => {
    const digest = `sha256:${"a".repeat(64)}`;
    const objects = renderChart({ image: { digest }, hook: { image: { digest } } });
    const { containers } = findPodSpec(objects, "Deployment twinrun-operator");
    expect(containers[0]?.image).toBe(`docker.io/twinrun/twinrun@${digest}`);
    expect(containers[0]?.args?.join(" ")).toContain(`docker.io/twinrun/twinrun-hook@${digest}`);
  });

  test("puts its objects into two namespaces, and nowhere else", () => {
    const places = renderChart().map(({ kind, metadata }) => ({ kind, namespace: metadata.namespace }));
    const namespaces = new Set(places.map(({ namespace }) => namespace));
    expect([...namespaces].sort()).toEqual([systemNamespace, "twinrun-guests", undefined].sort());
    expect(places.filter(({ namespace }) => namespace === "twinrun-guests").map(({ kind }) => kind)).toEqual([
      "Role",
      "RoleBinding",
    ]);
  });

  describe("CRDs", () => {
    test("are kept when the chart goes, unless told", () => {
      const keep = (values: Json): unknown[] =>
        ofKind(renderChart(values), "CustomResourceDefinition").map(
          ({ metadata }) => metadata.annotations?.["helm.sh/resource-policy"],
        );
      expect(keep({})).toEqual(customResources.map(() => "keep"));
      expect(keep({ crds: { keep: false } })).toEqual(customResources.map(() => undefined));
      expect(keep({ crds: { install: false } })).toEqual([]);
    });

    test("are otherwise those of crds/", () => {
      for (const { metadata, spec } of ofKind(renderChart(), "CustomResourceDefinition")) {
        const file = join(root, "crds", `${metadata.name.replace(/[.].*/, "")}.yaml`);
        expect({ spec }).toEqual({ spec: (parse(readFileSync(file, "utf8")) as ChartObject).spec });
      }
    });
  });

  describe("the quorum", () => {
    test("keeps its records in an etcd of three on nodes of their own", () => {
      const objects = renderChart();
      const members = ofKind(objects, "StatefulSet");
      expect(namesOf(members)).toEqual(["twinrun-etcd-0", "twinrun-etcd-1", "twinrun-etcd-2"]);
      for (const name of namesOf(members)) {
        const { affinity, containers } = findPodSpec(objects, `StatefulSet ${name}`);
        expect(JSON.stringify(affinity)).toContain("requiredDuringScheduling");
        expect(containers[0]?.command).toEqual(
          expect.arrayContaining(["--client-cert-auth", "--peer-client-cert-auth"]),
        );
        expect(containers[0]?.command?.join(" ")).not.toContain("http://");
      }
      const { containers, affinity } = findPodSpec(objects, "Deployment twinrun-quorum");
      expect(containers[0]?.args?.join(" ")).toContain("--store=etcd:https://$(TWINRUN_ETCD_0_SERVICE_HOST):2379,");
      expect(JSON.stringify(affinity)).toContain("requiredDuringScheduling");
    });

    test("or in Leases, and then has a token to write them", () => {
      const objects = renderChart({ quorum: { store: "lease", replicas: 2 } });
      expect(ofKind(objects, "StatefulSet")).toEqual([]);
      const spec = findPodSpec(objects, "Deployment twinrun-quorum");
      expect(spec.containers[0]?.args).toEqual(expect.arrayContaining(["--store=lease"]));
      expect(spec).not.toHaveProperty("automountServiceAccountToken");
      expect(findPodSpec(renderChart(), "Deployment twinrun-quorum")).toMatchObject({
        automountServiceAccountToken: false,
      });
    });

    test("has as many replicas as the nodes that the store is meant for, unless somebody says otherwise", () => {
      const count = (quorum: object): unknown => {
        const isQuorum = ({ metadata }: { metadata: { name: string } }): boolean => metadata.name === "twinrun-quorum";
        return ofKind(renderChart({ quorum }), "Deployment").find(isQuorum)?.["spec"];
      };
      expect(count({})).toMatchObject({ replicas: 3 });
      expect(count({ store: "lease" })).toMatchObject({ replicas: 2 });
      expect(count({ store: "lease", replicas: 3 })).toMatchObject({ replicas: 3 });
    });

    test("or in an etcd of the user's own", () => {
      const etcd = { endpoints: ["https://10.0.0.9:2379"], tlsSecret: "mine" };
      const objects = renderChart({ quorum: { etcd } });
      expect(ofKind(objects, "StatefulSet")).toEqual([]);
      const spec = findPodSpec(objects, "Deployment twinrun-quorum");
      expect(spec.containers[0]?.args).toEqual(expect.arrayContaining(["--store=etcd:https://10.0.0.9:2379"]));
      expect(JSON.stringify(spec["volumes"])).toContain('"secretName":"mine"');
    });

    test("or is elsewhere", () => {
      const objects = renderChart({ quorum: { install: false, externalEndpoints: ["10.0.0.9:7000"] } });
      expect(namesOf(objects).filter((name) => /quorum|etcd/.test(name))).toEqual([]);
      const [agent] = findPodSpec(objects, "DaemonSet twinrun-agent").containers;
      expect(agent?.args).toContain("--quorum=10.0.0.9:7000");
      expect(agent?.args?.join(" ")).not.toContain("--quorum-service");
    });
  });

  test("has figures and alerts for Prometheus only where there is one, and only if wanted", () => {
    const kinds = (values: Json, ...more: string[]): string[] =>
      renderChart(values, ...more)
        .filter(({ apiVersion }) => apiVersion.startsWith("monitoring.coreos.com/"))
        .map(({ kind }) => kind);
    expect(kinds({})).toEqual([]);
    expect(kinds({}, ...monitoring).sort()).toEqual(["PodMonitor", "PodMonitor", "PrometheusRule"]);
    expect(kinds({ monitoring: { podMonitor: false, prometheusRule: false } }, ...monitoring)).toEqual([]);
    const [rule] = ofKind(renderChart({}, ...monitoring), "PrometheusRule");
    const text = JSON.stringify(rule);
    expect(text.match(/"runbook_url"/g)?.length).toBe(text.match(/"alert"/g)?.length);
  });
});
