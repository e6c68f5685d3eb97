/**
 * What virt-launcher can call of the hook. It asks Info until the sidecar answers, calls OnDefineDomain before it defines the
 * domain (again for every retry, and on the target of a live migration, where it throws the result away), and Shutdown when
 * QEMU has ended: then the sidecar must end as well, or the pod never does.
 */
import { Failure } from "../lib/failure.ts";
import { type Log } from "../telemetry/log.ts";
import { planDomainEdit, DomainFailure } from "./domain-edit.ts";
import { GrpcFailure, type GrpcMethod, type GrpcMethods, type GrpcStatus } from "./grpc-server.ts";
import {
  decodeOnDefineDomainParams,
  encodeInfoResult,
  encodeOnDefineDomainResult,
  MessageFailure,
  type HookPoint,
} from "./hook-messages.ts";
import { parseVmi, VmiFailure } from "./hooked-vmi.ts";
import { XmlFailure } from "../lib/xml-document.ts";

export const HOOK_VERSIONS = ["v1alpha2", "v1alpha3"] as const;
export type HookVersion = (typeof HOOK_VERSIONS)[number];

export type HookOptions = {
  /** Offered to virt-launcher, which takes the newest that it knows. */
  readonly versions: readonly HookVersion[];
  /** The shim as virt-launcher sees it. */
  readonly shimPath: string;
  readonly onShutdown: () => void;
  readonly log: Log;
};

/** Hooks of a higher priority are called first. This one is the last, so that it sees what the others put into the domain. */
const PRIORITY = -1_000;

export function listHookMethods(options: HookOptions): GrpcMethods {
  const { versions, log } = options;
  const hookPoints: HookPoint[] = [{ name: "OnDefineDomain", priority: PRIORITY }];
  if (versions.includes("v1alpha3")) {
    hookPoints.push({ name: "Shutdown", priority: PRIORITY });
  }
  const callbacks = versions.flatMap((version): [string, GrpcMethod][] => {
    const service = `/kubevirt.hooks.${version}.Callbacks`;
    const shutdown: GrpcMethod = () => {
      log.info({}, "the guest's QEMU has ended");
      options.onShutdown();
      return new Uint8Array();
    };
    return [
      [`${service}/OnDefineDomain`, (request) => defineDomain(request, options)],
      [`${service}/PreCloudInitIso`, refuseHookPoint],
      ...(version === "v1alpha3" ? [[`${service}/Shutdown`, shutdown] satisfies [string, GrpcMethod]] : []),
    ];
  });
  return new Map<string, GrpcMethod>([
    ["/kubevirt.hooks.info.Info/Info", () => encodeInfoResult({ name: "twinrun", hookPoints, versions })],
    ...callbacks,
  ]);
}

function defineDomain(request: Buffer, { shimPath, log }: HookOptions): Uint8Array {
  try {
    const { domainXml, vmi } = decodeOnDefineDomainParams(request);
    const hooked = parseVmi(vmi);
    const edited = planDomainEdit(domainXml, { ...hooked, shimPath });
    log.info({ ...hooked, changed: edited !== domainXml }, "the domain was prepared");
    return encodeOnDefineDomainResult(edited);
  } catch (error) {
    if (!isFailure(error)) {
      throw error;
    }
    throw new GrpcFailure({ code: statusOf(error) }, `${error.name}: ${error.message}`, { cause: error });
  }
}

type AnyFailure = Failure<{ readonly code: string }>;
const isFailure = (error: unknown): error is AnyFailure => error instanceof Failure;

/** Whether the request is broken, or is fine and asks for what cannot be. */
function statusOf(failure: AnyFailure): GrpcStatus {
  const isBroken =
    failure instanceof MessageFailure ||
    failure instanceof XmlFailure ||
    (failure instanceof VmiFailure && failure.detail.code === "VmiMalformed") ||
    (failure instanceof DomainFailure && failure.detail.code === "NoDomain");
  return isBroken ? "INVALID_ARGUMENT" : "FAILED_PRECONDITION";
}

const refuseHookPoint: GrpcMethod = () => {
  const says = "this hook did not subscribe to PreCloudInitIso; Info names the hook points that it takes";
  throw new GrpcFailure({ code: "UNIMPLEMENTED" }, says);
};
