// @ts-check
/**
 * Looks up a generic netlink family by name and prints what the kernel says about it. Needs no privilege.
 *
 * `node examples/netlink-family.mjs [NAME]`; without a name: nbd. With EROFS_NBD_DEBUG=netlink the traffic is shown.
 */
import { GenericNetlink, NetlinkError } from "erofs-nbd/netlink";

const name = process.argv[2] ?? "nbd";
const netlink = new GenericNetlink();
try {
  const family = await netlink.family(name);
  process.stdout.write(`${family.name}: id ${family.id}, version ${family.version}\n`);
  for (const group of family.groups) process.stdout.write(`  group ${group.name}: id ${group.id}\n`);
} catch (error) {
  if (!(error instanceof NetlinkError)) throw error;
  process.stderr.write(`${error.message}\n${error.hint === undefined ? "" : `hint: ${error.hint}\n`}`);
  process.exitCode = 2;
} finally {
  await netlink.close();
}
