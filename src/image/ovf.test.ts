import { describe, expect, test } from "@jest/globals";
import { ImageFailure } from "./image-failure.ts";
import { encodeOvf } from "./ovf-writer.ts";
import { parseOvf } from "./ovf.ts";

/** As VMware writes it, shortened. */
const VMWARE = `<?xml version="1.0" encoding="UTF-8"?>
<Envelope vmw:buildId="build-1" xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References><File ovf:href="web-disk1.vmdk" ovf:id="file1" ovf:size="1000"/></References>
  <DiskSection><Info>Disks</Info>
    <Disk ovf:capacity="16" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="vmdisk1" ovf:fileRef="file1"/></DiskSection>
  <NetworkSection><Info>Networks</Info><Network ovf:name="VM &amp; Network"/></NetworkSection>
  <VirtualSystem ovf:id="web"><Info>A machine</Info><Name>Web Server 01</Name>
    <VirtualHardwareSection><Info>Hardware</Info>
      <Item><rasd:ElementName>4 CPUs</rasd:ElementName><rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>4</rasd:VirtualQuantity></Item>
      <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>2048</rasd:VirtualQuantity></Item>
      <Item><rasd:ResourceType>10</rasd:ResourceType><rasd:Connection>VM &amp; Network</rasd:Connection></Item>
      <Item><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource></Item>
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
    </VirtualHardwareSection></VirtualSystem></Envelope>`;

function findRefusal(text: string): string {
  try {
    parseOvf(text);
    return "taken";
  } catch (error) {
    if (error instanceof ImageFailure) {
      return `${error.detail.code}: ${error.message}`;
    }
    throw error;
  }
}

test("what VMware writes", () => {
  expect(parseOvf(VMWARE)).toEqual({
    name: "Web Server 01",
    cores: 4,
    memoryBytes: 2048 * 2 ** 20,
    isEfi: true,
    networks: ["VM & Network"],
    disks: [{ file: "web-disk1.vmdk" }],
  });
});

test("what is written here is read here", () => {
  const disks = ["a.vmdk", "b & c.vmdk"].map((file) => ({ file, fileBytes: 10, virtualBytes: 2 ** 30 }));
  const wish = { name: "web", cores: 3, memoryBytes: 2 ** 30, isEfi: false, networks: ["lan", "pod"], disks };
  expect(parseOvf(encodeOvf(wish))).toEqual({
    ...{ name: "web", cores: 3, memoryBytes: 2 ** 30, isEfi: false, networks: ["lan", "pod"] },
    disks: [{ file: "a.vmdk" }, { file: "b & c.vmdk" }],
  });
});

test("units of older writers, and none where they are not known", () => {
  const inUnits = (unit: string): number | undefined => parseOvf(VMWARE.replace("byte * 2^20", unit)).memoryBytes;
  expect(["MegaBytes", "byte * 2 ^ 30", "GB", "stone"].map(inUnits)).toEqual([2 ** 31, 2 ** 41, 2 ** 41, undefined]);
});

describe("refused", () => {
  test.each<{ what: string; text: string; says: RegExp }>([
    { what: "no XML", text: "Envelope", says: /^Damaged: the OVF is not well-formed XML/ },
    { what: "another document", text: "<domain/>", says: /^Damaged: the OVF begins with <domain>/ },
    {
      what: "entities",
      text: `<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>${VMWARE}`,
      says: /^Damaged: .*document type/,
    },
    { what: "a very long one", text: `${VMWARE}${" ".repeat(2 ** 21)}`, says: /^TooLarge/ },
    { what: "very many elements", text: `<Envelope>${"<a/>".repeat(20_000)}</Envelope>`, says: /^TooLarge/ },
    {
      what: "no machine",
      text: VMWARE.replaceAll("VirtualSystem", "Nothing"),
      says: /^FormatRefused: .*several machines or none/,
    },
    {
      what: "a collection",
      text: VMWARE.replaceAll("VirtualSystem", "VirtualSystemCollection"),
      says: /^FormatRefused/,
    },
    { what: "no disk", text: VMWARE.replace(">17<", ">18<"), says: /^FormatRefused: .*has 0 disks/ },
    {
      what: "a disk without a file",
      text: VMWARE.replace('fileRef="file1"', 'fileRef="file2"'),
      says: /^Damaged: .*without a file/,
    },
    {
      what: "a disk that is a layer",
      text: VMWARE.replace("ovf:fileRef", 'ovf:parentRef="base" ovf:fileRef'),
      says: /^RefersToFiles/,
    },
    {
      what: "a packed file",
      text: VMWARE.replace("ovf:size", 'ovf:compression="gzip" ovf:size'),
      says: /^FormatRefused: web-disk1.vmdk is packed/,
    },
  ])("$what", ({ text, says }) => {
    expect(findRefusal(text)).toMatch(says);
  });
});
