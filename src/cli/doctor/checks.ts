/**
 * The checks of `doctor`: what a machine needs to attach images. They change nothing, load nothing and take bounded
 * time.
 *
 * A separate process queries the netlink family (family-probe.ts): a hung driver would block the querying thread inside
 * the kernel, and that process could not exit.
 */
import { accessSync, constants, readFileSync, readlinkSync, statSync } from "node:fs";
import { release } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { ControlClient } from "../../control/client.ts";
import { hasRecords, type RunDir } from "../../control/run-dir.ts";
import type { ErofsNbdError } from "../../errors.ts";
import { driverState, NBD_REMEDY } from "../../kernel/modules.ts";
import { VERSION } from "../../version.ts";
import { probeFamily } from "./family-probe.ts";
import { koffiFault } from "./koffi-fault.ts";

/** `warn`: attaching works, with a limit. `fail`: it does not. */
export interface Check {
  readonly name: string;
  readonly state: "ok" | "warn" | "fail";
  readonly detail: string;
  /** The remedy; null if none is needed. */
  readonly hint: string | null;
}

type Verdict = Omit<Check, "name">;

const MANAGER_DEADLINE_MS = 3000;
const CAP_SYS_ADMIN = 21n;
/** Fixed inode numbers of the initial namespaces (include/uapi/linux/nsfs.h; proc_ns.h before). */
const INITIAL_USER_NS = "user:[4026531837]";
const INITIAL_PID_NS = "pid:[4026531836]";

const ok = (detail: string): Verdict => ({ state: "ok", detail, hint: null });
const warn = (detail: string, hint: string): Verdict => ({ state: "warn", detail, hint });
const fail = (detail: string, hint: string): Verdict => ({ state: "fail", detail, hint });

/** Runs every check; one that throws becomes a warning. */
export async function runChecks(runDir: RunDir): Promise<Check[]> {
  const checks: Array<[name: string, look: () => Verdict | Promise<Verdict>]> = [
    ["version", () => ok(`erofs-nbd ${VERSION}`)],
    ["node", checkNode],
    ["koffi", checkKoffi],
    ["kernel", checkKernel],
    ["permission", checkPermission],
    ["nbd driver", checkDriver],
    ["nbd partitions", checkPartitions],
    ["nbd netlink", checkNetlink],
    ["network namespace", checkNetworkNamespace],
    ["pid namespace", checkPidNamespace],
    ["hung tasks", () => checkHungTasks()],
    ["erofs", checkErofs],
    ["programs", checkPrograms],
    ["run directory", () => checkRunDir(runDir)],
    ["manager", () => checkManager(runDir)],
  ];
  return Promise.all(
    checks.map(async ([name, look]): Promise<Check> => {
      try {
        return { name, ...(await look()) };
      } catch (error) {
        return {
          name,
          ...warn(
            `cannot be checked: ${error instanceof Error ? error.message : String(error)}`,
            "run doctor as root",
          ),
        };
      }
    }),
  );
}

function checkNode(): Verdict {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return ok(`Node.js ${process.versions.node}`);
  return fail(`Node.js ${process.versions.node}`, "install Node.js 20.19 or newer");
}

async function checkKoffi(): Promise<Verdict> {
  const fault = await loadKoffi();
  return fault === undefined ? ok("its native part is installed") : fail(fault.message, fault.hint ?? "");
}

/** Why the native part of koffi cannot be loaded; undefined if it can. */
const loadKoffi = (): Promise<ErofsNbdError | undefined> =>
  import("../../sys/libc/bind.ts").then(
    () => undefined,
    (error: unknown) => {
      const fault = koffiFault(error);
      if (fault === undefined) throw error;
      return fault;
    },
  );

function checkKernel(): Verdict {
  const [major = 0, minor = 0] = release().split(/[.-]/).map(Number);
  if (major > 5 || (major === 5 && minor >= 14)) return ok(`Linux ${release()}`);
  return fail(`Linux ${release()}: its nbd driver takes no backend identifiers`, "use Linux 5.14 or newer");
}

function checkPermission(): Verdict {
  const status = readFileSync("/proc/self/status", "utf8");
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? "0"}`);
  if (process.geteuid?.() !== 0) return fail("not root", "run commands that attach with sudo");
  if (((effective >> CAP_SYS_ADMIN) & 1n) === 0n) {
    return fail("root without CAP_SYS_ADMIN", "give the container CAP_SYS_ADMIN, or run on the host");
  }
  if (readlinkSync("/proc/self/ns/user") !== INITIAL_USER_NS) {
    return fail(
      "root of another user namespace only",
      "the nbd driver requires CAP_SYS_ADMIN in the initial one: run on the host",
    );
  }
  return ok("root with CAP_SYS_ADMIN");
}

function checkDriver(): Verdict {
  const state = driverState("nbd");
  if (state === "module") return warn("not loaded, but the module is installed", NBD_REMEDY.module);
  return state === "missing" ? fail("missing from the kernel", NBD_REMEDY.missing) : ok(state);
}

function checkPartitions(): Verdict {
  const maxPart = readText("/sys/module/nbd/parameters/max_part")?.trim();
  if (maxPart === undefined) return ok("the driver is not loaded");
  if (maxPart === "0") return ok("max_part=0: no partition scans");
  return ok(`max_part=${maxPart}: the first open scans for partitions (max_part=0 avoids that)`);
}

async function checkNetlink(): Promise<Verdict> {
  if ((await loadKoffi()) !== undefined) return warn("unknown without koffi", "see koffi above");
  const answer = await probeFamily("nbd");
  switch (answer.state) {
    case "there":
      return ok(`family id ${answer.id}`);
    case "stuck":
      return fail(
        "the kernel does not answer",
        "an nbd command hangs in the driver: look for hung tasks in dmesg",
      );
    case "failed":
      return fail(answer.message, "generic netlink is needed; without it only --ioctl works");
    default:
      break;
  }
  const driver = driverState("nbd");
  if (driver === "module" || driver === "missing")
    return warn("unknown while the driver is not loaded", NBD_REMEDY[driver]);
  return fail(
    "the driver is loaded, but has no netlink family",
    "before Linux 6.4 only the initial network namespace sees it; otherwise only --ioctl works",
  );
}

/** `net.core.dev_weight` exists only in the initial network namespace (net/core/sysctl_net_core.c). */
function checkNetworkNamespace(): Verdict {
  if (exists("/proc/sys/net/core/dev_weight")) return ok("the initial one");
  return warn(
    "not the initial one: the kernel reports dead links only there",
    "dead links are still detected by other means; for all of them run the manager in the host's network namespace",
  );
}

function checkPidNamespace(): Verdict {
  if (readlinkSync("/proc/self/ns/pid") === INITIAL_PID_NS) return ok("the initial one");
  return warn(
    "not the initial one: pids in sysfs are those of the host",
    "run the manager in the host's pid namespace",
  );
}

/** `directory` is for tests. A task that waits for a read unkillably counts as hung (kernel/hung_task.c). */
export function checkHungTasks(directory = "/proc/sys/kernel"): Verdict {
  const setting = (name: string): number => Number(readText(join(directory, name)) ?? 0);
  const seconds = setting("hung_task_timeout_secs");
  if (setting("hung_task_panic") === 0 || seconds === 0) return ok("no panic");
  return warn(
    `hung_task_panic is set: a read that waits for a link for more than ${seconds} s panics the machine`,
    `sysctl kernel.hung_task_panic=0, or attach with a --dead-timeout below ${seconds}`,
  );
}

function checkErofs(): Verdict {
  if (/^(nodev)?\s*erofs$/m.test(readFileSync("/proc/filesystems", "utf8")))
    return ok("the kernel can mount it");
  if (driverState("erofs") === "module") return ok("not loaded; mount loads the module");
  return warn(
    "the kernel cannot mount it",
    "attach still works; install the kernel package with erofs.ko to mount",
  );
}

function checkPrograms(): Verdict {
  const places = (process.env["PATH"] ?? "").split(delimiter).filter((place) => place !== "");
  const missing = ["dd", "mount", "umount"].filter(
    (name) => !places.some((place) => isAccessible(join(place, name), constants.X_OK)),
  );
  if (missing.length === 0) return ok("dd, mount and umount found");
  return fail(
    `not in PATH: ${missing.join(", ")}`,
    "install coreutils (dd) and util-linux or mount (mount, umount)",
  );
}

function checkRunDir(runDir: RunDir): Verdict {
  const hint = "run as root, or name a writable directory with --run-dir";
  if (!exists(runDir.path)) {
    const parent = nearestParent(runDir.path);
    if (isAccessible(parent, constants.W_OK)) return ok(`${runDir.path}, created when needed`);
    return fail(`${runDir.path} cannot be created: ${parent} is not writable`, hint);
  }
  const found = statSync(runDir.path);
  if (!found.isDirectory()) return fail(`${runDir.path} is not a directory`, hint);
  if (found.uid !== process.geteuid?.()) return fail(`${runDir.path} belongs to user ${found.uid}`, hint);
  if (!isAccessible(runDir.path, constants.W_OK)) return fail(`${runDir.path} is not writable`, hint);
  return ok(runDir.path);
}

async function checkManager(runDir: RunDir): Promise<Verdict> {
  const client = await ControlClient.connect(runDir);
  if (client === undefined) {
    if (!hasRecords(runDir)) return ok("not running; the first attach starts it");
    return warn(
      "not running, but a former one has left devices",
      "run erofs-nbd status: it starts a manager that adopts them",
    );
  }
  let timer: NodeJS.Timeout | undefined;
  try {
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), MANAGER_DEADLINE_MS);
    });
    const hello = await Promise.race([client.request("hello", {}), late]);
    if (hello === undefined) return fail("it does not answer", `see its log, ${runDir.logFile}`);
    return ok(`version ${hello.version}, pid ${hello.pid}`);
  } finally {
    clearTimeout(timer);
    client.close();
  }
}

function nearestParent(path: string): string {
  const parent = dirname(path);
  return exists(parent) || parent === path ? parent : nearestParent(parent);
}

function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

function isAccessible(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // Missing and unreadable files are treated alike.
    return undefined;
  }
}
