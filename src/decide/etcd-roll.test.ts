import { describe, expect, test } from "@jest/globals";
import { chooseOutdatedMember, type EtcdMember, type EtcdPod, ETCD_SETTLE_MS } from "./etcd-roll.ts";

const nowMs = 100_000;
const fine: EtcdPod = { name: "", isOutdated: false, readySinceMs: 0 };
const old: EtcdPod = { ...fine, isOutdated: true };
const member = (index: number, pod: EtcdPod | undefined, isPending = false): EtcdMember => {
  const name = `twinrun-etcd-${index}`;
  return { name, isPending, pod: pod === undefined ? undefined : { ...pod, name: `${name}-0` } };
};
const choose = (...pods: (EtcdPod | undefined)[]): string | undefined =>
  chooseOutdatedMember(
    pods.map((pod, index) => member(index, pod)),
    nowMs,
  );

describe("members of etcd are replaced", () => {
  test("not at all while each is as it should be", () => {
    expect(choose(fine, fine, fine)).toBeUndefined();
  });

  test("one after the other", () => {
    expect(choose(old, old, old)).toBe("twinrun-etcd-0-0");
    expect(choose(fine, old, old)).toBe("twinrun-etcd-1-0");
    expect(choose(fine, fine, old)).toBe("twinrun-etcd-2-0");
  });

  test("only while the others are there, ready and settled", () => {
    expect(choose(undefined, old, old)).toBeUndefined();
    expect(choose({ ...fine, readySinceMs: undefined }, old, old)).toBeUndefined();
    expect(choose({ ...fine, readySinceMs: nowMs - ETCD_SETTLE_MS + 1 }, old, old)).toBeUndefined();
    expect(choose({ ...fine, readySinceMs: nowMs - ETCD_SETTLE_MS }, old, old)).toBe("twinrun-etcd-1-0");
  });

  test("first the one that is not ready anyway", () => {
    expect(choose(old, { ...old, readySinceMs: undefined }, fine)).toBe("twinrun-etcd-1-0");
    expect(choose({ ...old, readySinceMs: undefined }, { ...old, readySinceMs: undefined }, fine)).toBeUndefined();
  });

  test("not before it is known which are outdated", () => {
    expect(chooseOutdatedMember([member(0, old), member(1, fine, true), member(2, fine)], nowMs)).toBeUndefined();
  });
});
