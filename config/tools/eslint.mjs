/** The rules of code (src/lib, api, protocol, decide and image are pure: no clock, no randomness, no waiting). */
import tseslint from "typescript-eslint";

const root = new URL("../..", import.meta.url).pathname;

export default tseslint.config(
  { ignores: ["**/node_modules/**", "build/**"] },
  {
    files: ["**/*.ts"],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: root } },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "@typescript-eslint/switch-exhaustiveness-check": [
        "error",
        { considerDefaultExhaustiveForUnions: false, requireDefaultForNonUnion: true },
      ],
      "@typescript-eslint/explicit-module-boundary-types": "error",
      "@typescript-eslint/consistent-type-imports": ["error", { fixStyle: "inline-type-imports" }],
      "@typescript-eslint/no-non-null-assertion": "error",
      "@typescript-eslint/strict-boolean-expressions": "error",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "no-console": "error",
      eqeqeq: "error",
      curly: ["error", "all"],
      complexity: ["error", 10],
      "max-depth": ["error", 3],
      "max-params": ["error", 4],
      "max-lines-per-function": ["error", { max: 70, skipComments: true, skipBlankLines: true }],
    },
  },
  {
    // A state reacts to a few of the many events or frames there are: naming all the others would hide the few.
    files: ["src/protocol/{side,primary,standby}.ts", "src/engine/**/*.ts"],
    rules: {
      "@typescript-eslint/switch-exhaustiveness-check": ["error", { considerDefaultExhaustiveForUnions: true }],
      complexity: ["error", 14],
    },
  },
  {
    files: ["src/{lib,api,protocol,decide,image}/**/*.ts"],
    ignores: ["**/*.test.ts"],
    rules: {
      "no-restricted-globals": [
        "error",
        ...["setTimeout", "setInterval", "setImmediate", "fetch", "process", "performance", "crypto", "Buffer"],
      ],
      "no-restricted-properties": [
        "error",
        { object: "Date", property: "now" },
        { object: "Math", property: "random" },
      ],
      "no-restricted-syntax": [
        "error",
        { selector: "NewExpression[callee.name='Date'][arguments.length=0]", message: "Take the time as an argument." },
        { selector: "AwaitExpression", message: "Pure folders do not wait." },
      ],
    },
  },
  {
    // A describe() is one long function, and a fake is async because what it stands for is.
    files: ["**/*.test.ts", "test/**/*.ts"],
    rules: {
      "max-lines-per-function": "off",
      complexity: ["error", { max: 15, variant: "modified" }],
      "max-depth": ["error", 4],
      "@typescript-eslint/switch-exhaustiveness-check": ["error", { considerDefaultExhaustiveForUnions: true }],
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreVoidReturningFunctions: true }],
      "@typescript-eslint/require-await": "off",
      "@typescript-eslint/unbound-method": "off",
      "@typescript-eslint/no-empty-function": "off",
    },
  },
  {
    // The model names every move there is in one place.
    files: ["test/model/**/*.ts"],
    rules: { complexity: ["error", 25], "max-lines-per-function": "off" },
  },
);
