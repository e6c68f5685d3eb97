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
  agent: ["api", "protocol", "decide", "kube", "lib", "telemetry"],
  operator: ["api", "decide", "kube", "lib", "telemetry"],
  quorum: ["protocol", "decide", "net", "lib", "telemetry"],
  hook: ["api", "lib", "telemetry"],
  console: ["api", "kube", "lib", "telemetry"],
  cli: ["api", "kube", "lib", "telemetry"],
};
const pure = ["lib", "api", "protocol", "decide"];

export default {
  forbidden: [
    { name: "no-cycles", severity: "error", from: {}, to: { circular: true } },
    { name: "no-orphans", severity: "error", from: { orphan: true, path: "^src/", pathNot: "^src/(main|lib)/|[.]test[.]ts$" }, to: {} },
    { name: "pure-folders-do-no-io", comment: "api, protocol, decide and lib are pure: no Node modules, no packages except zod in api.", severity: "error",
      from: { path: `^src/(${pure.join("|")})/`, pathNot: "[.]test[.]ts$" }, to: { dependencyTypes: ["core", "npm"], pathNot: "node_modules/zod/" } },
    { name: "zod-only-at-the-border", severity: "error", from: { path: "^src/(protocol|decide|lib)/" }, to: { path: "node_modules/zod/" } },
    { name: "nothing-imports-main", severity: "error", from: { pathNot: "^src/main/" }, to: { path: "^src/main/" } },
    { name: "tests-stay-out", severity: "error", from: { path: "^src/", pathNot: "[.]test[.]ts$" }, to: { path: "^test/|[.]test[.]ts$" } },
    ...Object.entries(mayUse).map(([folder, uses]) => ({
      name: `${folder}-uses-only-what-it-may`, severity: "error",
      from: { path: `^src/${folder}/` },
      to: { path: "^src/", pathNot: `^src/(${[folder, ...uses].join("|")})/` },
    })),
  ],
  options: { tsPreCompilationDeps: true, tsConfig: { fileName: "tsconfig.json" }, doNotFollow: { path: "node_modules" } },
};
