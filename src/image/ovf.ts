/**
 * What an OVF descriptor (DSP0243) says of a machine: its disks, processors, memory and networks. The rest of it (products,
 * properties, start order, what VMware adds) has no meaning here and is passed over.
 */
import { parseXml, readXmlText, type XmlElement, XmlFailure } from "../lib/xml-document.ts";
import { ImageFailure } from "./image-failure.ts";
import { DISKS_MAX, OVF_BYTES_MAX, OVF_ELEMENTS_MAX, writeBytes } from "./image-limits.ts";

export type OvfMachine = {
  readonly name: string | undefined;
  readonly cores: number | undefined;
  readonly memoryBytes: number | undefined;
  readonly isEfi: boolean;
  /** What the OVF calls the networks its cards are on, in their order. */
  readonly networks: readonly string[];
  /** Files of the archive, in the order of the disks. */
  readonly disks: readonly { readonly file: string }[];
};

const RESOURCE = { processor: "3", memory: "4", ethernet: "10", disk: "17" } as const;

/** Throws an {@link ImageFailure} that names what is wrong. */
export function parseOvf(text: string): OvfMachine {
  if (text.length > OVF_BYTES_MAX) {
    throw new ImageFailure("TooLarge", `the OVF is longer than ${writeBytes(OVF_BYTES_MAX)}`);
  }
  const document: Document = { text, root: parse(text) };
  if (localName(document.root) !== "Envelope") {
    throw new ImageFailure("Damaged", `the OVF begins with <${document.root.name.slice(0, 40)}>, not with an Envelope`);
  }
  const machine = findMachine(document.root);
  const hardware = listLocal(machine, "VirtualHardwareSection");
  const items = hardware
    .slice(0, 1)
    .flatMap((section) => section.children.filter((each) => /Item$/.test(localName(each))));
  const ofType = (type: string): readonly XmlElement[] =>
    items.filter((item) => readChild(document, item, "ResourceType") === type);
  const [processor, memory] = [ofType(RESOURCE.processor)[0], ofType(RESOURCE.memory)[0]];
  return {
    name: listLocal(machine, "Name").map((each) => readContent(document, each))[0],
    cores: readCount(document, processor),
    memoryBytes: memory === undefined ? undefined : readMemory(document, memory),
    isEfi: hardware.some((section) => section.children.some(saysEfi)),
    networks: ofType(RESOURCE.ethernet).map((card) => readChild(document, card, "Connection") ?? ""),
    disks: listDisks(document, ofType(RESOURCE.disk)),
  };
}

type Document = { readonly text: string; readonly root: XmlElement };

function parse(text: string): XmlElement {
  if ((text.match(/<[^/!?]/g)?.length ?? 0) > OVF_ELEMENTS_MAX) {
    throw new ImageFailure("TooLarge", `the OVF has more than ${OVF_ELEMENTS_MAX} elements`);
  }
  try {
    return parseXml(text);
  } catch (cause) {
    if (cause instanceof XmlFailure) {
      throw new ImageFailure("Damaged", `the OVF is ${cause.message}`, { cause });
    }
    throw cause;
  }
}

function findMachine(envelope: XmlElement): XmlElement {
  const machines = listLocal(envelope, "VirtualSystem");
  const [machine] = machines;
  if (machine === undefined || machines.length > 1 || listLocal(envelope, "VirtualSystemCollection").length > 0) {
    const says = "the OVF describes several machines or none, and one is taken";
    throw new ImageFailure("FormatRefused", `${says}; export the one you want by itself`);
  }
  return machine;
}

function listDisks(document: Document, items: readonly XmlElement[]): OvfMachine["disks"] {
  if (items.length === 0 || items.length > DISKS_MAX) {
    throw new ImageFailure("FormatRefused", `the OVF's machine has ${items.length} disks; 1 to ${DISKS_MAX} are taken`);
  }
  return items.map((item) => ({ file: findFile(document, readChild(document, item, "HostResource") ?? "") }));
}

/** `ovf:/disk/ID` names a Disk, whose fileRef names a File, whose href is a file of the archive. */
function findFile({ root }: Document, resource: string): string {
  const [, kind = "", id = ""] = /^(?:ovf:)?\/(disk|file)\/(.{1,255})$/.exec(resource) ?? [];
  const fileId = kind === "disk" ? findFileOfDisk(root, id) : id;
  const file = findById(root, "References", "id", fileId);
  const href = readAny(file, "href");
  if (href === undefined) {
    throw new ImageFailure(
      "Damaged",
      `the OVF's machine has a disk ${JSON.stringify(resource.slice(0, 80))} without a file`,
    );
  }
  if (readAny(file, "compression") !== undefined || readAny(file, "chunkSize") !== undefined) {
    throw new ImageFailure("FormatRefused", `${href} is packed or in pieces; export it as a plain OVA`);
  }
  return href;
}

function findFileOfDisk(root: XmlElement, id: string): string {
  const disk = findById(root, "DiskSection", "diskId", id);
  if (readAny(disk, "parentRef") !== undefined) {
    throw new ImageFailure(
      "RefersToFiles",
      `disk ${id} of the OVF is a layer over another; consolidate its snapshots first`,
    );
  }
  return readAny(disk, "fileRef") ?? "";
}

function findById(root: XmlElement, section: string, attribute: string, id: string): XmlElement | undefined {
  return listLocal(root, section)
    .flatMap(({ children }) => children)
    .find((each) => readAny(each, attribute) === id);
}

function readCount(document: Document, item: XmlElement | undefined): number | undefined {
  const text = item === undefined ? undefined : readChild(document, item, "VirtualQuantity");
  return text !== undefined && /^[0-9]{1,15}$/.test(text) && Number(text) > 0 ? Number(text) : undefined;
}

/** `byte * 2^20` by DSP0004; older writers say MegaBytes. */
function readMemory(document: Document, item: XmlElement): number | undefined {
  const quantity = readCount(document, item);
  const unit = readChild(document, item, "AllocationUnits") ?? "byte * 2^20";
  const power = /^bytes?\s*\*\s*2\s*\^\s*([0-9]{1,2})$/i.exec(unit)?.[1];
  const named = { kilobytes: 10, kb: 10, megabytes: 20, mb: 20, gigabytes: 30, gb: 30 }[unit.toLowerCase()];
  const exponent = power === undefined ? named : Number(power);
  return quantity === undefined || exponent === undefined ? undefined : quantity * 2 ** exponent;
}

/** VMware's `<vmw:Config vmw:key="firmware" vmw:value="efi"/>`. */
const saysEfi = (element: XmlElement): boolean =>
  localName(element) === "Config" && readAny(element, "key") === "firmware" && readAny(element, "value") === "efi";

const localName = ({ name }: { readonly name: string }): string => name.replace(/^.*:/, "");

const listLocal = (element: XmlElement, name: string): readonly XmlElement[] =>
  element.children.filter((child) => localName(child) === name);

/** Whatever prefix the writer chose. */
const readAny = (element: XmlElement | undefined, name: string): string | undefined =>
  element?.attributes.find((attribute) => localName(attribute) === name)?.value;

function readChild(document: Document, element: XmlElement, name: string): string | undefined {
  const [child] = listLocal(element, name);
  return child === undefined ? undefined : readContent(document, child);
}

/** The text of an element without children. */
function readContent({ text }: Document, element: XmlElement): string | undefined {
  const content = readXmlText(text, element)?.trim();
  return content === "" ? undefined : content;
}
