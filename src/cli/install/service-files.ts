/**
 * The files of `install-units`: the units, and the configuration of the kernel module, the workers' user and the mount
 * helper.
 *
 * Pure: paths and contents; installation.ts writes them. Directives that need an explanation have it in the unit, where
 * administrators read it.
 */
import { ADMIN_UNIT_DIRECTORY, SERVICE, UNIT_DIRECTORY } from "../../control/reach/system-service.ts";
import { shellWord } from "../../text/shell-word.ts";

/** The paths of Node.js and the program, and the version of systemd. */
export interface Installation {
  /** Absolute. */
  readonly nodePath: string;
  /** The directory of main.cjs and mount-helper.cjs, absolute. */
  readonly programDirectory: string;
  /** As `systemctl --version` says; 0: not known. */
  readonly systemdVersion: number;
  readonly version: string;
}

/** One file; `path` is absolute within the system it is written for. */
export interface SystemFile {
  readonly path: string;
  readonly mode: number;
  readonly text: string;
  /** The path of former versions, also used if `path` is unsuitable. systemd gives it precedence over `path`. */
  readonly formerPath?: string;
}

/** Attaches an image at boot; the instance name is the escaped path. */
export const IMAGE_SERVICE = "erofs-nbd@.service";
export const SYSUSERS_FILE = "/etc/sysusers.d/erofs-nbd.conf";
export const MOUNT_HELPER = "/usr/sbin/mount.erofs.nbd";
/**
 * Marks files of install-units: only these are overwritten or removed. Former versions wrote it, too: do not change it.
 */
export const MARK = "Written by «erofs-nbd install-units»";
/** The first version with SurviveFinalKillSignal=; older ones would warn. */
const SURVIVES_FINAL_KILL = 255;

/** All of them. */
export function serviceFiles(installation: Installation): SystemFile[] {
  const { nodePath, programDirectory } = installation;
  const helper = `${programDirectory}/mount-helper.cjs`;
  const marked = (text: string): string => `${header(installation)}${text}`;
  const unit = (name: string, text: string): SystemFile => ({
    path: `${UNIT_DIRECTORY}/${name}`,
    mode: 0o644,
    text: marked(text),
    formerPath: `${ADMIN_UNIT_DIRECTORY}/${name}`,
  });
  return [
    unit(SERVICE, managerUnit(installation)),
    unit(IMAGE_SERVICE, imageUnit(installation)),
    { path: SYSUSERS_FILE, mode: 0o644, text: marked('u erofs-nbd - "Workers of erofs-nbd"\n') },
    { path: "/etc/modules-load.d/erofs-nbd.conf", mode: 0o644, text: marked("nbd\n") },
    { path: "/etc/modprobe.d/erofs-nbd.conf", mode: 0o644, text: marked(MODPROBE) },
    {
      path: MOUNT_HELPER,
      mode: 0o755,
      // A script instead of a link, because it names the Node.js to use: mount(8) runs helpers without PATH.
      text: `#!/bin/sh\n# ${MARK}\nexec ${shellWord(nodePath)} ${shellWord(helper)} "$@"\n`,
    },
  ];
}

function header({ version }: Installation): string {
  return `# ${MARK}, version ${version}; the next run overwrites it.\n`;
}

const MODPROBE = `# Do not scan for partition tables: images have none, and the scan takes time.
options nbd max_part=0
`;

function managerUnit({ nodePath, programDirectory, systemdVersion }: Installation): string {
  const program = `${unitWord(nodePath)} ${unitWord(`${programDirectory}/main.cjs`)}`;
  const survival =
    systemdVersion >= SURVIVES_FINAL_KILL
      ? `# Workers survive the final SIGKILL of a shutdown: file systems that are still mounted may read.
SurviveFinalKillSignal=yes
`
      : "";
  return `# Change it with: systemctl edit ${SERVICE}

[Unit]
Description=erofs-nbd: keeps EROFS images attached to /dev/nbdN readable
Documentation=man:erofs-nbd(8)
# Start as early as other storage services, before all mounts; at shutdown mounts are then unmounted first. systemd
# treats a mounted image as a local file system, with or without _netdev. If Node.js is on a separate file system,
# restarts wait for it.
DefaultDependencies=no
Conflicts=shutdown.target
Wants=modprobe@nbd.service local-fs-pre.target remote-fs-pre.target
After=modprobe@nbd.service systemd-modules-load.service systemd-sysusers.service
Before=local-fs-pre.target remote-fs-pre.target shutdown.target
# Reads may be waiting: never stop restarting.
StartLimitIntervalSec=0
${survival}
[Service]
Type=notify
ExecStart=${program} manager --take-over
ExecReload=${program} upgrade --workers-only
Restart=always
RestartSec=250ms
WatchdogSec=30s
TimeoutStartSec=3min
TimeoutStopSec=30s
TimeoutAbortSec=5s
# Log lines carry their priority. Lines without one are the last output of a crashed process:
# journalctl -p err shows them.
SyslogLevel=err

# Workers go on serving while the manager is restarted, and reconnect to the next one.
KillMode=process
RuntimeDirectory=erofs-nbd
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes

# Every process that reads from a device depends on these.
OOMPolicy=continue
OOMScoreAdjust=-900
LimitNOFILE=524288
LimitMEMLOCK=infinity
TasksMax=infinity
UMask=0077

# No mount namespace (ProtectSystem=, PrivateTmp=, PrivateDevices=, ...): workers would keep a copy of every mount,
# images in /tmp would not be found, and the mounts of a device could not be listed. No network namespace: the kernel
# sends nbd events to the initial one only. No MemoryDenyWriteExecute=: Node.js compiles to machine code.
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_CHOWN CAP_FOWNER CAP_KILL
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_SETPCAP
CapabilityBoundingSet=CAP_NET_ADMIN CAP_IPC_LOCK CAP_SYS_NICE CAP_SYS_RESOURCE CAP_LEASE
NoNewPrivileges=yes
DevicePolicy=closed
DeviceAllow=block-* rw
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
# Images are found again where a mount covers their path.
SystemCallFilter=open_by_handle_at
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target remote-fs.target
`;
}

/**
 * Arguments: image, record, and the command, to which the first identifier in the record is passed. `$$` is systemd's
 * escape.
 */
const STOP_SCRIPT =
  'id=$$(sed -n "/identifier/{s/.*: .//;s/.,//p;q}" "$$1"); shift; exec "$$@" "$${id:-$$0}"';

function imageUnit({ nodePath, programDirectory }: Installation): string {
  const program = `${unitWord(nodePath)} ${unitWord(`${programDirectory}/main.cjs`)}`;
  const record = "%t/erofs-nbd@%i/device";
  return `# Attaches an image without mounting it: erofs-nbd@$(systemd-escape --path /srv/a.erofs).service
# Set options of attach with systemctl edit: Environment=OPTIONS="--device 5".

[Unit]
Description=erofs-nbd: %f attached
Documentation=man:erofs-nbd(8)
# Not Requires=: a restart of the manager must not restart this unit.
Wants=${SERVICE}
After=${SERVICE}
RequiresMountsFor=%f

[Service]
Type=oneshot
RemainAfterExit=yes
Environment=OPTIONS=
# Remember which device was attached: the image may be attached more than once. Without the record it is detached by
# its path.
RuntimeDirectory=erofs-nbd@%i
RuntimeDirectoryMode=0700
ExecStart=/bin/sh -c 'exec "$$@" >"$$0"' ${record} ${program} attach --json $OPTIONS -- %f
ExecStop=/bin/sh -c '${STOP_SCRIPT}' %f ${record} ${program} detach --
# Exit code 3: not attached any more.
SuccessExitStatus=3
TimeoutStartSec=2min
KillMode=process

[Install]
WantedBy=multi-user.target
`;
}

/** A word of a unit's command line; systemd interprets quotes, % and $ (systemd.service(5)). */
export function unitWord(word: string): string {
  const escaped = word.replace(/[\\"]/g, "\\$&").replaceAll("%", "%%").replaceAll("$", "$$$$");
  return /^[\w@%+=:,./-]+$/.test(word) ? escaped : `"${escaped}"`;
}
