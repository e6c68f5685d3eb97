/**
 * Records in an etcd (3.4 or newer), one member or several, over its JSON gateway: no gRPC library, and any etcd has it.
 *
 * Key: PREFIX + guest, by default `/twinrun/quorum/`. Value: the record as JSON. Revision: the key's mod_revision, which etcd
 * never uses twice, so that a transaction "mod_revision is still R, then put" is the compare-and-set. Reads are linearizable
 * (etcd's default): an old leader cut off from the others answers none.
 *
 * A transaction may be sent again after a lost answer, to another member too: if the first one got through, the second's compare
 * fails and the value it shows is byte for byte ours (every record carries its request's id and version), which counts as
 * stored; if the first comes through after the second, its own compare fails. Only when the time is up with an answer missing
 * is the outcome unknown.
 *
 * etcd's users and passwords are not supported; protect it with client certificates of its own CA, and note that etcd
 * ignores a certificate's common name at this gateway, so a prefix cannot be reserved by role.
 */
import { readFileSync } from "node:fs";
import { Agent as HttpAgent, request as requestHttp } from "node:http";
import { Agent as HttpsAgent, request as requestHttps } from "node:https";
import { createSecureContext } from "node:tls";
import { parseQuorumRecord } from "../net/quorum-wire.ts";
import type { QuorumRecord } from "../protocol/quorum-record.ts";
import { firstWithin } from "../telemetry/sleep.ts";
import { StoreFailure, type RecordStore, type SetOutcome, type StoredRecord } from "./record-store.ts";

export type EtcdTls = {
  readonly caPath?: string | undefined;
  readonly certPath?: string | undefined;
  readonly keyPath?: string | undefined;
};

export type EtcdOptions = {
  /** `http://host:2379` or `https://…`, in order of preference; that which answered last is asked first, others when it is late. */
  readonly urls: readonly string[];
  readonly tls?: EtcdTls | undefined;
  readonly prefix?: string | undefined;
  /** For one try at one member. */
  readonly attemptTimeoutMs?: number | undefined;
  /** For the whole operation over all members. */
  readonly timeoutMs?: number | undefined;
};

type Attempt =
  | { readonly tag: "answered"; readonly body: unknown }
  | { readonly tag: "failed"; readonly maybeDone: boolean; readonly why: string };
type Arrival = { readonly member: number; readonly attempt: Attempt };
type KeyValue = { readonly value?: string; readonly mod_revision?: string };

const PREFIX = "/twinrun/quorum/";
const ATTEMPT_TIMEOUT_MS = 400;
/** Less than a node waits for an answer, so that it hears what is wrong. */
const TIMEOUT_MS = 900;
const PAUSE_MS = 20;
/** A healthy member answers within its disk's and the network's time; then the next is asked as well. */
const HEDGE_MS = 30;
const RELOAD_EVERY_MS = 60_000;
const WHYS_MAX = 4;
const ANSWER_BYTES_MAX = 1024 * 1024;
/** Refused before anything was proposed. */
const REFUSED_STATUS = new Set([400, 401, 403, 404, 405, 413, 415]);

export class EtcdStore implements RecordStore {
  readonly #urls: readonly URL[];
  readonly #prefix: string;
  readonly #attemptTimeoutMs: number;
  readonly #timeoutMs: number;
  readonly #http = new HttpAgent({ keepAlive: true, maxSockets: 64 });
  readonly #tls: EtcdTls;
  readonly #reloading: NodeJS.Timeout;
  #material: TlsMaterial;
  #https: HttpsAgent;
  #preferred = 0;

  constructor({ urls, tls, prefix, attemptTimeoutMs, timeoutMs }: EtcdOptions) {
    this.#urls = urls.map((url) => new URL(url));
    this.#prefix = prefix ?? PREFIX;
    this.#attemptTimeoutMs = attemptTimeoutMs ?? ATTEMPT_TIMEOUT_MS;
    this.#timeoutMs = timeoutMs ?? TIMEOUT_MS;
    this.#tls = tls ?? {};
    this.#material = readMaterial(this.#tls);
    this.#https = createHttpsAgent(this.#material);
    this.#reloading = setInterval(() => {
      this.#reload();
    }, RELOAD_EVERY_MS);
    this.#reloading.unref();
  }

  async read(guest: string): Promise<StoredRecord | undefined> {
    const attempt = await this.#ask("/v3/kv/range", { key: this.#key(guest) });
    if (attempt.tag === "failed") {
      throw unavailable(attempt.why);
    }
    return decodeKeyValues(guest, (attempt.body as { kvs?: unknown }).kvs);
  }

  async compareAndSet(guest: string, expectedRevision: string | undefined, record: QuorumRecord): Promise<SetOutcome> {
    const key = this.#key(guest);
    const value = encodeBase64(JSON.stringify(record));
    const attempt = await this.#ask("/v3/kv/txn", {
      compare: [{ key, target: "MOD", result: "EQUAL", mod_revision: expectedRevision ?? "0" }],
      success: [{ request_put: { key, value } }],
      failure: [{ request_range: { key } }],
    });
    if (attempt.tag === "failed") {
      if (attempt.maybeDone) {
        return { tag: "unknown", why: attempt.why };
      }
      throw unavailable(attempt.why);
    }
    return decodeTransaction(guest, value, attempt.body);
  }

  async remove(guest: string): Promise<void> {
    const attempt = await this.#ask("/v3/kv/deleterange", { key: this.#key(guest) });
    if (attempt.tag === "failed") {
      throw unavailable(attempt.why);
    }
  }

  close(): Promise<void> {
    clearInterval(this.#reloading);
    this.#http.destroy();
    this.#https.destroy();
    return Promise.resolve();
  }

  /** Certificates are replaced long before they end; what is under way goes on with the old one. */
  #reload(): void {
    try {
      const material = readMaterial(this.#tls);
      if (isSame(material, this.#material)) {
        return;
      }
      const [before, next] = [this.#https, createHttpsAgent(material)];
      this.#https = next;
      this.#material = material;
      for (const sockets of Object.values(before.freeSockets)) {
        sockets?.forEach((socket) => socket.destroy());
      }
    } catch {
      // Half replaced: the next time.
    }
  }

  #key(guest: string): string {
    return encodeBase64(this.#prefix + guest);
  }

  /**
   * Asks the members in turn until one answers or the time is up: the next as soon as one has failed, or has not answered for a
   * while. A member whose host has just lost power says nothing, and a takeover must not wait for the discovery of that.
   */
  async #ask(path: string, body: unknown): Promise<Attempt> {
    const deadlineMs = performance.now() + this.#timeoutMs;
    const isTimeLeft = (): boolean => performance.now() + PAUSE_MS < deadlineMs;
    const pending = new Map<number, Promise<Arrival>>();
    const whys = new Set<string>();
    let maybeDone = false;
    for (let next = this.#preferred; pending.size > 0 || isTimeLeft();) {
      if (!pending.has(next) && isTimeLeft()) {
        const timeoutMs = Math.min(this.#attemptTimeoutMs, deadlineMs - performance.now());
        pending.set(next, this.#tryMember(next, { path, text: JSON.stringify(body), timeoutMs }));
        next = (next + 1) % this.#urls.length;
      }
      const arrival = await firstWithin(HEDGE_MS, pending.values());
      if (arrival === undefined) {
        continue;
      }
      const { member, attempt } = arrival;
      pending.delete(member);
      if (attempt.tag === "answered") {
        this.#preferred = member;
        return attempt;
      }
      maybeDone ||= attempt.maybeDone;
      whys.add(attempt.why);
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
    return { tag: "failed", maybeDone, why: [...whys].slice(0, WHYS_MAX).join("; ") };
  }

  async #tryMember(
    member: number,
    call: { readonly path: string; readonly text: string; readonly timeoutMs: number },
  ): Promise<Arrival> {
    const attempt = await this.#try(new URL(call.path, this.#urls[member]), call.text, call.timeoutMs);
    return { member, attempt };
  }

  #try(url: URL, body: string, timeoutMs: number): Promise<Attempt> {
    return new Promise((resolve) => {
      let isSent = false;
      const fail = (why: string, maybeDone = isSent): void => {
        clearTimeout(timer);
        resolve({ tag: "failed", maybeDone, why: `etcd at ${url.host}: ${why}` });
        request.destroy();
      };
      const isHttps = url.protocol === "https:";
      const request = (isHttps ? requestHttps : requestHttp)(url, {
        method: "POST",
        agent: isHttps ? this.#https : this.#http,
        headers: { "content-type": "application/json", "content-length": Buffer.byteLength(body) },
      });
      const timer = setTimeout(() => {
        fail(`no answer within ${Math.round(timeoutMs)} ms`);
      }, timeoutMs);
      request.on("error", (error) => {
        fail(error.message);
      });
      request.on("response", (response) => {
        let text = "";
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => {
          text += chunk;
          if (text.length > ANSWER_BYTES_MAX) {
            fail("the answer is too long");
          }
        });
        response.on("error", (error) => {
          fail(error.message);
        });
        response.on("end", () => {
          clearTimeout(timer);
          resolve(decodeAnswer(url, response.statusCode ?? 0, text));
        });
      });
      // Sent means: may have reached the member. Before the socket is connected nothing can have.
      request.on("socket", (socket) => {
        const mark = (): void => {
          isSent = true;
        };
        if (socket.connecting) {
          socket.once(isHttps ? "secureConnect" : "connect", mark);
        } else {
          mark();
        }
      });
      request.end(body);
    });
  }
}

function decodeAnswer(url: URL, status: number, text: string): Attempt {
  if (status === 200) {
    try {
      return { tag: "answered", body: JSON.parse(text) };
    } catch {
      return { tag: "failed", maybeDone: true, why: `etcd at ${url.host}: the answer is no JSON` };
    }
  }
  const why = `etcd at ${url.host}: status ${status}, ${text.slice(0, 200)}`;
  return { tag: "failed", maybeDone: !REFUSED_STATUS.has(status), why };
}

function decodeTransaction(guest: string, value: string, body: unknown): SetOutcome {
  const answer = body as {
    readonly succeeded?: boolean;
    readonly header?: { readonly revision?: string };
    readonly responses?: readonly { readonly response_range?: { readonly kvs?: unknown } }[];
  };
  if (answer.succeeded === true && answer.header?.revision !== undefined) {
    return { tag: "stored", revision: answer.header.revision };
  }
  const kvs = answer.responses?.[0]?.response_range?.kvs;
  const current = decodeKeyValues(guest, kvs);
  const isOurs = current !== undefined && (kvs as readonly KeyValue[])[0]?.value === value;
  return isOurs ? { tag: "stored", revision: current.revision } : { tag: "conflict", current };
}

function decodeKeyValues(guest: string, kvs: unknown): StoredRecord | undefined {
  const [first] = Array.isArray(kvs) ? (kvs as readonly KeyValue[]) : [];
  if (first === undefined) {
    return undefined;
  }
  try {
    const { value = "", mod_revision: revision = "" } = first;
    if (!/^[1-9][0-9]*$/.test(revision)) {
      throw new Error("it has no mod_revision");
    }
    const record = parseQuorumRecord(JSON.parse(Buffer.from(value, "base64").toString("utf8")));
    return { record, revision };
  } catch (error) {
    const says = `the value of ${guest} in etcd is no quorum record (${String(error)}): find out which node runs the guest and remove the key`;
    throw new StoreFailure({ code: "RecordDamaged", where: guest }, says, { cause: error });
  }
}

type TlsMaterial = { readonly ca?: Buffer; readonly cert?: Buffer; readonly key?: Buffer };

function readMaterial({ caPath, certPath, keyPath }: EtcdTls): TlsMaterial {
  return defined({ ca: readPem(caPath), cert: readPem(certPath), key: readPem(keyPath) });
}

const isSame = (one: TlsMaterial, other: TlsMaterial): boolean =>
  (["ca", "cert", "key"] as const).every((part) => one[part]?.toString("hex") === other[part]?.toString("hex"));

/** Throws when certificate and key do not belong together. */
function createHttpsAgent(material: TlsMaterial): HttpsAgent {
  createSecureContext(material);
  return new HttpsAgent({ keepAlive: true, maxSockets: 64, minVersion: "TLSv1.2", ...material });
}

function readPem(path: string | undefined): Buffer | undefined {
  try {
    return path === undefined ? undefined : readFileSync(path);
  } catch (error) {
    throw new StoreFailure(
      { code: "StoreUnavailable", why: String(error) },
      `${path ?? ""} cannot be read (${String(error)}): give the etcd client's PEM files and make them readable by this user`,
      { cause: error },
    );
  }
}

function encodeBase64(text: string): string {
  return Buffer.from(text, "utf8").toString("base64");
}

function unavailable(why: string): StoreFailure {
  const says = `${why}; check that etcd has a leader, that its addresses are right and that it takes our certificate`;
  return new StoreFailure({ code: "StoreUnavailable", why }, says);
}

/** Without the members that are undefined. */
function defined<T extends Record<string, unknown>>(options: T): Partial<{ [K in keyof T]: Exclude<T[K], undefined> }> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<{
    [K in keyof T]: Exclude<T[K], undefined>;
  }>;
}
