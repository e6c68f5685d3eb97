import { expect, test } from "@jest/globals";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseXml, type XmlElement } from "../../../../src/lib/xml-document.ts";
import { encodeDomain } from "./domain-xml.ts";
import { type Vmi } from "./vmi.ts";

/** What golden/hook/kubevirt.xml was made of, as far as the XML tells. */
const vmi: Vmi = {
  apiVersion: "kubevirt.io/v1",
  kind: "VirtualMachineInstance",
  metadata: { name: "web-a", namespace: "shop", uid: "8c1ad4a4-8e2a-4e2c-9d5e-0d6f0c7a2f11" },
  spec: {
    networks: [{ name: "default", pod: {} }],
    volumes: [
      { name: "rootdisk", persistentVolumeClaim: { claimName: "root" } },
      { name: "cloudinit", cloudInitNoCloud: { userData: "" } },
    ],
    domain: {
      memory: { guest: "128Mi" },
      cpu: { model: "qemu64" },
      firmware: { uuid: "5a9fc181-957e-5c32-9e5a-2de5e9673531" },
      devices: {
        disks: [
          { name: "rootdisk", disk: { bus: "virtio" } },
          { name: "cloudinit", cdrom: { bus: "sata" } },
        ],
        interfaces: [{ name: "default", masquerade: {}, macAddress: "02:54:00:00:00:01" }],
        rng: {},
      },
    },
  },
};

const kubevirts = parseXml(readFileSync(join(import.meta.dirname, "../../../golden/hook/kubevirt.xml"), "utf8"));

/** Every element by its path, with its attributes. */
function listElements({ name, children, attributes }: XmlElement, above = ""): string[] {
  const path = `${above}/${name}`;
  const given = attributes.map((attribute) => `${attribute.name}=${attribute.value}`).sort();
  return [`${path} ${given.join(" ")}`, ...children.flatMap((child) => listElements(child, path))];
}

test("every device is as KubeVirt's converter writes it", () => {
  const ours = new Set(listElements(parseXml(encodeDomain(vmi))));
  const theirs = listElements(kubevirts).filter((line) => line.startsWith("/domain/devices/"));
  expect(theirs.filter((line) => !ours.has(line))).toEqual(["/domain/devices/interface/mtu size=1450"]);
});
