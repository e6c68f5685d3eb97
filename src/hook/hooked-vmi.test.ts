import { expect, test } from "@jest/globals";
import { aVmi } from "../../test/build/hooked-vmi.ts";
import { parseVmi } from "./hooked-vmi.ts";

test("guest, shape and node are read", () => {
  expect(parseVmi(aVmi())).toEqual({ guest: "web", node: "node-a", startedAs: "primary" });
  expect(parseVmi(aVmi({ startedAs: "standby" })).startedAs).toBe("standby");
});

test.each([
  ["no JSON", "{", "VmiMalformed", "no JSON"],
  ["no object", "null", "AnnotationInvalid", "it is missing"],
  ["no guest", aVmi({ guest: undefined }), "AnnotationInvalid", "twinrun.dev/guest must name the guest"],
  ["a guest that is a path", aVmi({ guest: "../web" }), "AnnotationInvalid", 'it is "../web"'],
  [
    "no shape",
    aVmi({ startedAs: undefined }),
    "AnnotationInvalid",
    "twinrun.dev/started-as must be primary or standby",
  ],
  [
    "a VMI that KubeVirt may resume",
    aVmi({ startStrategy: undefined }),
    "NotStartedPaused",
    "spec.startStrategy: Paused",
  ],
  ["no node", aVmi({ node: undefined }), "NodeUnknown", "status.nodeName"],
])("%s is refused", (_, json, code, says) => {
  expect(() => parseVmi(json)).toThrow(
    expect.objectContaining({ detail: expect.objectContaining({ code }) as object }),
  );
  expect(() => parseVmi(json)).toThrow(says);
});
