/**
 * What `install-units` writes: the units, and the files by which the kernel module, the workers' user and mount(8)'s
 * helper are found. Pure: paths and texts for an installation; installation.ts writes them.
 *
 * Each directive that is not plain has its reason beside it, in the unit: that is where administrators look.
 */
import { ADMIN_UNIT_DIRECTORY, SERVICE, UNIT_DIRECTORY } from "../../control/system-service.ts";

/** Where Node and the program are, and what the service manager understands. */
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
  /** Where former versions wrote it, and where it goes if `path` is no place for it. What is there counts more. */
  readonly formerPath?: string;
}

/** An image attached at boot; its instances are named by the escaped path. */
export const IMAGE_SERVICE = "erofs-nbd@.service";
export const SYSUSERS_FILE = "/etc/sysusers.d/erofs-nbd.conf";
export const MOUNT_HELPER = "/usr/sbin/mount.erofs.nbd";
/** The text that says a file is ours: only such a file is written over, or removed. */
export const MARK = "Written by «erofs-nbd install-units»";
/** SurviveFinalKillSignal= came with it; older ones would warn. */
const SURVIVES_FINAL_KILL = 255;

/** All of them. */
export function serviceFiles(installation: Installation): SystemFile[] {
  const { nodePath, programDirectory } = installation;
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
      // No link: it names the Node that was chosen, and mount(8) gives no PATH by which another could be found.
      text: `#!/bin/sh\n# ${MARK}\nexec ${shellWord(nodePath)} ${shellWord(`${programDirectory}/mount-helper.cjs`)} "$@"\n`,
    },
  ];
}

function header({ version }: Installation): string {
  return `# ${MARK}, version ${version}; the next run writes it anew.\n`;
}

const MODPROBE = `# Opening a device reads no partition table: images have none, and reading it costs time.
options nbd max_part=0
`;

function managerUnit({ nodePath, programDirectory, systemdVersion }: Installation): string {
  const program = `${unitWord(nodePath)} ${unitWord(`${programDirectory}/main.cjs`)}`;
  const survival =
    systemdVersion >= SURVIVES_FINAL_KILL
      ? "# Workers outlive the last SIGKILL of a shutdown: something that could not be unmounted may still read.\nSurviveFinalKillSignal=yes\n"
      : "";
  return `# Change it with «systemctl edit ${SERVICE}».

[Unit]
Description=erofs-nbd: keeps EROFS images attached to /dev/nbdN readable
Documentation=man:erofs-nbd(8)
# As early as storage goes, and mounts of any kind come after it: at a shutdown they go before it. For systemd a mounted image
# is a local file system, with _netdev or without. Where Node is on a file system of its own, the restarts wait for that.
DefaultDependencies=no
Conflicts=shutdown.target
Wants=modprobe@nbd.service local-fs-pre.target remote-fs-pre.target
After=modprobe@nbd.service systemd-modules-load.service systemd-sysusers.service
Before=local-fs-pre.target remote-fs-pre.target shutdown.target
# Somebody may be waiting for a read: never give up.
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
# Every line of the log says its own priority. What comes without one are the last words of a process that died, and for
# «journalctl -p err» to show.
SyslogLevel=err

# Workers serve on while the manager is restarted, and the next one meets them again.
KillMode=process
RuntimeDirectory=erofs-nbd
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes

# Every process that reads from a device waits for these.
OOMPolicy=continue
OOMScoreAdjust=-900
LimitNOFILE=524288
LimitMEMLOCK=infinity
TasksMax=infinity
UMask=0077

# No mount namespace (ProtectSystem=, PrivateTmp=, PrivateDevices= …): workers would keep a copy of every mount in the one they
# were started in, images in /tmp could not be found, and which mounts a device has could not be told. No network namespace:
# the kernel's nbd events reach the first one alone. No MemoryDenyWriteExecute=: Node compiles to machine code.
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_CHOWN CAP_FOWNER CAP_KILL CAP_SETUID CAP_SETGID CAP_SETPCAP
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
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target remote-fs.target
`;
}

/** Image, record, then the command to which the identifier is given: the first that the record has. «$» is systemd's own. */
const STOP_SCRIPT =
  'id=$$(sed -n "/identifier/{s/.*: .//;s/.,//p;q}" "$$1"); shift; exec "$$@" "$${id:-$$0}"';

function imageUnit({ nodePath, programDirectory }: Installation): string {
  const program = `${unitWord(nodePath)} ${unitWord(`${programDirectory}/main.cjs`)}`;
  const record = "%t/erofs-nbd@%i/device";
  return `# For an image that is to be attached and not mounted: erofs-nbd@$(systemd-escape --path /srv/a.erofs).service
# Options of «attach» go into OPTIONS, with «systemctl edit»: Environment=OPTIONS="--device 5".

[Unit]
Description=erofs-nbd: %f attached
Documentation=man:erofs-nbd(8)
# Not Requires=: a restart of the manager is none of this.
Wants=${SERVICE}
After=${SERVICE}
RequiresMountsFor=%f

[Service]
Type=oneshot
RemainAfterExit=yes
Environment=OPTIONS=
# What was attached is remembered: the same image may be attached elsewhere, by others. Without that it is detached by its path.
RuntimeDirectory=erofs-nbd@%i
RuntimeDirectoryMode=0700
ExecStart=/bin/sh -c 'exec "$$@" >"$$0"' ${record} ${program} attach --json $OPTIONS -- %f
ExecStop=/bin/sh -c '${STOP_SCRIPT}' %f ${record} ${program} detach --
# Not attached any more: somebody has detached it.
SuccessExitStatus=3
TimeoutStartSec=2min
KillMode=process

[Install]
WantedBy=multi-user.target
`;
}

/** A word of a unit's command line: systemd takes quotes, and «%» and «$» for its own (systemd.service(5)). */
export function unitWord(word: string): string {
  const escaped = word.replace(/[\\"]/g, "\\$&").replaceAll("%", "%%").replaceAll("$", "$$$$");
  return /^[\w@%+=:,./-]+$/.test(word) ? escaped : `"${escaped}"`;
}

function shellWord(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
