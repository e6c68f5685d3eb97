/**
 * A protected guest and the client that watches it: four connections that are never made anew, and a count of every reply that
 * was lost, duplicated or reordered. What is done to the cluster is a fault; after each the guest must be protected again.
 */
import { expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { type ProtectedVm } from "../../src/api/protected-vm.ts";
import { assert } from "../../src/lib/assert.ts";
import { type Client, startClient } from "../lab/clients/client-process.ts";
import { type ConversationResult } from "../lab/clients/conversation.ts";
import { describeWith } from "../lab/kubernetes/describe-with.ts";
import { buildProtectedGuest, type GuestWish } from "./guest-manifests.ts";
import { type Platform } from "./platform.ts";

/** Jest's describe where there is all that a platform needs; else one that skips, and says what to do. */
export const describeOnCluster = (file: string): ReturnType<typeof describeWith> => describeWith(needed, file);

const needed = [
  ...(["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] as const),
  ...(["kubelet", "kube-proxy", "kubectl", "helm"] as const),
];

/** For one fault and all that comes of it. */
export const faultMsMax = 600_000;
/** For a platform: the first run builds images, later ones take a minute. */
export const setUpMsMax = 1_500_000;
/** Longer than anything that is survived. */
const STALL_MS = 180_000;
const CONNECT_TIMEOUT_MS = 150_000;
const REPLIES_ENOUGH = 100;
const CONNECTIONS = 4;

const startedAtMs = performance.now();

/** For people, with the time. */
export function say(line: string): void {
  process.stderr.write(`[${((performance.now() - startedAtMs) / 1000).toFixed(1).padStart(7)} s] ${line}\n`);
}

export type Scene = {
  readonly platform: Platform;
  readonly guest: string;
  readonly primary: string;
  readonly standby: string;
};

export type Fault = {
  readonly what: string;
  readonly strike: (scene: Scene) => Promise<void>;
  /** Which node runs the guest in the end. */
  readonly ends: "there" | "elsewhere" | "anywhere";
};

export class Witness {
  readonly #platform: Platform;
  readonly #guest: string;
  readonly #client: Client;

  private constructor(platform: Platform, guest: string, client: Client) {
    this.#platform = platform;
    this.#guest = guest;
    this.#client = client;
  }

  /** Resolves when the guest is protected and has answered a while. */
  static async start(platform: Platform, wish: GuestWish): Promise<Witness> {
    await platform.apply(buildProtectedGuest(wish));
    await platform.waitUntilReady(wish.name, faultMsMax / 2);
    return Witness.watch(platform, wish);
  }

  /** Of a guest that is there; resolves when it has answered a while. */
  static async watch(platform: Platform, wish: Pick<GuestWish, "name" | "address" | "disks">): Promise<Witness> {
    const client = startClient(platform.lab, "counted", {
      ...{ host: wish.address, connectionsCount: CONNECTIONS, thinkMs: 50, stallMs: STALL_MS },
      ...{ connectTimeoutMs: CONNECT_TIMEOUT_MS, disksCount: wish.disks === "pod" ? 2 : 1 },
    });
    const witness = new Witness(platform, wish.name, client);
    await witness.hear();
    return witness;
  }

  /** As it is when all is well. */
  async readScene(): Promise<Scene> {
    const { status } = await this.#platform.waitUntilReady(this.#guest, faultMsMax / 2);
    const [primary, standby] = [status?.primary?.node ?? "", status?.standby?.node ?? ""];
    return { platform: this.#platform, guest: this.#guest, primary, standby };
  }

  /** The fault, and what has to be so afterwards; the failure says what is not. */
  async endure({ what, strike, ends }: Fault): Promise<ProtectedVm> {
    const scene = await this.readScene();
    const { primary, standby } = scene;
    await strike(scene);
    say(`${what}: done to ${primary} (standby ${standby})`);
    // What is said right after a fault is what was before it.
    await sleep(2_000);
    const after = await this.#waitUntilWhole(
      ends === "anywhere" ? undefined : { there: primary, elsewhere: standby }[ends],
    );
    say(`${what}: protected again, on ${after.status?.primary?.node ?? "no node"}`);
    await this.hear();
    return after;
  }

  async #waitUntilWhole(primary: string | undefined): Promise<ProtectedVm> {
    const vm = await this.#platform.waitUntilReady(this.#guest, faultMsMax / 2);
    return primary === undefined
      ? vm
      : await this.#platform.waitForProtectedVm(this.#guest, ({ status }) => status?.primary?.node === primary);
  }

  /** The guest answers so many times more; the client's patience with a silent one is the limit. */
  async hear(count = REPLIES_ENOUGH): Promise<void> {
    const { repliesCount } = this.#client.progress;
    while (this.#client.progress.repliesCount < repliesCount + count) {
      assert(this.#client.progress.faultsCount === 0, "the client has seen no fault");
      await Promise.race([sleep(100), this.#client.result.then(() => assert(false, "the client has not ended"))]);
    }
  }

  get repliesCount(): number {
    return this.#client.progress.repliesCount;
  }

  async stop(): Promise<ConversationResult> {
    const result = await this.#client.stop();
    say(`${result.repliesCount} replies, longest wait ${result.longestGap?.ms ?? 0} ms`);
    return result;
  }

  /** The verdict on everything that was done before. */
  async expectNothingLost(): Promise<void> {
    expect(await this.stop()).toMatchObject({ faults: [], connectionsSurvived: CONNECTIONS });
  }
}

/** The witness is asked for when the test runs, for it begins in one. */
export function testNothingLost(witness: () => Witness): void {
  test(
    "in the end no reply was lost, duplicated or reordered, and no connection broke",
    async () => {
      await witness().expectNothingLost();
    },
    faultMsMax,
  );
}
