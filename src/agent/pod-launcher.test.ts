/** The launcher that only finds, against real QEMUs in pods of their own: which one is given, which one is killed, and when. */
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, jest, test } from "@jest/globals";
import { until } from "../../test/build/agent-host.ts";
import { buildAssignment } from "../../test/build/guest-assignment.ts";
import { LauncherPod, type PodOptions, QEMU_USER } from "../../test/build/launcher-pod.ts";
import { type GuestShape } from "../protocol/assignment.ts";
import { silentLog } from "../telemetry/log.ts";
import { type LaunchedGuest } from "./guest-launcher.ts";
import { PodLauncher } from "./pod-launcher.ts";

jest.setTimeout(60_000);

const disks = [{ id: "root", device: "ua-root" }];
/** Of this run alone: other tests look for their QEMUs in the same /proc. */
const guest = `web-${process.pid}`;
const web = buildAssignment({ guest, qemu: { tag: "pod", namespace: "shop" }, disks });
const QEMU_ARGS = ["-machine", "none", "-nodefaults", "-display", "none"];

let directory = "";
let launcher: PodLauncher;
const pods: LauncherPod[] = [];
const deaths: [string, number][] = [];
/** Processes in pods of another namespace. */
const strangers = new Set<number>();

function openLauncher(): PodLauncher {
  const opened = new PodLauncher({
    node: "node-a",
    runDirectory: directory,
    findPod: (pid) =>
      strangers.has(pid) ? { namespace: "elsewhere", name: "posing" } : { namespace: "shop", name: "v" },
    log: silentLog,
  });
  opened.onDied = (...death): void => {
    deaths.push(death);
  };
  return opened;
}

function startPod(shape: GuestShape, difference: Partial<PodOptions> = {}): LauncherPod {
  const root = join(directory, `pod-${pods.length}`);
  const pod = new LauncherPod({
    guest,
    node: "node-a",
    shape,
    root,
    qemuArgs: QEMU_ARGS,
    ...difference,
  });
  pods.push(pod);
  return pod;
}

type Wait = {
  readonly signal: AbortSignal;
  waitsCount: number;
  readonly onWaiting: () => void;
  cancel(): void;
};

function newWait(): Wait {
  const controller = new AbortController();
  const wait = {
    signal: controller.signal,
    waitsCount: 0,
    onWaiting: (): void => {
      wait.waitsCount += 1;
    },
    cancel: (): void => {
      controller.abort();
    },
  };
  return wait;
}

const start = (as: GuestShape, wait = newWait()): Promise<LaunchedGuest> => launcher.start(web, as, wait);

/** Lets the guest go, as a person with a monitor could. */
const applyCont = (pod: LauncherPod): Promise<void> => command(pod, "cont");

function command(pod: LauncherPod, name: "cont" | "stop"): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(pod.pathOf("run/kubevirt-private/twinrun.qmp"));
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.write(`{"execute":"qmp_capabilities"}\n{"execute":"${name}","id":1}\n`);
    });
    socket.on("data", (chunk) => {
      if (chunk.toString().includes('"id": 1')) {
        socket.end();
        resolve();
      }
    });
  });
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-pods-"));
  mkdirSync(join(directory, guest));
  launcher = openLauncher();
  deaths.length = 0;
  strangers.clear();
});
afterEach(async () => {
  launcher.close();
  await Promise.all(pods.splice(0).map((pod) => pod.end()));
  rmSync(directory, { recursive: true, force: true });
});

describe("an engine that asks for a QEMU", () => {
  test("gets the one that waits in a pod, with a directory that both may use", async () => {
    const pod = startPod("standby");
    const { found, qemu, disks: given } = await start("standby");
    expect(found).toMatchObject({
      pid: pod.pid,
      qmpPath: `/proc/${pod.pid}/root/run/kubevirt-private/twinrun.qmp`,
      qemuRoot: `/proc/${pod.pid}/root`,
      sharedDirectory: "/var/run/kubevirt-private/twinrun",
      startedAs: "standby",
    });
    expect([qemu, given]).toEqual([web.qemu, disks]);
    const { uid, gid, mode } = statSync(pod.pathOf("run/kubevirt-private/twinrun"));
    expect([uid, gid, mode & 0o777]).toEqual([QEMU_USER, QEMU_USER, 0o700]);
    expect(launcher.listGuests()).toEqual([]);
  });

  test("waits until there is a pod, for as long as it takes", async () => {
    const wait = newWait();
    const starting = start("primary", wait);
    await until("it waits", () => wait.waitsCount > 2 || undefined);
    const pod = startPod("primary");
    expect((await starting).found.pid).toBe(pod.pid);
  });

  test("waits for one in a pod of the guest's namespace: another one that calls itself so is left alone", async () => {
    const posing = startPod("primary");
    strangers.add(posing.pid);
    const wait = newWait();
    const starting = start("primary", wait);
    await until("it has looked often", () => wait.waitsCount > 5 || undefined);
    const pod = startPod("primary");
    expect((await starting).found.pid).toBe(pod.pid);
    expect(posing.isOver).toBe(false);
  });

  test("stops waiting when nobody wants it any more", async () => {
    const wait = newWait();
    const starting = start("primary", wait);
    await until("it waits", () => wait.waitsCount > 0 || undefined);
    wait.cancel();
    await expect(starting).rejects.toMatchObject({
      detail: { code: "StartCancelled" },
    });
  });

  test("never gets the wrong shape: that pod ends, and the next one may be right", async () => {
    const wrong = startPod("standby");
    const starting = start("primary");
    await until("the wrong one is gone", () => wrong.isOver || undefined);
    const right = startPod("primary");
    expect((await starting).found.pid).toBe(right.pid);
  });

  test("never gets the same one twice", async () => {
    const used = startPod("primary");
    await start("primary");
    const starting = start("primary");
    await until("the used one is gone", () => used.isOver || undefined);
    const next = startPod("primary");
    expect((await starting).found.pid).toBe(next.pid);
  });

  test("never gets a guest that has run already", async () => {
    const running = startPod("primary");
    await until("its monitor answers", () =>
      applyCont(running).then(
        () => true,
        () => undefined,
      ),
    );
    const starting = start("primary");
    await until("it is gone", () => running.isOver || undefined);
    startPod("primary");
    await starting;
  });

  test("gets nothing while libvirt is still at it", async () => {
    const wait = newWait();
    const pod = startPod("primary", {
      libvirtStatus: "<domstatus state='paused' reason='starting up' pid='7'>",
    });
    const starting = start("primary", wait);
    await until("it has looked often", () => wait.waitsCount > 5 || undefined);
    writeFileSync(pod.pathOf("run/libvirt/qemu/run/domain.xml"), "<domstatus state='paused' reason='user' pid='7'>");
    expect((await starting).found.pid).toBe(pod.pid);
  });

  test("gets its own, not another guest's, another node's, a local launcher's, nor a program that is no QEMU", async () => {
    const others = [
      startPod("standby", { guest: `${guest}2` }),
      startPod("standby", { node: "node-b" }),
      startPod("standby", {
        environment: { TWINRUN_RUN_DIRECTORY: "/run/other" },
      }),
      startPod("standby", { program: ["sleep", "60"] }),
    ];
    const wait = newWait();
    const starting = start("primary", wait);
    await until("it has looked often", () => wait.waitsCount > 5 || undefined);
    expect(others.map(({ isOver }) => isOver)).toEqual([false, false, false, false]);
    wait.cancel();
    await expect(starting).rejects.toThrow();
  });
});

describe("an agent that starts anew", () => {
  test("adopts the QEMU that an engine had, whatever became of it", async () => {
    startPod("standby");
    const before = await start("standby");
    launcher.close();
    launcher = openLauncher();
    expect(await launcher.adopt(web)).toEqual(before);
  });

  test("leaves one that no engine had for the next start", async () => {
    const pod = startPod("standby");
    await until("its monitor is there", () => {
      try {
        return statSync(pod.pathOf("run/kubevirt-private/twinrun.qmp"));
      } catch {
        return undefined;
      }
    });
    expect(await launcher.adopt(web)).toBeUndefined();
    expect((await start("standby")).found.pid).toBe(pod.pid);
  });

  test("adopts no guest that runs in a pod of somebody else's", async () => {
    const pod = startPod("primary");
    strangers.add(pod.pid);
    await until("its monitor answers", () =>
      applyCont(pod).then(
        () => true,
        () => undefined,
      ),
    );
    expect(await launcher.adopt(web)).toBeUndefined();
    expect(pod.isOver).toBe(false);
  });

  test.each(["runs", "was stopped for a checkpoint"])(
    "adopts a guest that %s, although nobody wrote down why, with the disks that it is to have",
    async (state) => {
      const pod = startPod("primary");
      await until("its monitor answers", () =>
        applyCont(pod).then(
          () => true,
          () => undefined,
        ),
      );
      if (state !== "runs") {
        await command(pod, "stop");
      }
      expect(await launcher.adopt(web)).toMatchObject({ found: { pid: pod.pid, startedAs: "primary" }, disks });
    },
  );
});

test("a QEMU that dies is told of once; one that was killed on demand is not", async () => {
  const pod = startPod("standby");
  await start("standby");
  await pod.end();
  await until("its death is told", () => deaths.length > 0 || undefined);
  const next = startPod("standby");
  await start("standby");
  await launcher.kill(guest);
  expect(next.isOver || (await until("it is over", () => next.isOver || undefined))).toBe(true);
  await sleep(600);
  expect(deaths).toEqual([[guest, pod.pid]]);
});

test("killing a guest leaves one alone that nobody was told of", async () => {
  const pod = startPod("standby");
  await launcher.kill(guest);
  expect((await start("standby")).found.pid).toBe(pod.pid);
});

test("a guest with QEMU arguments is refused", async () => {
  await expect(launcher.start(buildAssignment({ guest }), "primary", newWait())).rejects.toMatchObject({
    detail: { code: "WrongOrigin" },
  });
});
