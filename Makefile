# Tsunami. `make help` lists what there is to make.
#
# Nothing has to be installed first but Go, make and git: each target installs
# what it needs, and says so. Go modules come by the go command's own settings.

SHELL := /bin/sh
GO    ?= go

# The programs are static. Only the race detector needs cgo, so that the checks
# and the end-to-end tests compile what the build does, once.
export CGO_ENABLED = 0

# The version is a semantic one in every case: the NATS micro service that the
# scheduler serves wants it so.
REVISION := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
VERSION  ?= $(shell git describe --tags --match 'v[0-9]*.[0-9]*.[0-9]*' 2>/dev/null | sed 's/^v//' | grep . || echo 0.0.0-dev+$(REVISION))
BRANCH   := $(shell git rev-parse --abbrev-ref HEAD 2>/dev/null || echo unknown)
DATE     := $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)

# prometheus/common/version is what the programs print and export. The date is
# the commit's, so that the same commit builds the same bytes.
INFO    := github.com/prometheus/common/version
LDFLAGS := -s -w \
	-X $(INFO).Version=$(VERSION) -X $(INFO).Revision=$(REVISION) \
	-X $(INFO).Branch=$(BRANCH) -X $(INFO).BuildDate=$(DATE)

PROGRAMS := tsunamid tsunami-agent tsunamictl

# What the arguments of these are: make demo ARGS="--hosts 50 --exit".
ARGS     ?=
FUZZTIME ?= 5s
BENCHTIME ?= 1s
# Where `make sim` writes its tables, as Markdown.
REPORT   ?= sim.md
# The database of known vulnerabilities that `make vuln` asks.
VULNDB   ?=
# Tests are stopped after so long, whatever they do.
TIMEOUT  ?= 12m

# Debian packages, each after the command or file that shows it is there.
TEST_DEBS := gcc=gcc /usr/include/stdlib.h=libc6-dev dpkg-deb=dpkg systemd-analyze=systemd \
	promtool=prometheus prometheus=prometheus prometheus-alertmanager=prometheus-alertmanager \
	prometheus-node-exporter=prometheus-node-exporter

.DEFAULT_GOAL := build
.PHONY: help build demo test e2e bench sim check fix fuzz vuln modules debs tools install clean

help: ## List the targets
	@sed -n 's/^\([a-z0-9][a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  make %-9s %s\n", $$1, $$2 }'

build: ## Build the programs into bin/
	$(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ $(PROGRAMS:%=./cmd/%)

demo: modules build ## A fleet of 200 agents, a bad rollout that is frozen and a good one, in the terminal (ARGS="--exit" ends it there)
	bin/tsunamid demo $(ARGS)

test: modules debs ## All tests: architecture, units, properties, fleets, and real programs end to end
	CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout $(TIMEOUT) ./...

e2e: modules debs ## The end-to-end tests alone, as they go
	$(GO) test -count=1 -v -timeout $(TIMEOUT) ./e2e/

bench: modules ## The benchmarks
	@dirs=$$(grep -rl --include='*_test.go' '^func Benchmark' . | xargs -r -n1 dirname | sort -u); \
	echo "$(GO) test -run '^$$' -bench . in" $$dirs; \
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) -timeout 30m $$dirs

sim: modules ## Simulate the guard's decisions: 10,000 harmless rollouts, 2,000 of each other kind, some minutes
	$(GO) test ./slo -run '^TestSimulation$$' -count=1 -v -timeout 60m -args -slo.harmless=10000 -slo.harmful=2000 -slo.report='$(abspath $(REPORT))'

check: modules .tools/staticcheck ## Formatting, vet, modernizers, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "gofmt -w would change:" >&2; echo "$$unformatted" >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) fix -diff ./...
	.tools/staticcheck ./...

fix: ## Format, and apply what the modernizers propose
	gofmt -w $$(git ls-files --cached --others --exclude-standard '*.go')
	$(GO) fix ./...

fuzz: modules ## Each fuzz target for FUZZTIME
	@GO='$(GO)' FUZZTIME='$(FUZZTIME)' scripts/fuzz.sh

vuln: modules .tools/govulncheck ## Known vulnerabilities in what the programs call (VULNDB is the database's URL, if not the public one)
	.tools/govulncheck $(VULNDB:%=-db %) ./...

modules:
	@echo "installing: Go modules that are missing (go mod download)"
	@$(GO) mod download

debs:
	@scripts/install-debs.sh $(TEST_DEBS)

tools: .tools/nats .tools/staticcheck ## The nats command and staticcheck, as tools/go.mod pins them, into .tools/

.tools/nats: tools/go.mod tools/go.sum
	@echo "installing: the nats command into .tools/, with its Go modules"
	@$(GO) build -C tools -buildvcs=false -o ../$@ github.com/nats-io/natscli/nats

.tools/staticcheck: tools/go.mod tools/go.sum
	@echo "installing: staticcheck into .tools/, with its Go modules"
	@$(GO) build -C tools -buildvcs=false -o ../$@ honnef.co/go/tools/cmd/staticcheck

.tools/govulncheck: tools/go.mod tools/go.sum
	@echo "installing: govulncheck into .tools/, with its Go modules"
	@$(GO) build -C tools -buildvcs=false -o ../$@ golang.org/x/vuln/cmd/govulncheck

install: build ## Install the programs, units and samples below DESTDIR (see deploy/README.md)
	@DESTDIR='$(DESTDIR)' scripts/install.sh

clean: ## Remove what was built
	rm -rf bin .tools
