import { describe, expect, test } from "@jest/globals";
import { resolveInRoot } from "./rooted-path.ts";

const root = "/proc/7/root";
const links: Readonly<Record<string, string>> = {
  "/var/run": "/run",
  "/var/lock": "../run/lock",
  "/disks/web": "/dev/../dev/vg/web",
  "/out": "../../../../etc",
  "/loop": "/loop",
};
const readLink = (path: string): string | undefined => {
  expect(path.startsWith(`${root}/`)).toBe(true);
  return links[path.slice(root.length)];
};

describe("a path of a process with another root", () => {
  test.each([
    { path: "/run/twinrun.qmp", leads: "/run/twinrun.qmp", why: "plain" },
    {
      path: "/var/run/twinrun.qmp",
      leads: "/run/twinrun.qmp",
      why: "an absolute link starts at that root",
    },
    {
      path: "/var/lock/a",
      leads: "/run/lock/a",
      why: "a relative link starts beside itself",
    },
    {
      path: "/disks/web",
      leads: "/dev/vg/web",
      why: "the link may be the last part",
    },
    {
      path: "/out/shadow",
      leads: "/etc/shadow",
      why: "no link leads out of the root",
    },
    { path: "/../../etc", leads: "/etc", why: "nor do dots" },
    { path: "/loop", leads: "/loop", why: "a link to itself ends" },
  ])("$path: $why", ({ path, leads }) => {
    expect(resolveInRoot(root, path, readLink)).toBe(`${root}${leads}`);
  });
});
