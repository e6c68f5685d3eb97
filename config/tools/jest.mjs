/** Jest in ESM mode; tests and production strip types the same way. */
export default {
  rootDir: "../..",
  testEnvironment: "node",
  extensionsToTreatAsEsm: [".ts"],
  transform: { "[.]ts$": "<rootDir>/config/tools/strip-types.mjs" },
  testMatch: ["<rootDir>/src/**/*.test.ts", "<rootDir>/test/**/*.test.ts"],
  modulePathIgnorePatterns: ["<rootDir>/node_modules/"],
  watchman: false,
  // For a machine that has other things to do; what must be quick is measured by its own test.
  testTimeout: 60_000,
};
