// @ts-check
/**
 * Loaded into a manager and its workers with NODE_OPTIONS=--import: images that kill or hold up whoever reads them.
 *
 * While IMAGE.kills exists a worker aborts whenever it is about to answer a read of IMAGE, and while IMAGE.loops exists it never
 * comes back from there: as with a bug in the reading of that image. Nothing else is changed, and nothing in other processes.
 */
import { existsSync, readlinkSync } from "node:fs";
import { register } from "node:module";
import { pathToFileURL } from "node:url";

const program = process.argv[1] ?? "";

if (program.endsWith("/worker/main.js")) {
  // Its looking around here takes the rights that a worker gives up, and without which it does not serve.
  const stub = "export const dropPrivileges = () => {}; export const refuseInspector = () => {};";
  const hooks = `export const load = async (url, context, next) => url.endsWith("/worker/privileges.js")
    ? { format: "module", shortCircuit: true, source: ${JSON.stringify(stub)} } : next(url, context);`;
  register(`data:text/javascript,${encodeURIComponent(hooks)}`);
  const { FileSource } = await import(new URL("../source/file-source.js", pathToFileURL(program)).href);
  const verify = FileSource.prototype.verify;
  FileSource.prototype.verify = function () {
    const image = readlinkSync(`/proc/self/fd/${this.extent(0).fd}`);
    if (existsSync(`${image}.kills`)) process.abort();
    if (existsSync(`${image}.loops`)) for (;;);
    return verify.call(this);
  };
}
