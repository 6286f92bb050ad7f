# Process 1 of a node, in namespaces of its own, still on the host's root: builds the node's root and moves there.
# Started by power-switch.ts in the node's directory, with the LAB_* variables it sets.
set -eu

# Tell the power switch our pids (host's, its own, ours). A builtin, so that /proc/self is this shell; /proc is the
# host's here.
while read -r key pids; do
  [ "$key" = NSpid: ] && echo "$pids"
done </proc/self/status

echo "$LAB_NODE" >/proc/sys/kernel/hostname

mount -t overlay -o "lowerdir=$LAB_LOWER,upperdir=upper,workdir=work" "$LAB_NODE" root
files=$PWD/files
cd root

mount -t proc proc proc
# Nothing in a node may reach the host's kernel: Pacemaker panics a node through sysrq, daemons tune sysctls.
[ ! -e proc/sysrq-trigger ] || mount --bind /dev/null proc/sysrq-trigger
for area in kernel vm fs; do
  mount --bind "proc/sys/$area" "proc/sys/$area"
  mount -o remount,bind,ro "proc/sys/$area"
done
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup

mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm dev/mqueue
for device in null zero full random urandom tty kvm net/tun; do
  if [ -e "/dev/$device" ]; then
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
  fi
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr

mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=1777 tmpfs var/tmp
mkdir -p run/lab/files run/lock run/resource-agents
chmod 1777 run/lock
: >run/lab/power.sock
mount --bind "$LAB_SOCKET" run/lab/power.sock
mount --bind "$files" run/lab/files
mkdir -p shared
mount --bind "$LAB_SHARED" shared

# The project and its Node.js, wherever they lie (another file system, /tmp, ...) and as they are at this moment:
# an overlay may show a stale view of what is edited beneath it.
while read -r path; do
  if [ -d "$path" ]; then
    mkdir -p ".$path"
  elif [ ! -e ".$path" ]; then
    mkdir -p ".${path%/*}"
    : >".$path"
  fi
  mount --bind "$path" ".$path"
  mount -o remount,bind,ro ".$path"
done <<EOF
$LAB_VISIBLE
EOF

pivot_root . .
umount -l .
exec chroot . /bin/bash "$LAB_INIT"
