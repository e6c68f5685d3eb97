/**
 * A guest of the lab and what it needs on each host: its taps, its disk there, its log there.
 *
 * The first host's disk holds the guest; the other's is empty and of the same size, because copying it over is the pair's own
 * work. Everything that must not differ between the sides (addresses, devices, their order) comes from one place, here.
 */
import { copyFileSync, mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { execFileSync, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import {
  defaultDiskBytes,
  defaultOptions,
  listGuestArguments,
  qemuBinary,
  type GuestImage,
  type GuestKind,
  type GuestOptions,
  type GuestSpec,
} from "./guests.ts";
import { guestAddress, guestMac, type HostName, type Lab } from "./hosts.ts";

export type PairHost = Extract<HostName, "a" | "b">;
export const pairHosts: readonly PairHost[] = ["a", "b"];
export const otherHost = (host: PairHost): PairHost => (host === "a" ? "b" : "a");

export type GuestRequest = {
  readonly name: string;
  readonly kind: GuestKind;
  readonly image: GuestImage;
  /** Distinguishes the guests of a lab: their addresses and taps come from it. From 0. */
  readonly index: number;
  readonly nicsCount?: number;
  readonly disksCount?: number;
  readonly options?: Partial<Omit<GuestOptions, "firmware">>;
  /** The firmware's code and the variables to start with; each host gets a copy of the variables. */
  readonly firmware?: { readonly code: string; readonly variables: string };
};

export type PlacedGuest = {
  readonly name: string;
  readonly kind: GuestKind;
  readonly index: number;
  readonly address: string;
  readonly specs: Readonly<Record<PairHost, GuestSpec>>;
};

/** Makes taps and disks of a guest on both hosts; `firstHost` gets the disk with the content. */
export function placeGuest(lab: Lab, request: GuestRequest, firstHost: PairHost): PlacedGuest {
  const specs = { a: specifyGuest(lab, request, "a"), b: specifyGuest(lab, request, "b") };
  for (const host of pairHosts) {
    for (const { tap } of specs[host].nics) {
      lab.createTap(host, tap);
    }
    makeDisks(specs[host], host === firstHost);
  }
  const { name, kind, index } = request;
  return { name, kind, index, address: guestAddress(index), specs };
}

function specifyGuest(lab: Lab, request: GuestRequest, host: PairHost): GuestSpec {
  const { name, kind, image, index, nicsCount = 1, disksCount = 1, options = {}, firmware } = request;
  const directory = join(lab.diskDirectory(host), name);
  mkdirSync(directory, { recursive: true });
  const variables = join(directory, "variables.fd");
  if (firmware !== undefined) {
    copyFileSync(firmware.variables, variables);
  }
  return {
    name,
    kind,
    image,
    nics: Array.from({ length: nicsCount }, (_, nic) => ({
      tap: `tap${index}n${nic}`,
      mac: guestMac(index, nic),
      address: nic === 0 ? guestAddress(index) : `10.77.0.${100 + 10 * nic + index}`,
    })),
    disks: Array.from({ length: disksCount }, (_, disk) => ({
      id: `disk${disk}`,
      path: join(directory, `disk${disk}.raw`),
      sizeBytes: defaultDiskBytes[disk === 0 ? kind : "busybox"],
    })),
    serialLog: join(lab.logDirectory, `${name}-${host}.serial`),
    options: {
      ...defaultOptions[kind],
      ...options,
      ...(firmware === undefined ? {} : { firmware: { code: firmware.code, variables } }),
    },
  };
}

function makeDisks({ disks, image }: GuestSpec, withContent: boolean): void {
  for (const [index, { path, sizeBytes }] of disks.entries()) {
    if (index === 0 && withContent && image.rootDisk !== undefined) {
      execFileSync("cp", ["--sparse=always", "--reflink=auto", image.rootDisk, path]);
    } else {
      writeFileSync(path, "", { flag: "w" });
    }
    truncateSync(path, sizeBytes);
  }
}

/** Runs the guest on a host without any protection: the baseline of every comparison. */
export function startUnprotected(lab: Lab, guest: PlacedGuest, host: PairHost): ChildProcess {
  return lab.spawn(host, [qemuBinary, ...listGuestArguments(guest.specs[host])], {
    stdio: ["ignore", "ignore", "inherit"],
  });
}
