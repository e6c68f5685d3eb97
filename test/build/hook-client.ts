/**
 * A client of the hook as virt-launcher is one: another implementation of gRPC and of its messages than the hook's own, and
 * message descriptions of its own. Answers are the decoded message, or the error with its status.
 */
import {
  type ServiceError,
  credentials,
  loadPackageDefinition,
  type GrpcObject,
  type ServiceClientConstructor,
} from "@grpc/grpc-js";
import { fromJSON } from "@grpc/proto-loader";

type Field = { readonly type: string; readonly id: number; readonly rule?: "repeated" };
const text = (id: number): Field => ({ type: "string", id });
const bytes = (id: number): Field => ({ type: "bytes", id });
const message = (fields: Readonly<Record<string, Field>> = {}): object => ({ fields });
const call = (name: string): object => ({ requestType: `${name}Params`, responseType: `${name}Result` });

const callbacks = (names: readonly string[]): object => ({
  nested: {
    Callbacks: { methods: Object.fromEntries(names.map((name) => [name, call(name)])) },
    OnDefineDomainParams: message({ domainXML: bytes(1), vmi: bytes(2) }),
    OnDefineDomainResult: message({ domainXML: bytes(1) }),
    PreCloudInitIsoParams: message({ cloudInitNoCloudSource: bytes(1), vmi: bytes(2), cloudInitData: bytes(3) }),
    PreCloudInitIsoResult: message({ cloudInitNoCloudSource: bytes(1), cloudInitData: bytes(3) }),
    ShutdownParams: message(),
    ShutdownResult: message(),
  },
});

const hooks = {
  info: {
    nested: {
      Info: { methods: { Info: { requestType: "InfoParams", responseType: "InfoResult" } } },
      InfoParams: message(),
      InfoResult: message({
        name: text(1),
        hookPoints: { type: "HookPoint", id: 3, rule: "repeated" },
        versions: { ...text(4), rule: "repeated" },
      }),
      HookPoint: message({ name: text(1), priority: { type: "int32", id: 2 } }),
    },
  },
  v1alpha2: callbacks(["OnDefineDomain", "PreCloudInitIso"]),
  v1alpha3: callbacks(["OnDefineDomain", "PreCloudInitIso", "Shutdown"]),
};

const everything = { nested: { kubevirt: { nested: { hooks: { nested: hooks } } } } };
// Its declared type wants more of a service than it reads.
const definition = fromJSON(everything as Parameters<typeof fromJSON>[0], { defaults: true, keepCase: true });

export type Answer = {
  readonly status: number;
  readonly says: string;
  readonly message: Readonly<Record<string, unknown>>;
};

/** One call on a connection of its own; `service` is such as `info.Info` or `v1alpha3.Callbacks`. */
export async function callHook(
  socketPath: string,
  service: string,
  method: string,
  request: object = {},
): Promise<Answer> {
  const loaded: GrpcObject = loadPackageDefinition(definition);
  const Client = `kubevirt.hooks.${service}`
    .split(".")
    .reduce<unknown>((at, name) => (at as GrpcObject)[name], loaded) as ServiceClientConstructor;
  const client = new Client(`unix:${socketPath}`, credentials.createInsecure());
  try {
    return await new Promise<Answer>((resolve) => {
      const answered = (error: ServiceError | null, answer: Answer["message"] | undefined): void => {
        resolve({ status: error?.code ?? 0, says: error?.details ?? "", message: answer ?? {} });
      };
      const invoke = client[method] as (request: object, options: object, callback: typeof answered) => void;
      invoke.call(client, request, { deadline: Date.now() + 10_000 }, answered);
    });
  } finally {
    client.close();
  }
}
