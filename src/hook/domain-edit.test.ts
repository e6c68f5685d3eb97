import { describe, expect, test } from "@jest/globals";
import { type DomainEditRequest, DomainFailure, planDomainEdit } from "./domain-edit.ts";
import { type DomainObstacle } from "./domain-obstacles.ts";

const QEMU = "http://libvirt.org/schemas/domain/qemu/1.0";
const request: DomainEditRequest = {
  guest: "web",
  node: "node-a",
  startedAs: "primary",
  shimPath: "/hooks/lib/shim.so",
};
const standby: DomainEditRequest = { ...request, startedAs: "standby" };
const domain = (content: string, devices = ""): string =>
  `<domain xmlns:qemu='${QEMU}'>${content}<devices>${devices}</devices></domain>`;
const edit = (xml: string, as: DomainEditRequest = request): string => planDomainEdit(xml, as);

describe("memory", () => {
  test.each([
    ["", "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"],
    ["<memoryBacking/>", "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"],
    [
      "<memoryBacking><locked/><source type='file'/><access mode='private'/></memoryBacking>",
      "<memoryBacking><locked/><source type='memfd'/><access mode='shared'/></memoryBacking>",
    ],
    [
      "<cpu><numa><cell id='0' memAccess='private'/><cell id='1'/></numa></cpu>",
      "<cell id='0' memAccess='shared'/><cell id='1' memAccess='shared'/>",
    ],
  ])("%s is made shared", (given, expected) => {
    expect(edit(domain(given))).toContain(expected);
  });

  test("free page reporting is switched off where it is on", () => {
    expect(edit(domain("", "<memballoon freePageReporting='on'/>"))).toContain("<memballoon freePageReporting='off'/>");
    expect(edit(domain("", "<memballoon model='none'/>"))).toContain("<memballoon model='none'/>");
  });
});

describe("network cards", () => {
  const nic = "<interface type='ethernet'><driver name='vhost' queues='4'/><link state='up'/></interface>";

  // KubeVirt sets the link's state by the VirtualMachineInstance whenever it finds another one.
  test("vhost is off, queues and the link's state stay, on either side", () => {
    const edited = "<interface type='ethernet'><driver name='qemu' queues='4'/><link state='up'/></interface>";
    expect(edit(domain("", nic))).toContain(edited);
    expect(edit(domain("", nic), standby)).toContain(edited);
    expect(edit(domain("", "<interface type='bridge'/>"), standby)).toContain(
      "<interface type='bridge'><driver name='qemu'/></interface>",
    );
  });
});

describe("disks", () => {
  test.each([
    [
      "<disk device='disk'><driver name='qemu' error_policy='report'/></disk>",
      "<driver name='qemu' error_policy='stop'/>",
    ],
    [
      "<disk><driver error_policy='enospace' rerror_policy='report'/></disk>",
      "<driver error_policy='stop' rerror_policy='stop'/>",
    ],
    ["<disk device='disk'><source/></disk>", "<driver error_policy='stop'/>"],
    ["<disk device='cdrom'><driver error_policy='report'/></disk>", "<driver error_policy='report'/>"],
  ])("%s: an error stops the guest instead of reaching it", (given, expected) => {
    expect(edit(domain("", given))).toContain(expected);
  });
});

describe("command line", () => {
  test("only the standby waits for a state", () => {
    const incoming = "<qemu:arg value='-incoming'/><qemu:arg value='defer'/>";
    expect(edit(domain(""))).not.toContain(incoming);
    expect(edit(domain(""), standby)).toContain(incoming);
  });

  test("what others gave QEMU stays, their preloaded libraries behind ours", () => {
    const arg = `<qemu:arg value="-fw_cfg"/>`;
    const given = `<qemu:commandline>${arg}<qemu:env name='LD_PRELOAD' value='/a.so /b.so'/></qemu:commandline>`;
    const edited = edit(domain(given));
    expect(edited).toContain(arg);
    expect(edited).toContain("<qemu:env name='LD_PRELOAD' value='/hooks/lib/shim.so:/a.so:/b.so'/>");
  });

  test.each([
    ["as Go's libvirtxml writes it", `<domain><commandline xmlns='${QEMU}'/></domain>`, "<arg value='-mon'/>"],
    ["with another prefix", `<domain xmlns:q='${QEMU}'><q:commandline/></domain>`, "<q:arg value='-mon'/>"],
    ["missing, with its namespace", "<domain/>", `<qemu:commandline xmlns:qemu='${QEMU}'>`],
    ["of another namespace", "<domain><commandline/></domain>", `<commandline/><memoryBacking>`],
  ])("the element %s", (_, given, expected) => {
    expect(edit(given)).toContain(expected);
    expect(edit(edit(given))).toBe(edit(given));
  });

  test("an earlier edit with other values is replaced, not doubled", () => {
    const earlier = edit(domain(""), { ...request, node: "node-b", shimPath: "/other.so" }).replace(
      "path=/var/run",
      "path=/elsewhere",
    );
    const edited = edit(earlier);
    expect(edited).toContain("value='node-a'");
    expect(edited.match(/id=twinrun,/g)).toHaveLength(1);
    expect(edited).not.toContain("/elsewhere");
  });
});

describe("refusals", () => {
  const disk = (attributes: string, content = ""): string =>
    `<disk ${attributes}>${content}<alias name='ua-data'/><target dev='vdb'/></disk>`;

  const overlay = (over: string): string => {
    const source = "<source file='/var/run/kubevirt-ephemeral-disks/disk-data/data/disk.qcow2'/>";
    const backing = `<backingStore type='file'><format type='raw'/><source file='${over}'/></backingStore>`;
    return disk("type='file'", `<driver type='qcow2'/>${source}${backing}`);
  };
  const ephemeral = overlay("/var/run/kubevirt-private/vmi-disks/data/disk.img");

  test.each<[xml: string, code: DomainObstacle["code"], says: string]>([
    [domain("<memoryBacking><hugepages/></memoryBacking>"), "HugePages", "remove memory.hugepages"],
    [domain("<launchSecurity type='sev'/>"), "MemoryEncrypted", "launchSecurity"],
    [domain("", "<interface type='vhostuser'/>"), "DeviceWritesMemoryFromOutside", "interface (vhostuser)"],
    [domain("", "<interface type='vdpa'/>"), "DeviceWritesMemoryFromOutside", "masquerade"],
    [domain("", "<interface type='hostdev'/>"), "DeviceIsOfTheHost", "interface is hardware"],
    [domain("", "<interface type='user'/>"), "OutputCannotBeHeld", "no tap"],
    [domain("", "<interface type='direct'/>"), "OutputCannotBeHeld", "no tap"],
    [domain("", "<filesystem type='mount'/>"), "DeviceWritesMemoryFromOutside", "virtiofsd"],
    [domain("", "<hostdev mode='subsystem'/>"), "DeviceIsOfTheHost", "remove it"],
    [domain("", "<vsock/>"), "DeviceWritesMemoryFromOutside", "vsock"],
    [domain("", "<shmem name='a'/>"), "DeviceWritesMemoryFromOutside", "shmem"],
    [domain("", "<tpm model='tpm-crb'/>"), "DeviceStateIsElsewhere", "remove the TPM"],
    [domain("", "<memory model='virtio-mem'/>"), "MemoryHotplug", "maxGuest"],
    [domain("", "<video><driver name='vhostuser'/></video>"), "DeviceWritesMemoryFromOutside", "video"],
    [domain("", disk("type='vhostuser'")), "DeviceWritesMemoryFromOutside", "disk data"],
    [domain("", disk("device='lun'")), "DeviceIsOfTheHost", "disk data"],
    [domain("", disk("", "<shareable/>")), "DiskIsShared", "disk data"],
    [domain("", disk("", "<driver type='qcow2'/>")), "DiskNotRaw", "disk data is qcow2"],
    [domain("", ephemeral), "DiskNotRaw", "disk data is qcow2"],
  ])("%s", (xml, code, says) => {
    expect(() => edit(xml)).toThrow(
      expect.objectContaining({
        detail: { code: "DomainNotProtectable", obstacles: [expect.objectContaining({ code })] },
      }),
    );
    expect(() => edit(xml)).toThrow(says);
  });

  test("everything that is in the way is told at once", () => {
    const xml = domain("<launchSecurity/>", "<vsock/><hostdev/>");
    expect(() => edit(xml)).toThrow(/launchSecurity.* · vsock.* · hostdev/);
    expect(() => edit(xml)).toThrow(DomainFailure);
  });

  test("read-only disks may be of any format", () => {
    const readonly = disk("", "<readonly/><driver type='qcow2'/>") + disk("device='cdrom'", "<driver type='qcow2'/>");
    expect(() => edit(domain("", readonly))).not.toThrow();
  });

  test("images that KubeVirt made in the pod are made raw later", () => {
    const empty = disk("", "<driver type='qcow2'/><source file='/var/run/libvirt/empty-disks/data.qcow2'/>");
    const container = overlay("/var/run/kubevirt/container-disks/disk_0.img");
    expect(() => edit(domain("", container + empty))).not.toThrow();
  });

  test("another document is no domain", () => {
    expect(() => edit("<network/>")).toThrow("a libvirt domain was expected");
  });
});
