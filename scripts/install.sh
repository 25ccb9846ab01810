#!/bin/sh
# Installs what `make build` built, with units, users, programs for enactors and
# samples, below DESTDIR (default: the machine itself). It starts nothing and
# changes no file below /etc: deploy/README.md says what comes next.
set -eu
cd "$(dirname "$0")/.."
to=${DESTDIR:-}

put() { # mode, directory, files…
	mode=$1 dir=$2
	shift 2
	install -d "$to$dir"
	install -m "$mode" "$@" "$to$dir/"
}

put 0755 /usr/bin bin/tsunamid bin/tsunami-agent bin/tsunamictl
put 0755 /usr/libexec/tsunami deploy/libexec/enact-deb deploy/libexec/observe-deb
put 0644 /usr/lib/systemd/system deploy/systemd/tsunamid.service deploy/systemd/tsunami-agent.service
install -d "$to/usr/lib/sysusers.d"
install -m 0644 deploy/systemd/sysusers.conf "$to/usr/lib/sysusers.d/tsunami.conf"
put 0644 /usr/share/doc/tsunami deploy/README.md deploy/agent.yaml deploy/nats-server.conf \
	deploy/systemd/unprivileged.conf deploy/systemd/tsunamid.default
put 0644 /usr/share/doc/tsunami/examples deploy/examples/*.yaml
put 0644 /usr/share/doc/tsunami/prometheus deploy/prometheus/prometheus.yml
put 0644 /usr/share/doc/tsunami/prometheus/rules deploy/prometheus/rules/*.yml
put 0644 /usr/share/doc/tsunami/prometheus/grafana deploy/prometheus/grafana/tsunami.json

echo "installed below ${to:-/}: programs, units, users, programs for enactors, samples"
echo "next: see $to/usr/share/doc/tsunami/README.md"
