/**
 * The edit of a libvirt domain that makes its guest one that can be protected; pure, and the same twice as once (KubeVirt
 * calls the hook again for a retry, on a domain that carries the edit already; QEMU dies of an id that is given twice).
 *
 * What is set, and for whom it is needed:
 *
 *   memoryBacking source memfd, access shared    guest memory that the engine can open and whose dirty pages it can track
 *   memAccess shared on every NUMA cell          a cell's own setting would win over the one above
 *   memballoon freePageReporting off             pages given back count as dirty, all the time
 *   interface driver qemu                        vhost would write memory, and send, past the shim; queues stay
 *   disk driver error_policy stop                an error stops the guest, which goes on where its disk works
 *   -chardev, -mon twinrun                       a second monitor, for the engine
 *   -global migration.send-configuration=off     the saved device state has no such section; both sides must agree
 *   -incoming defer, standby only                QEMU waits for the device state of a takeover
 *   LD_PRELOAD, TWINRUN_SHIM, TWINRUN_OUTPUT     the shim, with the output held until an engine says otherwise
 *   TWINRUN_GUEST, TWINRUN_NODE                  how the agent finds this QEMU
 *
 * TWINRUN_RUN_DIRECTORY is left out on purpose: by it a local launcher knows the QEMUs that it may kill.
 */
import { QMP_PATH_IN_POD, qemuEnvironment } from "../api/vmi-contract.ts";
import { Failure } from "../lib/failure.ts";
import { listDomainObstacles, type DomainObstacle } from "./domain-obstacles.ts";
import { type HookedVmi } from "./hooked-vmi.ts";
import {
  escapeXml,
  findChild,
  listChildren,
  parseXml,
  readAttribute,
  XmlEdits,
  type XmlElement,
} from "../lib/xml-document.ts";

export type DomainEditRequest = HookedVmi & {
  /** The shim as virt-launcher sees it. */
  readonly shimPath: string;
};

export type DomainFailureDetail =
  | { readonly code: "NoDomain"; readonly root: string }
  | { readonly code: "DomainNotProtectable"; readonly obstacles: readonly DomainObstacle[] };
export class DomainFailure extends Failure<DomainFailureDetail> {}

const QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0";

/** The domain for QEMU's start; throws a {@link DomainFailure} or an XmlFailure. */
export function planDomainEdit(xml: string, request: DomainEditRequest): string {
  const domain = parseXml(xml);
  if (domain.name !== "domain") {
    throw new DomainFailure(
      { code: "NoDomain", root: domain.name },
      `a libvirt domain was expected, not <${domain.name}>`,
    );
  }
  const obstacles = listDomainObstacles(domain);
  if (obstacles.length > 0) {
    const says = `this VM cannot be protected: ${obstacles.map(({ message }) => message).join(" · ")}`;
    throw new DomainFailure({ code: "DomainNotProtectable", obstacles }, says);
  }
  const edits = new XmlEdits(xml);
  editMemory(domain, edits);
  editDevices(domain, edits);
  editCommandLine(domain, request, edits);
  return edits.apply();
}

function editMemory(domain: XmlElement, edits: XmlEdits): void {
  const backing = findChild(domain, "memoryBacking");
  if (backing === undefined) {
    edits.append(domain, "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>");
  } else {
    setChild(backing, { name: "source", attribute: "type", value: "memfd" }, edits);
    setChild(backing, { name: "access", attribute: "mode", value: "shared" }, edits);
  }
  for (const cell of listChildren(findChild(findChild(domain, "cpu"), "numa"), "cell")) {
    edits.setAttribute(cell, "memAccess", "shared");
  }
}

function editDevices(domain: XmlElement, edits: XmlEdits): void {
  const devices = findChild(domain, "devices");
  for (const balloon of listChildren(devices, "memballoon")) {
    if (readAttribute(balloon, "freePageReporting") === "on") {
      edits.setAttribute(balloon, "freePageReporting", "off");
    }
  }
  for (const nic of listChildren(devices, "interface")) {
    setChild(nic, { name: "driver", attribute: "name", value: "qemu" }, edits);
  }
  for (const disk of listChildren(devices, "disk")) {
    if ((readAttribute(disk, "device") ?? "disk") === "disk") {
      setErrorPolicy(disk, edits);
    }
  }
}

/** Of writes and, unless something else is said, of reads. */
function setErrorPolicy(disk: XmlElement, edits: XmlEdits): void {
  const driver = findChild(disk, "driver");
  setChild(disk, { name: "driver", attribute: "error_policy", value: "stop" }, edits);
  if (driver !== undefined && readAttribute(driver, "rerror_policy") !== undefined) {
    edits.setAttribute(driver, "rerror_policy", "stop");
  }
}

function editCommandLine(domain: XmlElement, request: DomainEditRequest, edits: XmlEdits): void {
  const commandLine = new CommandLine(domain, edits);
  const chardev = `socket,id=twinrun,path=${QMP_PATH_IN_POD},server=on,wait=off`;
  commandLine.setArgument("-chardev", chardev, (value) => /^[^,]+,id=twinrun(,|$)/.test(value));
  commandLine.setArgument("-mon", "chardev=twinrun,mode=control");
  commandLine.setArgument("-global", "migration.send-configuration=off");
  if (request.startedAs === "standby") {
    commandLine.setArgument("-incoming", "defer");
  }
  commandLine.setVariable("LD_PRELOAD", joinPreload(request.shimPath, commandLine.readVariable("LD_PRELOAD")));
  commandLine.setVariable("TWINRUN_SHIM", "1");
  commandLine.setVariable("TWINRUN_OUTPUT", "held");
  commandLine.setVariable(qemuEnvironment.guest, request.guest);
  commandLine.setVariable(qemuEnvironment.node, request.node);
  commandLine.close();
}

/** Ours first: the first library that has a symbol is the one that is called. */
function joinPreload(shimPath: string, present = ""): string {
  return [shimPath, ...present.split(/[ :]+/).filter((path) => path !== "" && path !== shimPath)].join(":");
}

type ChildSetting = { readonly name: string; readonly attribute: string; readonly value: string };

function setChild(parent: XmlElement, { name, attribute, value }: ChildSetting, edits: XmlEdits): void {
  const child = findChild(parent, name);
  if (child === undefined) {
    edits.append(parent, `<${name} ${attribute}='${escapeXml(value)}'/>`);
  } else {
    edits.setAttribute(child, attribute, value);
  }
}

/**
 * libvirt's passthrough to QEMU's command line and environment. Its element is known by its namespace: KubeVirt writes
 * `qemu:commandline`, Go's libvirtxml (which KubeVirt uses where a Plugin is installed) `commandline` with an xmlns of its own.
 */
class CommandLine {
  readonly #domain: XmlElement;
  readonly #edits: XmlEdits;
  readonly #element: XmlElement | undefined;
  /** With its colon, or empty where the namespace is the default one. */
  readonly #prefix: string;
  readonly #fragments: string[] = [];

  constructor(domain: XmlElement, edits: XmlEdits) {
    this.#domain = domain;
    this.#edits = edits;
    this.#element = domain.children.find(
      (child) => localNameOf(child.name) === "commandline" && namespaceOf(child, domain) === QEMU_NAMESPACE,
    );
    this.#prefix = this.#element === undefined ? "qemu:" : prefixOf(this.#element.name);
  }

  /** `isSame` finds the value to be replaced, where it is not the same one. */
  setArgument(flag: string, value: string, isSame = (present: string): boolean => present === value): void {
    const args = listChildren(this.#element, `${this.#prefix}arg`);
    const found = args.find((arg, index) => {
      const before = args[index - 1];
      return readAttribute(before, "value") === flag && isSame(readAttribute(arg, "value") ?? "");
    });
    if (found === undefined) {
      this.#fragments.push(...[flag, value].map((text) => `<${this.#prefix}arg value='${escapeXml(text)}'/>`));
    } else {
      this.#edits.setAttribute(found, "value", value);
    }
  }

  readVariable(name: string): string | undefined {
    return readAttribute(this.#findVariable(name), "value");
  }

  setVariable(name: string, value: string): void {
    const found = this.#findVariable(name);
    if (found === undefined) {
      this.#fragments.push(`<${this.#prefix}env name='${name}' value='${escapeXml(value)}'/>`);
    } else {
      this.#edits.setAttribute(found, "value", value);
    }
  }

  close(): void {
    const { attributes } = this.#domain;
    if (this.#element !== undefined) {
      for (const fragment of this.#fragments) {
        this.#edits.append(this.#element, fragment);
      }
    } else {
      const isDeclared = attributes.some(({ name, value }) => name === "xmlns:qemu" && value === QEMU_NAMESPACE);
      const declaration = isDeclared ? "" : ` xmlns:qemu='${QEMU_NAMESPACE}'`;
      this.#edits.append(
        this.#domain,
        `<qemu:commandline${declaration}>${this.#fragments.join("")}</qemu:commandline>`,
      );
    }
  }

  #findVariable(name: string): XmlElement | undefined {
    return listChildren(this.#element, `${this.#prefix}env`).find((env) => readAttribute(env, "name") === name);
  }
}

const localNameOf = (name: string): string => name.slice(name.indexOf(":") + 1);
const prefixOf = (name: string): string => name.slice(0, name.indexOf(":") + 1);

function namespaceOf(child: XmlElement, domain: XmlElement): string | undefined {
  const prefix = prefixOf(child.name).slice(0, -1);
  const declaration = prefix === "" ? "xmlns" : `xmlns:${prefix}`;
  return readAttribute(child, declaration) ?? readAttribute(domain, declaration);
}
