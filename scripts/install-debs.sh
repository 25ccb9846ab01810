#!/bin/sh
# Installs Debian packages that are missing, and says so.
#
#   install-debs.sh COMMAND=PACKAGE… | /FILE=PACKAGE…
#
# A package counts as there when its command is on the PATH, or its file
# exists: a machine that has them from elsewhere is left alone. Tests need
# programs, not services: a daemon that comes with a package isn't started, nor
# at the next boot.
set -eu

missing=
for pair in "$@"; do
	sign=${pair%%=*} package=${pair#*=}
	case $sign in
	/*) [ -e "$sign" ] && continue ;;
	*) command -v "$sign" >/dev/null 2>&1 && continue ;;
	esac
	missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "installing: Debian packages$missing (apt-get)"
if ! command -v apt-get >/dev/null 2>&1; then
	echo "install-debs: these packages are missing and there is no apt-get to install them with:$missing" >&2
	echo "install-debs: install what they hold by your system's own means, and try again" >&2
	exit 1
fi
if [ "$(id -u)" = 0 ]; then
	as_root=
elif command -v sudo >/dev/null 2>&1; then
	as_root="sudo"
	[ -t 0 ] || as_root="sudo -n" # nobody is there to be asked
else
	echo "install-debs: installing$missing needs root, and there is no sudo: run 'apt-get install$missing' as root, and try again" >&2
	exit 1
fi

apt() {
	# shellcheck disable=SC2086 # both are words to split
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" </dev/null
}

# This is how Debian is told to start nothing while packages are installed. A
# machine that has a policy of its own keeps it.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	# shellcheck disable=SC2086
	unpolicy() { $as_root rm -f "$policy"; }
	trap unpolicy EXIT
	trap 'exit 1' HUP INT TERM
	printf '%s\n' '#!/bin/sh' '# Of scripts/install-debs.sh, which removes it again.' 'exit 101' | $as_root tee "$policy" >/dev/null
	$as_root chmod 0755 "$policy"
fi

# shellcheck disable=SC2086
install() { apt install --no-install-recommends $missing; }

# The package lists may be missing or out of date: fetch them only then.
if ! install; then
	echo "installing: the package lists first (apt-get update)"
	apt update
	install
fi

# A package enables its service all the same. By convention they share a name.
for package in $missing; do
	if [ -e "/lib/systemd/system/$package.service" ] && command -v systemctl >/dev/null 2>&1; then
		$as_root systemctl --quiet disable "$package.service"
	fi
done
