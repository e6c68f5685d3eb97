/** An OVF descriptor (DSP0243 1.1) of one machine, as everybody reads it. */
import { escapeXml } from "../lib/xml-document.ts";

export type OvfWish = {
  readonly name: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly isEfi: boolean;
  readonly networks: readonly string[];
  readonly disks: readonly { readonly file: string; readonly fileBytes: number; readonly virtualBytes: number }[];
};

const VMDK_FORMAT = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
const MIB = 2 ** 20;

export function encodeOvf({ name, cores, memoryBytes, isEfi, networks, disks }: OvfWish): string {
  const text = (value: string): string => escapeXml(value);
  const memoryMib = Math.ceil(memoryBytes / MIB);
  const items = [
    encodeItem(3, `${cores} virtual CPU(s)`, `<rasd:VirtualQuantity>${cores}</rasd:VirtualQuantity>`),
    encodeItem(
      4,
      `${memoryMib} MiB of memory`,
      `<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>${memoryMib}</rasd:VirtualQuantity>`,
    ),
    encodeItem(20, "SATA controller", "<rasd:ResourceSubType>AHCI</rasd:ResourceSubType>"),
    ...disks.map((_, index) =>
      encodeItem(
        17,
        `disk ${index + 1}`,
        `<rasd:AddressOnParent>${index}</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/disk${index + 1}</rasd:HostResource>` +
          "<rasd:Parent>3</rasd:Parent>",
      ),
    ),
    ...networks.map((network, index) =>
      encodeItem(
        10,
        `network card ${index + 1}`,
        `<rasd:Connection>${text(network)}</rasd:Connection><rasd:ResourceSubType>E1000</rasd:ResourceSubType>`,
      ),
    ),
  ].map((encode, index) => encode(index + 1));
  const lines = [
    "<?xml version='1.0' encoding='UTF-8'?>",
    "<Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/1' xmlns:ovf='http://schemas.dmtf.org/ovf/envelope/1'" +
      " xmlns:rasd='http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData'" +
      " xmlns:vssd='http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData'" +
      " xmlns:vmw='http://www.vmware.com/schema/ovf'>",
    "<References>",
    ...disks.map(
      ({ file, fileBytes }, index) =>
        `<File ovf:id='file${index + 1}' ovf:href='${text(file)}' ovf:size='${fileBytes}'/>`,
    ),
    "</References>",
    "<DiskSection><Info>The disks</Info>",
    ...disks.map(
      ({ virtualBytes }, index) =>
        `<Disk ovf:diskId='disk${index + 1}' ovf:fileRef='file${index + 1}' ovf:capacity='${virtualBytes}' ovf:format='${VMDK_FORMAT}'/>`,
    ),
    "</DiskSection>",
    "<NetworkSection><Info>The networks</Info>",
    ...[...new Set(networks)].map((network) => `<Network ovf:name='${text(network)}'/>`),
    "</NetworkSection>",
    `<VirtualSystem ovf:id='${text(name)}'><Info>A virtual machine</Info><Name>${text(name)}</Name>`,
    "<OperatingSystemSection ovf:id='1'><Info>Not known</Info></OperatingSystemSection>",
    "<VirtualHardwareSection><Info>What it needs</Info>",
    ...items,
    ...(isEfi ? ["<vmw:Config ovf:required='false' vmw:key='firmware' vmw:value='efi'/>"] : []),
    "</VirtualHardwareSection></VirtualSystem></Envelope>",
  ];
  return `${lines.join("\n")}\n`;
}

/** Fields in the order of their names, as the schema wants them; `rest` has what is not common to all. */
function encodeItem(type: number, name: string, rest: string): (id: number) => string {
  const fields = (id: number): Readonly<Record<string, string>> => ({
    ElementName: `<rasd:ElementName>${name}</rasd:ElementName>`,
    InstanceID: `<rasd:InstanceID>${id}</rasd:InstanceID>`,
    ResourceType: `<rasd:ResourceType>${type}</rasd:ResourceType>`,
    ...Object.fromEntries(
      [...rest.matchAll(/<rasd:(\w+)>[^<]*<\/rasd:\w+>/g)].map(([whole, field]) => [field ?? "", whole]),
    ),
  });
  return (id) => {
    const all = fields(id);
    const names = Object.keys(all).toSorted();
    return `<Item>${names.map((field) => all[field] ?? "").join("")}</Item>`;
  };
}
