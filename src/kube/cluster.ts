/**
 * One API server, as the rest of Twinrun talks to it: typed by the caller, plain JSON objects in and out.
 *
 * Contract: every call has a deadline and throws a {@link KubeFailure}; nothing is retried that may have been carried out. What
 * is sent is the caller's object as it is. Kinds that src/kube/kube-object.ts does not know are asked for at the server, once.
 */
import { type ObjectMeta } from "../api/object-meta.ts";
import { assert } from "../lib/assert.ts";
import { type AccessSource, findAccess, openKubeconfigs } from "./access.ts";
import { HttpConnection, type HttpRequest } from "./http-connection.ts";
import { badAnswer, hasKubeCode, KubeFailure, parseRefusal } from "./kube-failure.ts";
import { type PodCommand, type PodStream } from "./pod-stream.ts";
import {
  findKnownKind,
  type KubeObject,
  type ObjectRef,
  pathOfKind,
  pathOfObject,
  type ResourceKind,
} from "./kube-object.ts";

export type ListScope = {
  /** All namespaces without it. */
  readonly namespace?: string | undefined;
  readonly labelSelector?: string | undefined;
  readonly fieldSelector?: string | undefined;
};

export type CallOptions = { readonly signal?: AbortSignal | undefined; readonly timeoutMs?: number | undefined };

export type ListPage<T> = { readonly items: readonly T[]; readonly resourceVersion: string };
export type ListResult<T> = { readonly items: T[]; readonly resourceVersion: string };

export type WriteOptions = CallOptions & {
  /** The server does everything but store. */
  readonly dryRun?: boolean | undefined;
  /** The manager of the fields of a create, patch or replace. */
  readonly fieldManager?: string | undefined;
};

export type ApplyOptions = CallOptions & {
  /** Take fields from other managers; true unless told: who applies a field means it. False: Conflict names the other manager. */
  readonly force?: boolean | undefined;
  readonly dryRun?: boolean | undefined;
};

export type RemoveOptions = CallOptions & {
  /** Only if it is still this object; otherwise Conflict. */
  readonly uid?: string | undefined;
  readonly resourceVersion?: string | undefined;
  readonly gracePeriodSeconds?: number | undefined;
  readonly propagation?: "Background" | "Foreground" | "Orphan" | undefined;
};

export type JsonMergePatch = Readonly<Record<string, unknown>>;

export type WatchEvent<T> =
  | { readonly tag: "added" | "modified" | "deleted"; readonly object: T }
  | { readonly tag: "bookmark"; readonly resourceVersion: string };

export type WatchOptions = ListScope & {
  /** Events after this one. */
  readonly resourceVersion: string;
  /** The server ends the watch after it. */
  readonly timeoutSeconds: number;
  /** We end it when it does not begin within this, and the server begins at once. */
  readonly answerMs: number;
  /** Or when nothing was heard for so long, bookmarks included (the server sends one a minute). */
  readonly silenceMs: number;
  readonly signal?: AbortSignal | undefined;
};

export type ServerVersion = { readonly major: string; readonly minor: string; readonly gitVersion: string };

const callTimeoutMs = 15_000;
/** What the server allows itself: a page that a busy one was not given time for would be asked for again and again. */
const listTimeoutMs = 60_000;
/** Objects of 10 KB make pages of 2.5 MB: parsed in a few milliseconds, and not much to hold. */
const pageSize = 250;

export class Cluster {
  readonly #connection: HttpConnection;
  readonly #kinds = new Map<string, Promise<readonly ResourceKind[]>>();

  constructor(source: AccessSource) {
    this.#connection = new HttpConnection(source);
  }

  /** KUBECONFIG, else `~/.kube/config`, else the pod's service account. Files are read by the first call. */
  static fromDefault(environment?: NodeJS.ProcessEnv): Cluster {
    return new Cluster(findAccess(environment));
  }

  static fromKubeconfig(path: string, context?: string): Cluster {
    return new Cluster(openKubeconfigs([path], context));
  }

  /** The namespace of the pod or of the context, if it has one. */
  async readOwnNamespace(): Promise<string | undefined> {
    return (await this.#connection.readAccess()).namespace;
  }

  /** All objects as they are at one moment. */
  async list<T extends KubeObject>(
    kind: ResourceKind,
    scope: ListScope = {},
    options: CallOptions = {},
  ): Promise<ListResult<T>> {
    const items: T[] = [];
    const take = (page: ListPage<T>): void => {
      items.push(...page.items);
    };
    const resourceVersion = await this.listPages<T>({ kind, ...scope }, take, options).catch((error: unknown) => {
      if (!hasKubeCode(error, "Expired")) {
        throw error;
      }
      // It took longer than etcd keeps the past. In one piece it cannot.
      items.length = 0;
      return this.listPages<T>({ kind, ...scope, pageSize: 0 }, take, options);
    });
    return { items, resourceVersion };
  }

  /** The same page by page, so that nobody has to hold it all. Throws Expired when the list outlives its moment. */
  async listPages<T extends KubeObject>(
    what: ListScope & { readonly kind: ResourceKind; readonly pageSize?: number },
    take: (page: ListPage<T>) => void,
    options: CallOptions = {},
  ): Promise<string> {
    const { kind, namespace, labelSelector, fieldSelector, pageSize: limit = pageSize } = what;
    const path = pathOfKind(kind, namespace);
    for (let next = ""; ;) {
      const query = { labelSelector, fieldSelector, limit, continue: next === "" ? undefined : next };
      const page = await this.#send<{
        metadata?: { resourceVersion?: string; continue?: string };
        items?: T[] | null;
      }>({ method: "GET", path, query }, { timeoutMs: listTimeoutMs, ...options });
      if (page.metadata?.resourceVersion === undefined) {
        throw badAnswer(`GET ${path}`, "the answer is no list");
      }
      const { resourceVersion } = page.metadata;
      take({ items: (page.items ?? []).map((item) => withKind(item, kind)), resourceVersion });
      next = page.metadata.continue ?? "";
      if (next === "") {
        return resourceVersion;
      }
    }
  }

  /** Undefined when there is none. */
  async read<T extends KubeObject>(ref: ObjectRef, options: CallOptions = {}): Promise<T | undefined> {
    return undefinedIfMissing(this.#send<T>({ method: "GET", path: pathOfObject(ref) }, options));
  }

  async create<T extends KubeObject>(object: T, options: WriteOptions = {}): Promise<T> {
    const { namespace, name } = object.metadata;
    const path = pathOfKind(await this.#kindOf(object), namespace);
    assert(name !== "" || "generateName" in object.metadata, `${object.kind}: an object without a name`);
    return this.#send<T>({ method: "POST", path, query: queryOf(options), body: object }, options);
  }

  /** Server-side apply: `intent` holds the fields that `fieldManager` owns from now on, and no others. */
  async apply<T extends KubeObject>(intent: T, fieldManager: string, options: ApplyOptions = {}): Promise<T> {
    return this.#apply(intent, { fieldManager, ...options });
  }

  /** The same on the status; `intent` is the object with its status and without its spec. NotFound when there is no such object. */
  async applyStatus<T extends KubeObject>(intent: T, fieldManager: string, options: ApplyOptions = {}): Promise<T> {
    return this.#apply(intent, { fieldManager, subresource: "status", ...options });
  }

  /** A JSON merge patch; of a subresource where one is named. */
  async patch<T extends KubeObject>(
    ref: ObjectRef,
    patch: JsonMergePatch,
    options: WriteOptions & { readonly subresource?: string } = {},
  ): Promise<T> {
    return this.#send<T>(
      {
        method: "PATCH",
        path: pathOfObject(ref, options.subresource),
        query: queryOf(options),
        body: patch,
        contentType: "application/merge-patch+json",
      },
      options,
    );
  }

  /** Only if the object is still as `object.metadata.resourceVersion` says; otherwise Conflict. */
  async replace<T extends KubeObject>(object: T, options: WriteOptions = {}): Promise<T> {
    assert(object.metadata.resourceVersion !== undefined, `${object.kind} ${object.metadata.name}: replaced unseen`);
    const path = pathOfObject(await this.#refOf(object));
    return this.#send<T>({ method: "PUT", path, query: queryOf(options), body: object }, options);
  }

  /** Removes it, or has its finalizers begin. That it is not there (any more) is fine. */
  async remove(ref: ObjectRef, options: RemoveOptions = {}): Promise<void> {
    const { uid, resourceVersion, gracePeriodSeconds, propagation } = options;
    const hasPreconditions = uid !== undefined || resourceVersion !== undefined;
    const body = {
      apiVersion: "v1",
      kind: "DeleteOptions",
      gracePeriodSeconds,
      propagationPolicy: propagation ?? "Background",
      ...(hasPreconditions ? { preconditions: { uid, resourceVersion } } : {}),
    };
    await undefinedIfMissing(this.#send({ method: "DELETE", path: pathOfObject(ref), body }, options));
  }

  /**
   * PUT on `NAME/SUBRESOURCE`: a CertificateSigningRequest's `approval` and `status`, a VirtualMachineInstance's `unpause` (its
   * kind's apiVersion is then `subresources.kubevirt.io/v1`). Undefined when the server says nothing but yes.
   */
  async putSubresource<T>(
    ref: ObjectRef,
    subresource: string,
    body: object,
    options: WriteOptions = {},
  ): Promise<T | undefined> {
    const path = pathOfObject(ref, subresource);
    return this.#send<T | undefined>({ method: "PUT", path, query: queryOf(options), body }, options);
  }

  /** POST on it: a Pod's `eviction`, a ServiceAccount's `token`. */
  async createSubresource<T>(
    ref: ObjectRef,
    subresource: string,
    body: object,
    options: WriteOptions = {},
  ): Promise<T | undefined> {
    const path = pathOfObject(ref, subresource);
    return this.#send<T | undefined>({ method: "POST", path, query: queryOf(options), body }, options);
  }

  /** What is said in words and not in JSON: a Pod's `log`. */
  async readText(
    ref: ObjectRef,
    subresource: string,
    query: HttpRequest["query"],
    options: CallOptions = {},
  ): Promise<string> {
    return this.#sendText({ method: "GET", path: pathOfObject(ref, subresource), query }, options);
  }

  /** Any JSON there is: `/version`, `/apis/GROUP/VERSION`. */
  async readPath<T>(path: string, query?: HttpRequest["query"], options: CallOptions = {}): Promise<T> {
    return this.#send<T>({ method: "GET", path, query }, options);
  }

  async readServerVersion(options: CallOptions = {}): Promise<ServerVersion> {
    return this.readPath<ServerVersion>("/version", undefined, options);
  }

  /** Whether the server has this kind in this version. Always asks. */
  async hasResource(kind: ResourceKind): Promise<boolean> {
    this.#kinds.delete(kind.apiVersion);
    return (await this.#listKinds(kind.apiVersion)).some(({ plural }) => plural === kind.plural);
  }

  /**
   * Gives what happens to `onEvent` until the server ends the watch, which is its right at any time. Throws Expired when the events
   * after `resourceVersion` are not kept any more.
   */
  async watch<T extends KubeObject>(
    kind: ResourceKind,
    options: WatchOptions,
    onEvent: (event: WatchEvent<T>) => void,
  ): Promise<void> {
    const { namespace, labelSelector, fieldSelector, resourceVersion, timeoutSeconds } = options;
    const { answerMs, silenceMs, signal } = options;
    const path = pathOfKind(kind, namespace);
    const query = {
      watch: true,
      allowWatchBookmarks: true,
      labelSelector,
      fieldSelector,
      resourceVersion,
      timeoutSeconds,
    };
    const request = { method: "GET", path, query, timeoutMs: answerMs, silenceMs, signal } as const;
    await this.#connection.stream(request, (line) => {
      onEvent(parseEvent<T>(line, kind, path));
    });
  }

  /** Starts a command in a pod. What it needs is loaded only here: agents and operator never do. */
  async openPodStream(what: PodCommand, { signal, timeoutMs }: CallOptions = {}): Promise<PodStream> {
    const [{ PodStream }, { access, agent }] = await Promise.all([
      import("./pod-stream.ts"),
      this.#connection.readTransport(),
    ]);
    return PodStream.open(access, agent, what, { signal, timeoutMs: timeoutMs ?? callTimeoutMs });
  }

  /** Ends all calls and watches. */
  close(): void {
    this.#connection.close();
  }

  async #apply<T extends KubeObject>(
    intent: T,
    options: ApplyOptions & { readonly fieldManager: string; readonly subresource?: string },
  ): Promise<T> {
    const path = pathOfObject(await this.#refOf(intent), options.subresource);
    const query = { ...queryOf(options), force: options.force ?? true };
    // JSON is YAML.
    const contentType = "application/apply-patch+yaml";
    return this.#send<T>({ method: "PATCH", path, query, body: intent, contentType }, options);
  }

  async #refOf(object: KubeObject): Promise<ObjectRef> {
    const { name, namespace } = object.metadata;
    return { kind: await this.#kindOf(object), namespace, name };
  }

  async #kindOf({ apiVersion, kind }: KubeObject): Promise<ResourceKind> {
    const found =
      findKnownKind(apiVersion, kind) ?? (await this.#listKinds(apiVersion)).find((asked) => asked.kind === kind);
    if (found === undefined) {
      const says = `the server has no ${kind} in ${apiVersion}: install its CustomResourceDefinition`;
      throw new KubeFailure({ code: "NotFound", says }, says);
    }
    return found;
  }

  #listKinds(apiVersion: string): Promise<readonly ResourceKind[]> {
    const path = apiVersion.includes("/") ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
    const known = this.#kinds.get(apiVersion);
    if (known !== undefined) {
      return known;
    }
    type Resources = { resources?: { name: string; kind: string; namespaced: boolean }[] };
    const asked = undefinedIfMissing(this.readPath<Resources>(path)).then((answer) =>
      (answer?.resources ?? [])
        .filter(({ name }) => !name.includes("/"))
        .map(({ name, kind, namespaced }) => ({ apiVersion, kind, plural: name, namespaced })),
    );
    this.#kinds.set(apiVersion, asked);
    const forget = (): void => {
      this.#kinds.delete(apiVersion);
    };
    asked.then((kinds) => {
      if (kinds.length === 0) {
        forget();
      }
    }, forget);
    return asked;
  }

  async #send<T>(request: Call, options: CallOptions): Promise<T> {
    const text = await this.#sendText(request, options);
    try {
      return (text === "" ? undefined : JSON.parse(text)) as T;
    } catch (cause) {
      throw badAnswer(`${request.method} ${request.path}`, "the answer is no JSON", cause);
    }
  }

  #sendText({ body, ...request }: Call, { signal, timeoutMs }: CallOptions): Promise<string> {
    return this.#connection.send({
      ...request,
      body: body === undefined ? undefined : JSON.stringify(body),
      timeoutMs: timeoutMs ?? callTimeoutMs,
      signal,
    });
  }
}

type Call = Omit<HttpRequest, "body" | "timeoutMs" | "signal"> & { readonly body?: object };

const queryOf = ({ dryRun, fieldManager }: WriteOptions): Record<string, string | undefined> => ({
  dryRun: dryRun === true ? "All" : undefined,
  fieldManager,
});

async function undefinedIfMissing<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (hasKubeCode(error, "NotFound")) {
      return undefined;
    }
    throw error;
  }
}

/** Items of a list do not say what they are. */
function withKind<T extends KubeObject>(item: T, { apiVersion, kind }: ResourceKind): T {
  return { ...item, apiVersion, kind };
}

const tags: Readonly<Record<string, "added" | "modified" | "deleted">> = {
  ADDED: "added",
  MODIFIED: "modified",
  DELETED: "deleted",
};

/** An ERROR is thrown as the answer it would have been. */
function parseEvent<T extends KubeObject>(line: string, kind: ResourceKind, path: string): WatchEvent<T> {
  const request = `GET ${path}?watch`;
  const { type, object } = parseLine(line, request);
  const tag = tags[type];
  if (tag !== undefined) {
    return { tag, object: withKind(object as T, kind) };
  }
  if (type === "BOOKMARK") {
    const { metadata } = object as { readonly metadata: ObjectMeta };
    return { tag: "bookmark", resourceVersion: metadata.resourceVersion ?? "" };
  }
  const { code = 500 } = object as { readonly code?: number };
  throw parseRefusal({ request, status: code, body: JSON.stringify(object) });
}

function parseLine(line: string, request: string): { readonly type: string; readonly object: object } {
  try {
    const { type, object } = JSON.parse(line) as { type?: unknown; object?: unknown };
    if (typeof type === "string" && typeof object === "object" && object !== null) {
      return { type, object };
    }
  } catch (cause) {
    throw badAnswer(request, "an event is no JSON", cause);
  }
  throw badAnswer(request, "an event has no type or no object");
}
