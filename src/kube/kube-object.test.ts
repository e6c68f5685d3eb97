import { expect, test } from "@jest/globals";
import { AssertionFailed } from "../lib/assert.ts";
import { keyOf, kindOf, ownerReferenceTo, parseKey, pathOfKind, pathOfObject } from "./kube-object.ts";

const pods = kindOf("v1", "Pod");
const nodes = kindOf("v1", "Node");
const leases = kindOf("coordination.k8s.io/v1", "Lease");

test("paths", () => {
  expect(pathOfKind(pods)).toBe("/api/v1/pods");
  expect(pathOfKind(leases, "a")).toBe("/apis/coordination.k8s.io/v1/namespaces/a/leases");
  expect(pathOfObject({ kind: nodes, name: "n" })).toBe("/api/v1/nodes/n");
  expect(pathOfObject({ kind: pods, namespace: "a", name: "p" }, "log")).toBe("/api/v1/namespaces/a/pods/p/log");
  expect(pathOfObject({ kind: pods, namespace: "a", name: "../x" })).toBe("/api/v1/namespaces/a/pods/..%2Fx");
});

test("a reference that would mean another object is a bug", () => {
  expect(() => pathOfObject({ kind: pods, name: "p" })).toThrow(AssertionFailed);
  expect(() => pathOfObject({ kind: nodes, namespace: "a", name: "n" })).toThrow(AssertionFailed);
  expect(() => pathOfObject({ kind: nodes, name: "" })).toThrow(AssertionFailed);
  expect(() => kindOf("v1", "Pods")).toThrow(AssertionFailed);
});

test.each([{ namespace: "a", name: "b" }, { name: "b" }])("the key of %j leads back to it", (named) => {
  expect(parseKey(keyOf(named))).toEqual(named);
});

test("an owner is named with its uid", () => {
  const owner = { apiVersion: "v1", kind: "Pod", metadata: { name: "p", uid: "u" } };
  expect(ownerReferenceTo(owner)).toEqual({
    ...{ apiVersion: "v1", kind: "Pod", name: "p", uid: "u" },
    ...{ controller: true, blockOwnerDeletion: true },
  });
  expect(() => ownerReferenceTo({ ...owner, metadata: { name: "p" } })).toThrow(AssertionFailed);
});
