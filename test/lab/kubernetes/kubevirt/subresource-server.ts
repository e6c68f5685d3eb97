/**
 * What the API server asks of KubeVirt's virt-api: the aggregated API `subresources.kubevirt.io`, and whether a launcher's pod
 * may be evicted.
 *
 *   PUT virtualmachineinstances/NAME/{pause,unpause,reset}    virtualmachines/NAME/{start,stop,restart}
 *   eviction of a pod whose VMI has evictionStrategy External: refused with 429, once the VMI's status.evacuationNodeName says
 *   that somebody has to move it
 *
 * It believes whoever connects, as only the API server of the lab does; there is no console, no VNC and nothing else.
 */
import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import { type IncomingMessage, type ServerResponse } from "node:http";
import { type AddressInfo } from "node:net";
import { type Cluster } from "../../../../src/kube/cluster.ts";
import { hasKubeCode } from "../../../../src/kube/kube-failure.ts";
import { kindOf, type KubeObject } from "../../../../src/kube/kube-object.ts";
import { type Certificate } from "../certificates.ts";
import { kubevirtNamespace } from "./admission.ts";
import { type Controller } from "./controller.ts";
import { type StateChangeRequest, type Vm } from "./vm-plan.ts";
import { isFinal, isPodOver } from "./vmi-status.ts";
import { type Vmi } from "./vmi.ts";

export type ServerOptions = {
  readonly cluster: Cluster;
  readonly controller: Controller;
  readonly address: string;
  readonly certificate: Certificate;
};

const service = "virt-api";
/** What the API server expects in the certificate. */
export const serverName = `${service}.${kubevirtNamespace}.svc`;
const group = "subresources.kubevirt.io";

type Answer = { readonly status: number; readonly body: object };

export class SubresourceServer {
  readonly #options: ServerOptions;
  readonly #server: Server;

  private constructor(options: ServerOptions) {
    this.#options = options;
    const { certPath, keyPath } = options.certificate;
    this.#server = createServer({ cert: readFileSync(certPath), key: readFileSync(keyPath) }, (request, response) => {
      void this.#answer(request, response);
    });
  }

  static async start(options: ServerOptions): Promise<SubresourceServer> {
    const server = new SubresourceServer(options);
    const port = await server.#listen();
    await server.#register(port);
    return server;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #listen(): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.on("error", reject).listen(0, this.#options.address, () => {
        resolve((this.#server.address() as AddressInfo).port);
      });
    });
  }

  /** Replaces what an earlier server left: it had another port. */
  async #register(port: number): Promise<void> {
    const { cluster, address, certificate } = this.#options;
    const caBundle = readFileSync(certificate.authorityPath).toString("base64");
    for (const object of listRegistrations(address, port, caBundle)) {
      await cluster.apply(object as KubeObject, "lab-kubevirt");
    }
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let answer: Answer;
    try {
      answer = await this.#route(request);
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      answer = hasKubeCode(cause, "NotFound") ? refuse(404, message) : refuse(500, message);
    }
    response.writeHead(answer.status, { "content-type": "application/json" }).end(JSON.stringify(answer.body));
  }

  async #route(request: IncomingMessage): Promise<Answer> {
    const path = new URL(request.url ?? "", "https://lab").pathname;
    const body = await readBody(request);
    if (path === "/evictions") {
      return { status: 200, body: await this.#reviewEviction(JSON.parse(body) as Review) };
    }
    const match = new RegExp(`^/apis/${group}/(v1|v1alpha3)/namespaces/([^/]+)/([^/]+)/([^/]+)/([^/]+)$`).exec(path);
    if (match === null) {
      const discovery = discover(path);
      return discovery === undefined ? refuse(404, `there is no ${path}`) : { status: 200, body: discovery };
    }
    const [, , namespace = "", plural = "", name = "", verb = ""] = match;
    if (plural === "virtualmachineinstances") {
      return this.#commandVmi(`${namespace}/${name}`, verb);
    }
    return this.#commandVm(namespace, name, verb);
  }

  async #commandVmi(key: string, verb: string): Promise<Answer> {
    if (verb !== "pause" && verb !== "unpause" && verb !== "reset") {
      return refuse(404, `the lab has no ${verb}`);
    }
    const vmi = this.#options.controller.findVmi(key);
    if (vmi === undefined) {
      return refuse(404, `virtualmachineinstance.kubevirt.io "${key}" not found`);
    }
    if (vmi.status?.phase !== "Running") {
      return refuse(409, "VMI is not running");
    }
    await this.#options.controller.send(vmi, verb);
    return accepted;
  }

  /** The VM's controller carries it out. */
  async #commandVm(namespace: string, name: string, verb: string): Promise<Answer> {
    const { cluster, controller } = this.#options;
    const ref = { kind: kindOf("kubevirt.io/v1", "VirtualMachine"), namespace, name };
    const vm = await cluster.read<Vm & KubeObject>(ref);
    if (vm === undefined) {
      return refuse(404, `virtualmachine.kubevirt.io "${name}" not found`);
    }
    const vmi = controller.findVmi(`${namespace}/${name}`);
    const requests = planRequests(verb, vmi);
    if (requests === undefined) {
      return refuse(409, `VM is ${vmi === undefined ? "not running" : "already running"}`);
    }
    const patch = {
      metadata: { resourceVersion: vm.metadata.resourceVersion },
      status: { stateChangeRequests: requests },
    };
    await cluster.patch(ref, patch, { subresource: "status" });
    return accepted;
  }

  /** As KubeVirt's pod-eviction-admitter does; no guest of the lab can be live-migrated. */
  async #reviewEviction({ request }: Review): Promise<object> {
    const pod = this.#options.controller.findPod(`${request.namespace}/${request.name}`);
    const name = pod?.metadata.annotations?.["kubevirt.io/domain"];
    if (pod === undefined || isPodOver(pod) || name === undefined) {
      return review(request.uid, { allowed: true });
    }
    const vmi = this.#options.controller.findVmi(`${request.namespace}/${name}`);
    if (vmi === undefined) {
      return deny(request, `kubevirt failed getting the vmi: there is no ${name}`);
    }
    switch (vmi.spec.evictionStrategy) {
      case "LiveMigrate":
        return deny(request, `VMI ${name} is configured with an eviction strategy but is not live-migratable`);
      case "External":
        return deny(request, await this.#markForEviction(request, vmi, pod.spec.nodeName));
      default:
        return review(request.uid, { allowed: true });
    }
  }

  async #markForEviction(
    { dryRun, object }: Review["request"],
    vmi: Vmi,
    nodeName: string | undefined,
  ): Promise<string> {
    const { namespace, name } = vmi.metadata;
    const says = `Eviction triggered evacuation of VMI "${namespace}/${name}"`;
    if ((vmi.status?.evacuationNodeName ?? "") !== "") {
      return `Evacuation in progress: ${says}`;
    }
    if (vmi.status?.nodeName !== nodeName) {
      return "Eviction request for target Pod";
    }
    const isDry = dryRun === true || object?.deleteOptions?.dryRun?.[0] === "All";
    const ref = { kind: kindOf("kubevirt.io/v1", "VirtualMachineInstance"), namespace, name };
    await this.#options.cluster.patch(ref, { status: { evacuationNodeName: nodeName } }, { dryRun: isDry });
    return says;
  }
}

const accepted: Answer = { status: 202, body: {} };

/** Undefined when the VM is not in the state for it. */
function planRequests(verb: string, vmi: Vmi | undefined): StateChangeRequest[] | undefined {
  const isUp = vmi !== undefined && !isFinal(vmi);
  switch (verb) {
    case "start":
      return isUp ? undefined : [{ action: "Start" }];
    case "stop":
      return isUp ? [{ action: "Stop", uid: vmi.metadata.uid }] : undefined;
    case "restart":
      return isUp ? [{ action: "Stop", uid: vmi.metadata.uid }, { action: "Start" }] : undefined;
    default:
      throw new Error(`the lab has no ${verb}`);
  }
}

type Review = {
  readonly request: {
    readonly uid: string;
    readonly namespace: string;
    readonly name: string;
    readonly dryRun?: boolean;
    readonly object?: { readonly deleteOptions?: { readonly dryRun?: readonly string[] } };
  };
};

const review = (uid: string, response: object): object => ({
  apiVersion: "admission.k8s.io/v1",
  kind: "AdmissionReview",
  response: { uid, ...response },
});

const deny = ({ uid }: Review["request"], message: string): object =>
  review(uid, { allowed: false, status: { code: 429, message } });

function refuse(code: number, message: string): Answer {
  const reason = { 404: "NotFound", 409: "Conflict", 500: "InternalError" }[code] ?? "";
  return { status: code, body: { apiVersion: "v1", kind: "Status", status: "Failure", code, reason, message } };
}

const verbs: Readonly<Record<string, readonly string[]>> = {
  virtualmachineinstances: ["pause", "unpause", "reset"],
  virtualmachines: ["start", "stop", "restart"],
};

function discover(path: string): object | undefined {
  const [, , , version] = path.split("/");
  if (version === undefined || path !== `/apis/${group}/${version}`) {
    return undefined;
  }
  const resources = Object.entries(verbs).flatMap(([plural, names]) =>
    names.map((name) => ({
      name: `${plural}/${name}`,
      singularName: "",
      namespaced: true,
      kind: "",
      verbs: ["update"],
    })),
  );
  return { apiVersion: "v1", kind: "APIResourceList", groupVersion: `${group}/${version}`, resources };
}

/** Aggregated APIs are found by a service, whose endpoint here is this machine; the webhook has its address itself. */
function listRegistrations(address: string, port: number, caBundle: string): object[] {
  const metadata = { name: service, namespace: kubevirtNamespace };
  const serviceRef = { name: service, namespace: kubevirtNamespace, port: 443 };
  return [
    { apiVersion: "v1", kind: "Service", metadata, spec: { ports: [{ name: "https", port: 443, targetPort: port }] } },
    {
      apiVersion: "discovery.k8s.io/v1",
      kind: "EndpointSlice",
      metadata: { ...metadata, labels: { "kubernetes.io/service-name": service } },
      addressType: "IPv4",
      endpoints: [{ addresses: [address], conditions: { ready: true } }],
      ports: [{ name: "https", port, protocol: "TCP" }],
    },
    ...["v1", "v1alpha3"].map((version) => ({
      apiVersion: "apiregistration.k8s.io/v1",
      kind: "APIService",
      metadata: { name: `${version}.${group}` },
      spec: { group, version, service: serviceRef, caBundle, groupPriorityMinimum: 1_000, versionPriority: 15 },
    })),
    {
      apiVersion: "admissionregistration.k8s.io/v1",
      kind: "ValidatingWebhookConfiguration",
      metadata: { name: "virt-api-validator" },
      webhooks: [
        {
          name: "virt-launcher-eviction-interceptor.kubevirt.io",
          admissionReviewVersions: ["v1"],
          sideEffects: "NoneOnDryRun",
          failurePolicy: "Ignore",
          clientConfig: { url: `https://${address}:${port}/evictions`, caBundle },
          rules: [{ apiGroups: [""], apiVersions: ["v1"], operations: ["CREATE"], resources: ["pods/eviction"] }],
        },
      ],
    },
  ];
}

async function readBody(request: IncomingMessage): Promise<string> {
  let body = "";
  for await (const part of request.setEncoding("utf8")) {
    body += String(part);
  }
  return body;
}
