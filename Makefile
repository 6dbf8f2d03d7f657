# Leaky Tokens. `make help` lists the targets.
# cgo is off: the machine needs Go, Python with pip and Node with npm, but no C compiler.
export CGO_ENABLED := 0
# The Go that the vulnerability scan is clean with; the go command fetches it once.
export GOTOOLCHAIN := go1.27.3
# Objects that are the same wherever the source stands, linked without debug information: another
# clone takes them from the build cache, and a hundred test binaries link in half the time.
export GOFLAGS ?= -trimpath -ldflags=-w
GO ?= go
LEAKY := bin/leaky
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# Tools that take minutes to build are kept outside the source tree, by version.
TOOLS := $(or $(LEAKY_CACHE_DIR),$(if $(filter 0,$(shell id -u)),/var/cache/leaky-tokens,$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/leaky-tokens))/tools
# $(call tool,FILE,PACKAGE,VERSION) builds FILE unless it is there.
tool = mkdir -p $(TOOLS) && { test -x $(1) || { GOBIN=$(TOOLS)/new $(GO) install $(2)@$(3) && mv $(TOOLS)/new/$(notdir $(2)) $(1); }; }
LINTVERSION := v2.15.0
LINT := $(TOOLS)/golangci-lint-$(LINTVERSION)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/leaky
	@$(GO) build -ldflags "-X main.version=$(VERSION)" -o $(LEAKY) ./cmd/leaky

.PHONY: parts
parts: build ## Fetch the pinned parts (Envoy, Postgres, Valkey, the ClickHouse engine, Prometheus) into the cache
	@$(LEAKY) parts fetch

.PHONY: up
up: build ## Start everything on loopback and prove it with one real call
	@$(LEAKY) up

.PHONY: down
down: build ## Stop everything; data stays
	@$(LEAKY) down

.PHONY: demo
demo: build ## 64 clients for a minute, then the verdict on the books (needs make up)
	@$(LEAKY) demo

# A test that fails is run once more, alone, if no more than three have failed: real parts on a shared
# machine now and then break a test that the change has nothing to do with. Both runs are printed, and
# what only passed the second time is a fault to mend. RERUNS=0 takes no second run.
TESTSUMVERSION := v1.13.0
TESTSUM := $(TOOLS)/gotestsum-$(TESTSUMVERSION)
RERUNS ?= 1
TESTS = internal/testing/inmemory.sh $(TESTSUM) --format standard-quiet --rerun-fails=$(RERUNS) --rerun-fails-max-failures=3

# What the tests reach is counted while they run, by them and by every process of their stacks, under
# whatever user it runs.
.PHONY: test
test: vet parts ## Run every test against real parts, and print the coverage of the module without generated code
	@$(call tool,$(TESTSUM),gotest.tools/gotestsum,$(TESTSUMVERSION))
	@set -e; export GOCOVERDIR=$$(mktemp -d); trap 'rm -rf "$$GOCOVERDIR"' EXIT; chmod 1777 "$$GOCOVERDIR"; \
	  $(TESTS) --packages='./e2e/...' -- -shuffle=on -timeout 18m -p 1; \
	  $(TESTS) --packages="$$($(GO) list ./... | grep -v /e2e)" -- -shuffle=on -timeout 18m -cover -args -test.gocoverdir="$$GOCOVERDIR"; \
	  $(GO) tool covdata textfmt -i="$$GOCOVERDIR" -o=bin/cover.all
	@module=$$($(GO) list -m) && grep -rl --include='*.go' '^// Code generated .* DO NOT EDIT' . | sed "s|^\.|$$module|; s|$$|:|" > bin/generated
	@grep -v -F -f bin/generated bin/cover.all > bin/cover.out && $(GO) tool cover -func=bin/cover.out | awk 'END {print "coverage of the module without generated code: " $$NF " (bin/cover.out)"}'

.PHONY: test-busy
test-busy: ## Run every test three times beside as many busy loops as there are cores
	@for i in $$(seq $$(getconf _NPROCESSORS_ONLN)); do (while :; do :; done) & loops="$$loops $$!"; done; \
	  trap "kill $$loops" EXIT INT TERM; \
	  for i in 1 2 3; do $(MAKE) --no-print-directory test RERUNS=0 || exit 1; done

# The packages whose goroutines share memory.
CONCURRENT := ./tokensvc/outbox ./tokensvc/saga ./tokensvc/ledger ./extauthz ./meter ./ratelimit/... ./internal/config

.PHONY: test-race
test-race: parts ## Run the concurrent packages under the race detector, 20 times (needs a C compiler)
	@cc=$$($(GO) env CC); if ! command -v $$cc >/dev/null; then echo "test-race skipped: the race detector needs a C compiler, and $$cc is not here"; \
	  else CGO_ENABLED=1 $(GO) test -race -count=20 -timeout 60m $(CONCURRENT); fi

.PHONY: test-sdks
test-sdks: parts ## Call the gateway with the SDKs for Python and Node, Claude Code and Codex (fetches them the first time)
	@$(GO) test -tags long -timeout 15m ./e2e -run 'TestEverySDK|TestSDKsThatEndAtDone|TestPythonSDK|TestCodingAgents'

.PHONY: test-long
test-long: parts ## The same proofs for longer: 500 schedules of purchases, 20 of full, old and frozen stores, by seeds that chance gives, thousands of random books, holds that run out (half an hour)
	@LEAKY_LONG=1 $(GO) test -tags long -timeout 60m ./e2e/...
	@$(GO) test -tags long -timeout 60m ./analytics -run 'TestAMillionEventsSurvive|TestFocusIsValid'
	@$(GO) test -tags long -timeout 60m ./xds -run TestASecondCallerInEachFlood -v
	@$(GO) test -tags long -timeout 120m ./deploy/helm -run TestTheClusterTakesEachExample -v
	@$(GO) test -timeout 60m ./ratelimit ./ratelimit/bucket ./ratelimit/store ./tokensvc/ledger ./tokensvc/outbox ./tokensvc/saga ./internal/contract/limits -rapid.checks=5000

.PHONY: test-clients
test-clients: parts ## Sign in by OAuth2 libraries for Go, Python and Node and by MCP's client (fetches them the first time)
	@$(GO) test -tags long -timeout 15m ./identity -run 'TestDex|TestAnotherInstanceIsTheProvider'
	@$(GO) test -tags long -timeout 15m ./e2e -run 'TestSigningInByABrowser|TestClientsOfOthersSignIn|TestTheMCPClientFindsItsWay|TestCodeFlow|TestClientCredentials|TestDeviceFlow|TestIntrospectAndRevoke|TestDiscovery'

.PHONY: vet
vet: ## Static checks that come with Go
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "gofmt the files above"; exit 1; }
	@$(GO) vet ./...

.PHONY: lint
lint: ## golangci-lint with the house rules (builds the linter the first time, and keeps it in the cache)
	@$(call tool,$(LINT),github.com/golangci/golangci-lint/v2/cmd/golangci-lint,$(LINTVERSION))
	@$(LINT) run --timeout 15m ./...

.PHONY: lint-cached
lint-cached: ## The same where the linter is in the cache already, else nothing
	@if test -x $(LINT); then $(MAKE) --no-print-directory lint; else echo "lint skipped: 'make lint' builds the linter once"; fi

# Built with the Go that it judges, and once: a scan takes a minute, building it another two.
VULNVERSION := v1.9.0
VULNDBVERSION := v0.0.0-20261105234957-e22db6528018
VULN := $(TOOLS)/govulncheck-$(VULNVERSION)-$(GOTOOLCHAIN)
INDEXDB := $(TOOLS)/indexdb-$(VULNDBVERSION)

.PHONY: vuln
vuln: ## Scan what is reachable for known vulnerabilities, with the database as a module (no network service)
	@$(call tool,$(VULN),golang.org/x/vuln/cmd/govulncheck,$(VULNVERSION))
	@$(call tool,$(INDEXDB),golang.org/x/vulndb/cmd/indexdb,$(VULNDBVERSION))
	@rm -rf bin/vulndb && mkdir -p bin && $(INDEXDB) -out bin/vulndb -vulns "$$(cd / && $(GO) mod download -json golang.org/x/vulndb@$(VULNDBVERSION) | sed -n 's/^.*"Dir": "\(.*\)".*$$/\1/p')/data/osv"
	@$(VULN) -db "file://$(CURDIR)/bin/vulndb" ./...

.PHONY: bench
bench: build parts ## Measure path, checks, limits and purchases in one run; writes docs/benchmarks.md (13 minutes)
	@$(GO) run ./bench/all -write docs/benchmarks.md

.PHONY: load
load: parts ## Drive every kind of call at a fixed rate and fail where it is slow or wrong; writes docs/perf/load.md (6 minutes)
	@$(GO) run ./bench/load -write docs/perf/load.md

.PHONY: soak
soak: parts ## Drive all at once for an hour (FOR=10m for less), and fail where a process grows; writes docs/perf/soak.md
	@$(GO) run ./bench/load -soak $(or $(FOR),1h) -write docs/perf/soak.md

.PHONY: picture
picture: build ## Draw the README's picture of the demo (needs make up)
	@$(LEAKY) demo --for 10s | python3 docs/picture.py 'leaky demo --for 10s' > docs/demo.svg.new && mv docs/demo.svg.new docs/demo.svg

# Prometheus where leaky.yaml says so: `make dashboards PROMETHEUS=http://127.0.0.1:9090`.
PROMETHEUS ?= $$($(LEAKY) open -o json | sed -n 's|.*"url": "\(http://[^/]*\)/classic/alerts".*|\1|p')

.PHONY: dashboards
dashboards: build ## Draw the dashboards with the numbers of the last minutes into docs/dashboards (right after make up demo; needs chromium)
	@$(GO) run ./deploy/dashboards/picture -prometheus "$(PROMETHEUS)" -out docs/dashboards

.PHONY: golden
golden: ## Rewrite the golden files of xds from the code
	@$(GO) test ./xds/snapshot -update

.PHONY: generate
generate: generate-client ## Regenerate the Go client and the limiter's gRPC code (needs python3 -m pip install grpcio-tools)
	@mkdir -p bin && export GOBIN=$(CURDIR)/bin && $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12 && $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
	@PATH="$(CURDIR)/bin:$$PATH" python3 -m grpc_tools.protoc -I internal/contract/limitapi --go_out=internal/contract/limitapi/gen --go_opt=paths=source_relative \
	  --go-grpc_out=internal/contract/limitapi/gen --go-grpc_opt=paths=source_relative limit.proto

.PHONY: generate-client
generate-client: ## Regenerate the types and calls of package client from openapi.yaml
	@$(GO) run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config client/api/generate.yaml openapi.yaml
	@$(GO) test ./client/api -run TestTheCodeIsThatOfTheDocument -update

SQLCVERSION := v1.30.0
SQLC := $(TOOLS)/sqlc-$(SQLCVERSION)

.PHONY: sql
sql: ## Regenerate the Go code of the SQL queries (builds sqlc the first time)
	@$(call tool,$(SQLC),github.com/sqlc-dev/sqlc/cmd/sqlc,$(SQLCVERSION))
	@$(SQLC) generate

FUZZTIME ?= 20s

.PHONY: fuzz
fuzz: ## Run each fuzz test for FUZZTIME
	@grep -rE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' . | sed -E 's|^\./(.*)/[^/]*:func (Fuzz[A-Za-z0-9_]+).*|\1 \2|' | sort -u | while read -r dir name; do \
	  echo "$$dir $$name"; $(GO) test "./$$dir" -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) || exit 1; done

.PHONY: licences
licences: ## Say under which licence each module is, and fail where one may not be shipped
	@$(GO) run ./deploy/licences

SBOMVERSION := v1.10.0
SBOM := $(TOOLS)/cyclonedx-gomod-$(SBOMVERSION)

.PHONY: sbom
sbom: ## Write bin/sbom.cdx.json: what leaky is built from, as CycloneDX has it
	@$(call tool,$(SBOM),github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod,$(SBOMVERSION))
	@mkdir -p bin && $(SBOM) app -json -output-version 1.6 -output bin/sbom.cdx.json -main cmd/leaky .

ACTIONLINTVERSION := v1.7.12
ACTIONLINT := $(TOOLS)/actionlint-$(ACTIONLINTVERSION)

.PHONY: workflows
workflows: ## Check the workflows of .github
	@$(call tool,$(ACTIONLINT),github.com/rhysd/actionlint/cmd/actionlint,$(ACTIONLINTVERSION))
	@$(ACTIONLINT)

# Builds everything that a release publishes into bin/release, and its notes; VERSION=v1.2.3.
.PHONY: release
release: image sbom ## Build binaries, chart, SBOM and checksums of VERSION into bin/release, and bin/notes.md
	@awk -v head="## $(VERSION:v%=%)" '/^## /{on = index($$0, head) == 1; next} on' CHANGELOG.md > bin/notes.md
	@test -s bin/notes.md || { echo "CHANGELOG.md has no section '## $(VERSION:v%=%)'"; exit 1; }
	@rm -rf bin/release bin/chart && $(MAKE) --no-print-directory chart VERSION=$(VERSION) CHARTVERSION=$(VERSION:v%=%)
	@mkdir -p bin/release && cp bin/image/leaky-amd64 bin/release/leaky-linux-amd64 && cp bin/image/leaky-arm64 bin/release/leaky-linux-arm64
	@cp bin/chart/*.tgz bin/sbom.cdx.json bin/release && cd bin/release && sha256sum * > SHA256SUMS

IMAGE ?= leaky-tokens:$(VERSION)

.PHONY: image
image: ## Build the container image for amd64 and arm64 without a daemon: bin/image/layout, and a .tar for docker load
	@mkdir -p bin/image && for arch in amd64 arm64; do \
	  GOOS=linux GOARCH=$$arch $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o bin/image/leaky-$$arch ./cmd/leaky || exit 1; done
	@$(GO) run ./deploy/image -tag $(IMAGE)

HELMVERSION := v4.3.1
HELM := $(TOOLS)/helm-$(HELMVERSION)

.PHONY: chart
chart: ## Pack the Helm chart into bin/chart (builds helm the first time: 8 minutes of processor)
	@$(call tool,$(HELM),helm.sh/helm/v4/cmd/helm,$(HELMVERSION))
	@mkdir -p bin/chart && for values in deploy/helm/leaky-tokens/examples/*.yaml; do \
	  $(HELM) lint --quiet --values $$values deploy/helm/leaky-tokens || exit 1; done
	@$(HELM) package --app-version $(VERSION) $(if $(CHARTVERSION),--version $(CHARTVERSION)) -d bin/chart deploy/helm/leaky-tokens

.PHONY: clean
clean: ## Remove what the build made; the cache and the state folder stay
	@rm -rf bin
