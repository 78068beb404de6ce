#!/bin/sh
# Leader of an emulated guest's process group: starts a virtiofsd for the host's files and one for the shared
# directory, then becomes QEMU. Called by qemu.mjs in the guest's scratch directory; arguments: the kernel's cache
# entry, the shared directory, then QEMU's own. Each virtiofsd ends with its connection to QEMU; the process that
# started the group kills what is left.
entry=$1 share=$2
shift 2

# Through the loader that came with them: these programs' libraries are newer than the machine's may be.
loaded() { # PROGRAM ARGUMENT...
  program=$1
  shift
  exec "$entry/lib/ld-linux-x86-64.so.2" --library-path "$entry/lib" "$entry/bin/$program" "$@"
}

# No sandbox: it would need root or user namespaces. --readonly is what keeps the guest from writing to the host.
serve() { # TAG DIRECTORY OPTION...
  tag=$1 directory=$2
  shift 2
  loaded virtiofsd --shared-dir "$directory" --socket-path "$tag.socket" --sandbox none --seccomp none \
    --log-level error "$@"
}

serve host / --readonly --cache always --no-announce-submounts --inode-file-handles=prefer &
host=$!
serve share "$share" &
writer=$!
until [ -S host.socket ] && [ -S share.socket ]; do
  kill -0 $host 2>/dev/null && kill -0 $writer 2>/dev/null || { echo "lab: virtiofsd ended at once"; exit 1; }
  sleep 0.05
done
loaded qemu-system-x86_64 "$@"
