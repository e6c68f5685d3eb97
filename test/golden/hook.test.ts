/**
 * The hook's edit of whole domains: hook/NAME.xml becomes hook/NAME.primary.xml and NAME.standby.xml. UPDATE=1 writes those anew;
 * the change is for a reviewer to see.
 *
 * kubevirt.xml is written as virt-launcher writes a domain (one line, as Go's encoder does it); libvirt.xml is what libvirt
 * itself printed of such a domain, with settings in it that the edit has to change rather than add.
 */
import { describe, expect, test } from "@jest/globals";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { VMI_SHAPES } from "../../src/api/vmi-contract.ts";
import { planDomainEdit } from "../../src/hook/domain-edit.ts";
import { locateShim } from "../../src/hook/shim-delivery.ts";

const folder = join(import.meta.dirname, "hook");

describe.each(["kubevirt", "libvirt"])("%s.xml", (name) => {
  const given = readFileSync(join(folder, `${name}.xml`), "utf8");

  test.each(VMI_SHAPES)("as a %s", (startedAs) => {
    const request = { guest: "web", node: "node-a", startedAs, shimPath: locateShim("hook-sidecar-0") };
    const edited = planDomainEdit(given, request);
    const path = join(folder, `${name}.${startedAs}.xml`);
    if (process.env["UPDATE"] === "1") {
      writeFileSync(path, edited);
    }
    expect(edited).toBe(readFileSync(path, "utf8"));
    expect(planDomainEdit(edited, request)).toBe(edited);
  });
});
