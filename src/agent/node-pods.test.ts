import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { findPodOf, parsePodUid } from "./node-pods.ts";

const uid = "5a9fc181-957e-5c32-9e5a-2de5e9673531";
const slice = `kubepods-burstable-pod${uid.replaceAll("-", "_")}.slice`;

describe("the uid of the pod in a cgroup", () => {
  test.each([
    ["v2, systemd", `0::/kubepods.slice/kubepods-burstable.slice/${slice}/cri-containerd-0123abcd.scope\n`, uid],
    ["v2, systemd, CRI-O", `0::/kubepods.slice/${slice}/crio-0123abcd.scope/container\n`, uid],
    ["v2, cgroupfs", `0::/kubepods/besteffort/pod${uid}/0123abcd\n`, uid],
    ["v1, with a root of the node's own", `12:cpuset:/\n3:memory:/node-a/kubepods/pod${uid}/0123abcd\n`, uid],
    ["as another container sees it", `0::/../../pod${uid}/0123abcd\n`, uid],
    ["of what is in no pod", "0::/system.slice/containerd.service\n", undefined],
    ["of a pod of a file, which runs no guest", "0::/kubepods/pod0123456789abcdef0123456789abcdef/0123\n", undefined],
    ["of a user's own making", `0::/user.slice/pod${uid}x/y\n`, undefined],
  ])("%s", (_, text, found) => {
    expect(parsePodUid(text)).toBe(found);
  });
});

describe("the pod of a process", () => {
  const directory = mkdtempSync(join(tmpdir(), "twinrun-node-"));
  const roots = { proc: join(directory, "proc"), logs: join(directory, "logs") };
  const other = uid.replace("5a9fc181", "00000000");

  beforeAll(() => {
    const addProcess = (pid: number, cgroup: string): void => {
      mkdirSync(join(roots.proc, String(pid)), { recursive: true });
      writeFileSync(join(roots.proc, String(pid), "cgroup"), cgroup);
    };
    addProcess(1, "0::/init.scope\n");
    addProcess(2, `0::/kubepods.slice/${slice}/cri-containerd-0123.scope\n`);
    addProcess(3, `0::/kubepods/pod${other}/0123\n`);
    mkdirSync(join(roots.logs, `shop_virt-launcher-web-abcde_${uid}`), { recursive: true });
    mkdirSync(join(roots.logs, `kube-system_coredns-0_11111111-957e-5c32-9e5a-2de5e9673531`));
  });

  afterAll(() => {
    rmSync(directory, { recursive: true });
  });

  test.each([
    { pid: 1, pod: undefined },
    { pid: 2, pod: { namespace: "shop", name: "virt-launcher-web-abcde" } },
    // Kubelet knows of no such pod.
    { pid: 3, pod: undefined },
    // Gone.
    { pid: 4, pod: undefined },
  ])("$pid: $pod", ({ pid, pod }) => {
    expect(findPodOf(pid, roots.logs, roots.proc)).toEqual(pod);
  });

  test("is none of one that kubelet did not start, such as this one", () => {
    expect(findPodOf(process.pid, roots.logs)).toBeUndefined();
  });
});
