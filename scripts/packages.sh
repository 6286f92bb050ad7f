#!/bin/bash
# Installs, where they are missing, the distribution's packages that the build, the tests and the demo need.
# Asks nothing. Needs Debian or Ubuntu, and root when a package is missing; elsewhere it only checks that the
# programs are there.
set -euo pipefail

packages=(
  # build
  make
  # guests
  qemu-system-x86 qemu-utils seabios
  libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-system libvirt-clients
  # cluster; resource-agents brings ocf-tester
  corosync pacemaker pacemaker-cli-utils resource-agents crmsh pcs
  # test lab: nodes in namespaces, failing storage, boot sectors, metadata checks
  iproute2 util-linux python3-minimal nbdkit gcc libc6-dev binutils libxml2-utils
  # a terminal for the tests of what is shown on one
  tmux
  # a server of ssh for nodes of the lab: this one is only a program, and starts nothing on this machine
  openssh-client dropbear-bin
  # manual pages, package
  man-db mandoc dpkg-dev lintian
  # what interrupts actions at chosen moments
  strace
)
programs=(
  make npm qemu-system-x86_64 qemu-img libvirtd virtlogd virsh
  corosync pacemakerd crm_resource ocf-tester crm pcs
  ip unshare strace python3 nbdkit gcc objcopy xmllint man mandoc
)

say() { echo "packages: $*"; }

# Commands of administrators, in case they are not in this user's path.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  missing=()
  for program in "${programs[@]}"; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    say "this is neither Debian nor Ubuntu; install these programs yourself: ${missing[*]}" >&2
    exit 1
  fi
  say 'all programs are there'
  exit
fi

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
# npm comes with Node.js from other sources than Debian's, too.
command -v npm >/dev/null || missing+=(npm)

if [ ${#missing[@]} -eq 0 ]; then
  say 'all installed'
  exit
fi
if [ "$(id -u)" -ne 0 ]; then
  say "these are missing, and only root can install them: ${missing[*]}" >&2
  exit 1
fi

say "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update || say 'some package lists could not be updated; going on with what is known'
apt-get -qq install --yes --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" </dev/null >/dev/null
