/** Who may import whom. A folder may use its own files and the folders listed; nothing else. */
const mayUse = {
  lib: [],
  api: ["lib"],
  protocol: ["lib"],
  decide: ["api", "protocol", "lib"],
  telemetry: ["lib"],
  kube: ["api", "lib", "telemetry"],
  qemu: ["lib", "telemetry"],
  memory: ["lib", "telemetry"],
  net: ["protocol", "lib", "telemetry"],
  engine: ["protocol", "qemu", "memory", "net", "lib", "telemetry"],
  // net: agents exchange heartbeats over the replication links, with the same TLS as engines, and ask for its certificates.
  agent: ["api", "protocol", "decide", "kube", "net", "lib", "telemetry"],
  // net: the operator issues the certificates for that TLS.
  operator: ["api", "decide", "kube", "net", "lib", "telemetry"],
  quorum: ["protocol", "decide", "net", "lib", "telemetry"],
  hook: ["api", "lib", "telemetry"],
  image: ["lib"],
  volume: ["protocol", "lib"],
  console: ["api", "kube", "lib", "telemetry"],
  // decide: doctor judges nodes as the operator does. protocol: import and export talk to the volume of a pod.
  cli: ["api", "decide", "image", "kube", "protocol", "volume", "lib", "telemetry"],
};
const pure = ["lib", "api", "protocol", "decide", "image"];
const test = "[.]test[.]ts$";

export default {
  forbidden: [
    { name: "no-cycles", severity: "error", from: { path: "^src/" }, to: { circular: true } },
    {
      name: "no-cycles-in-tests",
      comment: "Parts of a simulated world may know each other's types; at run time they load in order.",
      severity: "error",
      from: { path: "^test/" },
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
    {
      name: "no-orphans",
      comment: "Nothing uses it. (That a process or a test reaches every file is checked by test/tidy.test.ts.)",
      severity: "error",
      from: { orphan: true, path: "^src/", pathNot: `^src/(main|lib)/|${test}` },
      to: {},
    },
    {
      name: "pure-folders-do-no-io",
      comment: "api, protocol, decide, image and lib are pure: no Node modules, no packages except zod in api.",
      severity: "error",
      from: { path: `^src/(${pure.join("|")})/`, pathNot: test },
      to: { dependencyTypes: ["core", "npm"], pathNot: "node_modules/zod/" },
    },
    {
      name: "zod-only-at-the-border",
      comment: "What comes from outside is parsed in api; behind it types are enough.",
      severity: "error",
      from: { path: "^src/(protocol|decide|image|lib)/" },
      to: { path: "node_modules/zod/" },
    },
    {
      name: "ffi-only-in-memory",
      comment: "Foreign calls can corrupt a process without a word; they stay where their reviewers look.",
      severity: "error",
      from: { pathNot: "^src/memory/|^node_modules/" },
      to: { path: "node_modules/koffi/" },
    },
    {
      name: "only-declared-packages",
      comment: "A package must stand in package.json, and what src uses must not be a devDependency.",
      severity: "error",
      from: { path: "^src/", pathNot: test },
      to: { dependencyTypes: ["npm-dev", "npm-no-pkg", "npm-unknown"] },
    },
    {
      name: "resolvable",
      comment: "An import of a file or package that is not there.",
      severity: "error",
      from: {},
      to: { couldNotResolve: true },
    },
    {
      name: "nothing-imports-main",
      comment: "A file of main is one process: it wires parts and is started, never used.",
      severity: "error",
      from: { pathNot: "^src/main/" },
      to: { path: "^src/main/" },
    },
    {
      name: "tests-stay-out",
      comment: "src does not know its tests.",
      severity: "error",
      from: { path: "^src/", pathNot: test },
      to: { path: `^test/|${test}` },
    },
    ...Object.entries(mayUse).map(([folder, uses]) => ({
      name: `${folder}-uses-only-what-it-may`,
      severity: "error",
      from: { path: `^src/${folder}/`, pathNot: test },
      to: { path: "^src/", pathNot: `^src/(${[folder, ...uses].join("|")})/` },
    })),
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    doNotFollow: { path: "node_modules" },
  },
};
