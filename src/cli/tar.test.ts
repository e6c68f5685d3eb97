import { expect, test } from "@jest/globals";
import { spawnSync } from "node:child_process";
import { encodeTar } from "./tar.ts";

const deep = `bundle/${"folder/".repeat(20)}file-with-a-name.log`;
const files = [
  { path: "bundle/README.txt", content: "read me\n" },
  { path: "bundle/empty", content: "" },
  { path: "bundle/block", content: "x".repeat(512) },
  { path: "bundle/ünïcode.txt", content: "naïve ✓\n" },
  { path: deep, content: Buffer.from([0, 1, 2]) },
];

const tar = (...args: string[]) => spawnSync("tar", args, { input: encodeTar(files, 1_700_000_000_000) });

test("tar reads the names it was given", () => {
  const { stdout, stderr } = tar("--quoting-style=literal", "-tf", "-");
  expect({ names: stdout.toString().trimEnd().split("\n"), said: stderr.toString() }).toEqual({
    ...{ names: files.map(({ path }) => path), said: "" },
  });
});

test.each(files.map(({ path, content }) => ({ path, content })))(
  "tar reads the content of $path",
  ({ path, content }) => {
    expect(tar("-xOf", "-", path).stdout).toEqual(Buffer.from(content));
  },
);
