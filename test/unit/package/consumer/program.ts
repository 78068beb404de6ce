/**
 * A program that uses the package as its users do. published.test.ts compiles it, against the tarball. It never runs.
 */
import {
  type AttachedDevice,
  type AttachOptions,
  attach,
  type CustomSource,
  ErofsNbdError,
  type ErrorCode,
  exitCodeOf,
  type FailoverOutcome,
  find,
  type Log,
  list,
  NbdManager,
  type OpenCustomSource,
  VERSION,
} from "erofs-nbd";
import { GenericNetlink, NbdNetlink, NetlinkError, traceSinkFromEnvironment } from "erofs-nbd/netlink";
import manifest from "erofs-nbd/package.json" with { type: "json" };

export const open: OpenCustomSource<{ readonly byte: number }> = ({ byte }): CustomSource => ({
  sizeBytes: 4096,
  identity: `filled with ${byte}`,
  read: (target) => {
    target.fill(byte);
  },
});

export async function useMachine(image: string, options: AttachOptions): Promise<string> {
  const device: AttachedDevice = (await find(image)) ?? (await attach(image, options));
  device.on("failover", ({ result, stallMs }: Omit<FailoverOutcome, "at">) => report(result, stallMs));
  device.once("detached", (reason) => report(reason));
  const { state, links } = await device.status();
  for (const one of await list({ runDir: "/run/program" })) report(one.device, one.sizeBytes);
  await device.detach();
  return `${state} ${links.length} ${VERSION} ${manifest.version}`;
}

export async function useManager(log: Log): Promise<number> {
  try {
    await using manager = new NbdManager({ runDir: "/run/program", log });
    manager.on("event", (event) => report(event));
    await manager.start();
    await manager.attach({ module: new URL("./program.js", import.meta.url), options: { byte: 1 } });
    return 0;
  } catch (error) {
    if (!(error instanceof ErofsNbdError)) throw error;
    const code: ErrorCode | string = error.code;
    report(code, error.hint);
    return exitCodeOf(error);
  }
}

export async function useNetlink(): Promise<string> {
  const netlink = new GenericNetlink({ trace: traceSinkFromEnvironment(process.env) });
  const nbd = new NbdNetlink();
  try {
    const [first] = await nbd.status();
    return `${first?.index} ${(await netlink.family("nbd")).id}`;
  } catch (error) {
    return error instanceof NetlinkError ? error.message : String(error);
  } finally {
    await Promise.all([nbd.close(), netlink.close()]);
  }
}

function report(...values: readonly unknown[]): void {
  process.stdout.write(`${values.join(" ")}\n`);
}
