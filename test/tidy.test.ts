/** The repository checks itself: names, widths, layout, and that nothing in it is dead or belongs to one machine only. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, posix } from "node:path";
import { describe, expect, test } from "@jest/globals";
import ts from "typescript";
import { parse } from "yaml";
import { parseAgentConfig } from "../src/api/agent-config.ts";
import { parseAssignments } from "../src/api/assignment-file.ts";

type SourceFile = { readonly path: string; readonly text: string };

const root = join(import.meta.dirname, "..");

/** What git tracks and what it would track: a new file is checked before it is committed. */
const paths = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: root })
  .toString()
  .split("\0")
  .filter((path) => path !== "" && existsSync(join(root, path)));

const read = (path: string): SourceFile => ({ path, text: readFileSync(join(root, path), "utf8") });
const isGenerated = (path: string): boolean => path === "package-lock.json" || path === "LICENSE";
const isBinary = ({ text }: SourceFile): boolean => text.includes("\0");
const texts = paths
  .filter((path) => !isGenerated(path))
  .map(read)
  .filter((file) => !isBinary(file));
const sources = texts.filter(({ path }) => path.endsWith(".ts"));
const markdown = texts.filter(({ path }) => path.endsWith(".md"));

/** `path:line` of every line that is wrong. */
function listLines(files: readonly SourceFile[], isWrong: (line: string) => boolean): string[] {
  return files.flatMap(({ path, text }) =>
    text.split("\n").flatMap((line, index) => (isWrong(line) ? [`${path}:${index + 1}: ${line.trim()}`] : [])),
  );
}

const expectNone = (found: readonly string[]): void => {
  expect(found.join("\n")).toBe("");
};

describe("names", () => {
  const banned = /^(handle|process|do|manage)(?![a-z])/;

  test("no function is called by a verb that says nothing", () => {
    expectNone(
      sources.flatMap((file) =>
        listFunctionNames(file)
          .filter((name) => banned.test(name))
          .map((name) => `${file.path}: ${name}`),
      ),
    );
  });

  test("the check above sees functions, methods, arrow functions and fields", () => {
    const text = `
      function handleIt() {}
      class A { processIt() {} #doIt() {} manageIt = () => {}; }
      const handleThat = () => 1, o = { doThat: async () => 1, process() {} };
      function handles() {} const document = () => 1; let processed = 1;`;
    expect(listFunctionNames({ path: "sample.ts", text }).filter((name) => banned.test(name))).toEqual([
      ...["handleIt", "processIt", "doIt", "manageIt", "handleThat", "doThat", "process"],
    ]);
  });

  test("files are named in kebab case after what is inside", () => {
    const shape = /^([a-z0-9]+(-[a-z0-9]+)*)([.](test|bench))?[.]ts$/;
    expectNone(sources.map(({ path }) => posix.basename(path)).filter((name) => !shape.test(name)));
  });

  test("no barrels and no folders for leftovers", () => {
    expectNone(paths.filter((path) => /(^|\/)index[.]ts$/.test(path)));
    expectNone(paths.filter((path) => /(^|\/)(utils?|helpers?|common|types|misc)\//.test(path)));
  });
});

describe("text", () => {
  test("no line is too wide", () => {
    const code = texts.filter(({ path }) => /[.](ts|mjs|js|sh|pl|c|h|json|yaml)$|^Makefile$/.test(path));
    // Prettier keeps code within 120. Comments may go a little further, and a message to people stays in one piece, so that
    // who reads it can find it.
    const isMessage = (line: string): boolean => /(["'`])(?:(?!\1).){50,}\1/.test(line);
    expectNone(listLines(code, (line) => line.length > 134 && !isMessage(line)));
    // A table's row or a link cannot be broken.
    expectNone(listLines(markdown, (line) => line.length > 134 && !/^\s*[|]|https?:/.test(line)));
  });

  test("what is left to do has the number of an issue", () => {
    const note = new RegExp(`\\b(${["TO" + "DO", "FIX" + "ME", "X" + "XX"].join("|")})\\b(?![(]#[0-9]+[)])`);
    expectNone(listLines(texts, (line) => note.test(line)));
  });

  test("a document has exactly one title, in its first line", () => {
    const withoutCode = (text: string): string => text.replaceAll(/^```.*?^```/gms, "");
    const titles = (text: string): number => withoutCode(text).match(/^# .+$/gm)?.length ?? 0;
    const untitled = markdown.filter(({ text }) => titles(text) !== 1 || !text.startsWith("# "));
    expectNone(untitled.map(({ path }) => path));
  });

  test("nothing names a place of one machine or a package registry", () => {
    const place = new RegExp(`(^|[\\s"'\`=:(])/(${["wo" + "rk", "ro" + "ot", "ho" + "me"].join("|")})/`);
    const hosts = ["registry[.]np" + "mjs", "deb[.]deb" + "ian[.]org", "py" + "pi[.]org", "proxy[.]gol" + "ang[.]org"];
    const lock = read("package-lock.json");
    expectNone(listLines(texts, (line) => place.test(line)));
    expectNone(listLines([...texts, lock], (line) => new RegExp(hosts.join("|")).test(line)));
    expectNone(listLines([lock], (line) => line.includes('"resolved"')));
  });
});

describe("README", () => {
  const readme = read("README.md").text;

  test("every target and path it names exists", () => {
    const targets = [...readme.matchAll(/(?:^|`)make ([a-z-]+)\b/gm)].map((match) => match[1] ?? "");
    const makefile = read("Makefile").text;
    expectNone(targets.filter((target) => !new RegExp(`^${target}:.*##`, "m").test(makefile)));
    const named = [...readme.matchAll(/\b((?:src|test|config|build)\/[\w./-]*\w)/g)].map((match) => match[1] ?? "");
    expectNone(named.filter((path) => !path.startsWith("build/") && !existsSync(join(root, path))));
  });

  test("the sample files are what the agent takes, and belong together", () => {
    const load = (name: string): unknown => parse(read(`config/samples/${name}`).text);
    const agent = parseAgentConfig(load("agent.yaml"), "agent.yaml");
    const [guest] = parseAssignments(load("assignments.yaml"), "assignments.yaml");
    expect(guest?.firstPrimary).toBe(agent.node);
    expect(guest?.qemu.args.join(" ")).toContain(guest?.disks[0]?.path);
  });
});

describe("layout", () => {
  test("the licence is there and package.json names it", () => {
    expect(read("LICENSE").text).toMatch(/Apache License\s+Version 2[.]0/);
    expect(JSON.parse(read("package.json").text)).toMatchObject({ license: "Apache-2.0" });
  });

  test("the top level holds what it is meant to hold", () => {
    const top = new Set(paths.map((path) => path.split("/")[0] ?? "").filter((name) => !name.startsWith(".")));
    const meant = ["LICENSE", "Makefile", "README.md", "charts", "config", "crds", "package-lock.json", "package.json"];
    expectNone([...top].filter((name) => ![...meant, "src", "test", "tsconfig.json"].includes(name)));
  });

  test("C is only in the preload shim", () => {
    const c = paths.filter((path) => /[.](c|cc|cpp|h|hpp|s)$/i.test(path));
    expectNone(c.filter((path) => !path.startsWith("src/memory/shim/")));
  });

  test("every file of src is part of a process or has a test", () => {
    const reached = reach(sources.filter(({ path }) => /^src\/main\/|^test\/|[.]test[.]ts$/.test(path)));
    expectNone(sources.map(({ path }) => path).filter((path) => !reached.has(path)));
  });

  test("every import of a file of ours names a file that exists", () => {
    const known = new Set(paths);
    expectNone(sources.flatMap((file) => listUses(file).filter((use) => !known.has(use))));
  });
});

function listFunctionNames({ path, text }: SourceFile): string[] {
  const names: string[] = [];
  const visit = (node: ts.Node): void => {
    const name = nameOfFunction(node);
    if (name !== undefined) {
      names.push(name.replace(/^#/, ""));
    }
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile(path, text, ts.ScriptTarget.Latest, false));
  return names;
}

function nameOfFunction(node: ts.Node): string | undefined {
  if (ts.isFunctionDeclaration(node) || ts.isMethodDeclaration(node) || ts.isMethodSignature(node)) {
    return node.name === undefined ? undefined : textOfName(node.name);
  }
  if (ts.isVariableDeclaration(node) || ts.isPropertyDeclaration(node) || ts.isPropertyAssignment(node)) {
    const { initializer: value, name } = node;
    const isFunction = value !== undefined && (ts.isArrowFunction(value) || ts.isFunctionExpression(value));
    return isFunction ? textOfName(name) : undefined;
  }
  return undefined;
}

function textOfName(name: ts.PropertyName | ts.BindingName): string | undefined {
  return ts.isIdentifier(name) || ts.isPrivateIdentifier(name) || ts.isStringLiteral(name) ? name.text : undefined;
}

/** Files of ours that `file` imports or starts as a process or worker. */
function listUses({ path, text }: SourceFile): string[] {
  const imports = ts.preProcessFile(text, true, true).importedFiles.map(({ fileName }) => fileName);
  const started = [...text.matchAll(/new URL\(\s*["'`]([^"'`/$]+[.]ts)["'`]/g)].map((match) => `./${match[1] ?? ""}`);
  const others = [...text.matchAll(/["'`]([.]{1,2}\/[^"'`]+[.]ts)["'`]/g)].map((match) => match[1] ?? "");
  return [...imports, ...started, ...others]
    .filter((name) => name.startsWith("."))
    .map((name) => posix.normalize(posix.join(dirname(path), name)));
}

function reach(from: readonly SourceFile[]): Set<string> {
  const byPath = new Map(sources.map((file) => [file.path, file]));
  const reached = new Set(from.map(({ path }) => path));
  const waiting = [...from];
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    for (const use of listUses(file)) {
      const next = byPath.get(use);
      if (next !== undefined && !reached.has(use)) {
        reached.add(use);
        waiting.push(next);
      }
    }
  }
  return reached;
}
