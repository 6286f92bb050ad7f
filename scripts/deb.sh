#!/bin/bash
# Packs an installed tree as a Debian package: scripts/deb.sh TREE DIRECTORY
#
# TREE is what `make install DESTDIR=TREE` has made; it is changed to what Debian's policy wants. The package is written
# into DIRECTORY. DEB_VERSION is that of the changelog unless it is set, DEB_OPTIONS of dpkg-deb are -Zxz. Needs dpkg-dev.
# The same tree gives the same package.
set -euo pipefail
cd "$(dirname "$0")/.."

tree=$1
directory=$2
packaging=packaging/debian
version=${DEB_VERSION:-$(dpkg-parsechangelog --file "$packaging/changelog" --show-field Version)}
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=$(dpkg-parsechangelog --file "$packaging/changelog" --show-field Timestamp)
export SOURCE_DATE_EPOCH

documents=$tree/usr/share/doc/kvmha
rm -f "$documents/COPYING" # copyright names where it is
sed -i 's|\[COPYING\](COPYING)|[copyright](copyright)|' "$documents/README.md"
install -m 644 "$packaging/copyright" "$documents/copyright"
install -m 644 "$packaging/changelog" "$documents/changelog.Debian"
gzip -9n "$documents/changelog.Debian" "$documents/third-party-licenses" "$tree"/usr/share/man/man*/*

# What an operator changes begins as what applies anyway.
install -d "$tree/etc/kvmha" "$tree/usr/share/lintian/overrides"
sed -E 's/^( *[^ #])/#\1/' docs/policy.yaml >"$tree/etc/kvmha/policy.yaml"
chmod 644 "$tree/etc/kvmha/policy.yaml"
install -m 644 "$packaging/lintian-overrides" "$tree/usr/share/lintian/overrides/kvmha"

# dpkg-shlibdeps wants a source package around it.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/debian"
printf 'Source: kvmha\n\nPackage: kvmha\nArchitecture: any\n' >"$scratch/debian/control"
binary=$(realpath "$tree/usr/sbin/kvmha")
shlibs=$(cd "$scratch" && dpkg-shlibdeps -O "$binary" 2>"$scratch/complaints") || { cat "$scratch/complaints" >&2; exit 1; }

install -d "$tree/DEBIAN"
size=$(du --summarize --apparent-size --block-size=1024 --exclude=DEBIAN "$tree" | cut -f 1)
sed -e "s|@VERSION@|$version|" -e "s|@ARCHITECTURE@|$architecture|" -e "s|@SIZE@|$size|" \
  -e "s|@SHLIBS@|${shlibs#shlibs:Depends=}|" "$packaging/control.in" >"$tree/DEBIAN/control"
install -m 644 "$packaging/conffiles" "$tree/DEBIAN"
install -m 755 "$packaging"/{postinst,prerm,postrm} "$tree/DEBIAN"
(cd "$tree" && find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum) \
  >"$tree/DEBIAN/md5sums"
chmod 644 "$tree/DEBIAN/md5sums" "$tree/DEBIAN/control"

mkdir -p "$directory"
# shellcheck disable=SC2086
dpkg-deb --root-owner-group ${DEB_OPTIONS:--Zxz} --build "$tree" "$directory/kvmha_${version}_$architecture.deb"
