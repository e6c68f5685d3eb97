/** The health that Argo CD shows of an object, by the Lua of config/argocd, in a Lua of this machine. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";

const { data } = parse(readFileSync(join(import.meta.dirname, "../../config/argocd/argocd-cm.yaml"), "utf8")) as {
  readonly data: Readonly<Record<string, string>>;
};

/** Argo CD's own is a 5.1. */
export const lua = [process.env["LUA"] ?? "", "lua5.1", "lua5.3", "lua5.4", "lua", "luajit"].find(
  (name) => name !== "" && spawnSync(name, ["-v"]).status === 0,
);

/** STATUS: MESSAGE. Throws what the script complains of. */
export function healthOf(kind: "ProtectedVM" | "GuestPair", object: object): string {
  const script = data[`resource.customizations.health.twinrun.dev_${kind}`] ?? "";
  const program = `local obj = ${encodeLua(object)}
    local health = (function() ${script} end)()
    io.write(health.status, ": ", health.message)`;
  const { status, stdout, stderr } = spawnSync(lua ?? "", ["-"], { input: program, encoding: "utf8" });
  if (status !== 0 || stderr !== "") {
    throw new Error(`the health script of ${kind} fails: ${stderr}`);
  }
  return stdout;
}

/** JSON as a Lua expression. */
function encodeLua(value: unknown): string {
  if (Array.isArray(value)) {
    return `{${value.map(encodeLua).join(",")}}`;
  }
  if (typeof value === "object" && value !== null) {
    const fields = Object.entries(value).filter(([, each]) => each !== undefined);
    return `{${fields.map(([key, each]) => `[${JSON.stringify(key)}]=${encodeLua(each)}`).join(",")}}`;
  }
  return value === null ? "nil" : JSON.stringify(value);
}
