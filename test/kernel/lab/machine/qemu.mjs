// @ts-check
/**
 * A distribution kernel on an emulated machine with several processors: QEMU without KVM, Debian's cloud kernel.
 *
 * kernels.mjs calls both halves. QEMU comes with all its libraries from one suite and runs on them alone, so it needs
 * neither root nor packages on the machine. The guest reaches the host's files through two virtiofsd processes: one
 * that can only read, for everything, and one for the shared directory. Nothing is installed.
 */
import { mkdirSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { LabError } from "../errors.mjs";
import { command, openSuite } from "../image/apt.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const FLAVOUR = "linux-image-cloud-amd64";
const PROGRAMS = { "usr/bin/qemu-system-x86_64": "qemu-system-x86_64", "usr/libexec/virtiofsd": "virtiofsd" };
const LIBRARIES = "usr/lib/x86_64-linux-gnu";

/**
 * Newer models take longer to emulate. QEMU's 16-byte compare-and-swap across processors has had faults, and the
 * kernel does without. With rdrand the kernel's random numbers are there at once.
 */
const CPU = "Nehalem,-cx16,+rdrand";

/**
 * QEMU does not see virtiofsd write into the guest's memory: code that it has translated from a page would outlive the
 * page's next content, and programs crash. A page that the kernel has to clear first is translated anew, hence
 * `init_on_alloc=1`. On a loaded machine emulated processors stand still now and then. That is no news: without
 * `tsc` and `workqueue` the kernel would log warnings about it, and tests fail on warnings.
 */
const EMULATION_PARAMETERS = [
  "console=ttyS0",
  "init_on_alloc=1",
  "mitigations=off",
  "tsc=reliable",
  "workqueue.cpu_intensive_thresh_us=0",
];

/**
 * Fills a cache entry: `vmlinuz`, `modules/VERSION/`, `version`, and QEMU in `bin/`, `lib/`, `share/`.
 * @param {string} draft the entry as long as it is being made
 * @param {{ series: string, suite: string }} kernel `series` as the version begins
 * @param {string} busyboxPath
 */
export async function fillQemu(draft, { series, suite: suiteName }, busyboxPath) {
  const suite = await openSuite(suiteName, draft);
  const image = await suite.dependency(FLAVOUR, /^linux-image-\d/);
  if (!image.startsWith(`linux-image-${series}.`)) {
    throw new LabError("ERR_LAB_PREPARE", `cannot get kernel ${series}: ${suiteName} now has ${image}`);
  }
  const unpacked = join(draft, "unpacked");
  mkdirSync(unpacked);
  await suite.download([image], unpacked);
  await suite.downloadWithDependencies(["qemu-system-x86", "virtiofsd"], unpacked);
  const version = image.slice("linux-image-".length);
  writeFileSync(join(draft, "version"), `${version}\n`);
  renameSync(join(unpacked, `boot/vmlinuz-${version}`), join(draft, "vmlinuz"));
  await keepModules(join(unpacked, "usr/lib/modules", version), draft, version, busyboxPath);
  for (const name of ["bin", "share"]) mkdirSync(join(draft, name));
  for (const [from, to] of Object.entries(PROGRAMS)) {
    renameSync(join(unpacked, from), join(draft, "bin", to));
  }
  renameSync(join(unpacked, LIBRARIES), join(draft, "lib"));
  for (const name of ["qemu", "seabios"])
    renameSync(join(unpacked, "usr/share", name), join(draft, "share", name));
}

/**
 * Unpacks the modules' compression once, instead of at each load in a slow guest, and indexes them.
 * @param {string} from
 * @param {string} draft
 * @param {string} version
 * @param {string} busyboxPath
 */
async function keepModules(from, draft, version, busyboxPath) {
  // depmod wants a directory lib/modules under its base.
  const base = join(draft, "unpacked/depmod");
  const directory = join(base, "lib/modules", version);
  mkdirSync(dirname(directory), { recursive: true });
  renameSync(from, directory);
  const packed = readdirSync(directory, { recursive: true, encoding: "utf8" }).filter((path) =>
    path.endsWith(".ko.xz"),
  );
  if (packed.length > 0) await command("unpack modules", busyboxPath, ["unxz", ...packed], directory);
  await command("index modules", busyboxPath, ["depmod", "-b", base, version], draft);
  mkdirSync(join(draft, "modules"));
  renameSync(directory, join(draft, "modules", version));
}

/**
 * The command that starts the machine. All paths in `scratch` are relative, for socket addresses are short.
 * @param {import("../image/kernels.mjs").PreparedKernel} kernel
 * @param {import("./kernel-process.mjs").Place} place
 * @returns {import("./kernel-process.mjs").Launch}
 */
export function qemuLaunch(kernel, place) {
  const at = (/** @type {string} */ path) => join(kernel.directory, path);
  const parameters = [
    ...EMULATION_PARAMETERS,
    ...kernel.parameters,
    `lab_share=${place.share}`,
    "lab_files=virtiofs",
  ];
  const machine = [
    ["-nodefaults", "-no-user-config", "-no-reboot"],
    ["-L", at("share/qemu"), "-L", at("share/seabios")],
    ["-display", "none", "-monitor", "none", "-serial", "stdio"],
    ["-machine", "q35,memory-backend=memory,hpet=off"],
    // virtiofsd reads and writes the guest's memory, so that it must be shared.
    ["-object", `memory-backend-memfd,id=memory,size=${place.memoryMiB}M,share=on`],
    ["-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", String(kernel.processors)],
    ...["host", "share"].map((tag) => [
      "-chardev",
      `socket,id=${tag},path=${tag}.socket`,
      "-device",
      `vhost-user-fs-pci,chardev=${tag},tag=${tag}`,
    ]),
    ["-kernel", at("vmlinuz"), "-initrd", kernel.initramfsPath, "-append", parameters.join(" ")],
  ];
  return {
    file: "/bin/sh",
    args: [join(HERE, "qemu-machine.sh"), kernel.directory, place.share, ...machine.flat()],
    environment: { TMPDIR: place.scratch },
  };
}
