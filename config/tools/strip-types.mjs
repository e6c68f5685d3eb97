/** The whole build step of a test: what Node itself does to a .ts file. */
import { stripTypeScriptTypes } from "node:module";

export default { process: (source) => ({ code: stripTypeScriptTypes(source) }) };
