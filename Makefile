# `make up` runs Tally on real parts; `make test` and `make test-system` prove it. ARGS go to the command of a target.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -P -m pip --disable-pip-version-check --quiet
ARGS ?=

.PHONY: help up test test-system test-browser test-containers image digests test-k8s test-monitoring mix chaos hostile analytics fuzz recovery bench bench-freshness bench-lookup bench-claims bench-disk bench-http bench-emit bench-reports bench-off-policy bench-training bench-sessions bench-weights bench-console learning interleaving fusion bench-propensities lint types format docs lock clean

help:
	@sed -n 's/^## //p' Makefile

## make up [ARGS="--for 30"]   start everything, import real data, simulate traffic until Ctrl-C
up: $(VENV)/.run
	@$(BIN)/tally up $(ARGS)

## make test [ARGS="-k sink"]  formatter, linter, types, and beside them the tests on a shared stack
# The background job does not hear Ctrl-C, as the shell has it: it is ended by hand.
test: $(VENV)/.dev
	@log=$$(mktemp); trap 'kill $$checks 2>/dev/null; rm -f $$log' EXIT; trap 'exit 130' INT TERM; \
	$(MAKE) --no-print-directory --keep-going lint types >$$log 2>&1 & checks=$$!; \
	$(BIN)/pytest --numprocesses 3 $(TEST_OPTIONS) $(OTHER_TESTS:%=--ignore tests/%) $(ARGS); tests=$$?; \
	if wait $$checks; then checks=; echo "formatter, linter and types: no findings"; exit $$tests; fi; \
	checks=; echo "formatter, linter or types: FAILED"; cat $$log; exit 1
TEST_OPTIONS := --durations 25
OTHER_TESTS := browser containers k8s monitoring system

## make test-system [ARGS=...] tests that start processes: clusters, restarts, a slice of chaos, benchmarks, commands
test-system: $(VENV)/.dev
	@$(BIN)/pytest --numprocesses 3 $(TEST_OPTIONS) --dist loadfile --no-loadscope-reorder tests/system $(ARGS)

## make test-browser           snippet for pages and console in headless Chromium (apt-get install chromium chromium-driver)
test-browser: $(VENV)/.browser
	@$(BIN)/pytest tests/browser $(ARGS)

## make test-containers        tests on containers (needs Docker; needs root for stand-ins where images cannot be pulled)
CONTAINER_TESTS := test_access test_audit test_claims test_client test_collector test_consumer test_crash \
	test_dead_letters test_deletion test_http test_listing test_lost_claims test_metrics test_outcomes \
	test_poison test_producer test_reader test_replay test_reports test_retention \
	system/test_metrics_of_processes system/test_schema
test-containers: $(VENV)/.dev
	@if docker pull --quiet $$(sed -n 's/.*KAFKA_IMAGE:-\(.*\)}/\1/p' docker-compose.yml) >/dev/null 2>&1; then \
		echo "images of docker-compose.yml"; $(MAKE) --no-print-directory image; \
	else \
		echo "no image can be pulled: stand-ins"; deploy/images/standins/build.sh; export TALLY_TEST_STANDINS=1; \
	fi; \
	$(BIN)/pytest --numprocesses 2 --stack=containers tests/containers $(CONTAINER_TESTS:%=tests/%.py) $(ARGS)

## make image                  build both images and print the size of their layers (PYTHON_IMAGE=... for another base)
PYTHON_IMAGE ?= python:3.13-slim-bookworm
image:
	@for name in tally tally-console; do \
		docker build --quiet --build-arg PYTHON_IMAGE=$(PYTHON_IMAGE) --file deploy/images/Dockerfile --target $$name --tag $$name:0.1.0 . && \
		docker history --format '{{.Size}}\t{{.CreatedBy}}' $$name:0.1.0 | grep -v '^0B' || exit 1; \
	done

## make digests                pulled images by digest, as lines for the env file
digests:
	@deploy/images/digests.sh

## make test-k8s               render deploy/k8s with kustomize and check it against the Kubernetes schemas (needs Go)
KUSTOMIZE := .tally/bin/kustomize
$(KUSTOMIZE):
	@GOBIN=$(CURDIR)/.tally/bin go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1
test-k8s: $(VENV)/.dev $(KUSTOMIZE)
	@$(BIN)/pytest tests/k8s $(ARGS)

## make test-monitoring        dashboard and alerts against a real Prometheus (apt-get install prometheus)
test-monitoring: $(VENV)/.dev
	@$(BIN)/pytest tests/monitoring $(ARGS)

## make mix                    50 clients for a minute, all API calls mixed; then again with Kafka stopped for 10 s
mix: $(VENV)/.dev
	@$(BIN)/python -P -m tests.mix $(ARGS)

## make chaos RUNS=1000 SEED=7 the campaign of faults; repeating the command continues it (ARGS=--help)
RUNS ?= 100
SEED ?= 1
chaos: $(VENV)/.dev
	@$(BIN)/python -P -m tests.chaos --runs $(RUNS) --seed $(SEED) $(ARGS)

## make analytics              reports of simulated worlds against their truth, and simulated experiments (ARGS=--help)
analytics: $(VENV)/.dev
	@$(BIN)/python -P -m tests.analytics $(ARGS)

## make learning               propensities of simulated logs against their truth (ARGS=--help). Others, with --help:
##                             python -P -m tests.learning.policies (off-policy), python -P -m tests.learning.ranking (models)
learning: $(VENV)/.dev
	@$(BIN)/python -P -m tests.learning $(ARGS)

## make interleaving           errors and speed of interleaved comparisons in simulated searches (ARGS=--help)
interleaving: $(VENV)/.dev
	@$(BIN)/python -P -m tests.learning.interleaving $(ARGS)

## make fusion                 regret of learned weights in a simulated application, beside other bandits (ARGS=--help)
fusion: $(VENV)/.dev
	@$(BIN)/python -P -m tests.learning.fusion $(ARGS)

## make fuzz [ARGS="--minutes 30"] damaged values and record batches between guard pages (ARGS=--help)
fuzz: $(VENV)/.dev
	@$(BIN)/python -P -m tests.fuzz $(ARGS)

## make hostile [ARGS="--rounds 20"] attacks through Kafka and HTTP on real stores, with counts (ARGS=--help)
hostile: $(VENV)/.dev
	@$(BIN)/python -P -m tests.hostile $(ARGS)

## make recovery [ARGS=takeover] time to recover from kills and outages, memory under a lag
recovery: $(VENV)/.dev
	@$(BIN)/python -P -m tests.chaos.recovery $(ARGS)

## make bench [QUICK=1]        Tally beside ClickHouse's Kafka engine, Flink, Kafka Connect and others (ARGS=--help)
bench: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.throughput $(if $(QUICK),--quick) $(ARGS)

## make bench-freshness        delay from emit to queryable, at given rates
bench-freshness: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.freshness $(ARGS)

## make bench-lookup           whole records by id against growing tables, alone and while writing
bench-lookup: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.lookup $(ARGS)

## make bench-claims           cost of a claim in Redis and in the worker
bench-claims: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.claims $(ARGS)

## make bench-disk             bytes per event on disk, column by column
bench-disk: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.disk $(ARGS)

## make bench-http             requests per second of the API, beside an endpoint that does nothing
bench-http: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.http $(ARGS)

## make bench-emit             events per second of Producer.emit_many beside two Kafka clients
bench-emit: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.emit $(ARGS)

## make bench-reports          each report over a day, a week and a year of events
bench-reports: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.reports $(ARGS)

## make bench-off-policy       off-policy estimates beside those of Open Bandit Pipeline, on the same arrays
bench-off-policy: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.off_policy $(ARGS)

## make bench-training         a training set of ten million results, beside a plain SELECT
bench-training: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.training $(ARGS)

## make bench-sessions [QUICK=1] what session signals cost a worker: no configuration, one of no event, one of every event
bench-sessions: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.sessions $(if $(QUICK),--quick) $(ARGS)

## make bench-weights          weights of a search beside an endpoint that does nothing, and from a click to new weights
bench-weights: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.weights $(ARGS)

## make bench-console [QUICK=1] the console on many rows, live events at a rate, and viewers beside a drain (ARGS=--help)
bench-console: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.console $(if $(QUICK),--quick) $(ARGS)

## make bench-propensities     the position-based model beside that of clax, on the same counts
bench-propensities: $(VENV)/.dev
	@$(BIN)/python -P -m benchmarks.propensities $(ARGS)

## make lint                   formatter, linter and search for dead code, as CI runs them
lint: $(VENV)/.dev
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/vulture

## make types                  strict type check
types: $(VENV)/.dev
	@$(BIN)/mypy

## make format                 apply the formatter and the linter's fixes
format: $(VENV)/.dev
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

## make docs                   regenerate the JSON Schema, settings, metrics, capacity, dashboard, ClickHouse users
docs: $(VENV)/.dev
	@$(BIN)/python -P -m schemas.json_schema > schemas/interaction.schema.json
	@$(BIN)/python -P -m runtime.settings_doc > docs/settings.md
	@$(BIN)/python -P -m runtime.metrics_doc > docs/metrics.md
	@page=$$($(BIN)/python -P -m tally.capacity) && printf '%s\n' "$$page" > docs/capacity.md
	@$(BIN)/python -P -m console.settings_doc
	@$(BIN)/python -P -m deploy.monitoring.dashboard > deploy/monitoring/dashboard.json
	@$(BIN)/python -P -m deploy.access.users_xml > deploy/access/clickhouse-users.xml

## make lock                   resolve the dependencies again (needs the registries)
UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" pyproject.toml
lock: $(VENV)/.dev
	$(UV_COMPILE) --upgrade --extra dev --output-file requirements/dev.txt
	$(UV_COMPILE) --constraint requirements/dev.txt --output-file requirements/core.txt
	$(UV_COMPILE) --constraint requirements/dev.txt --extra worker --output-file requirements/worker.txt
	$(UV_COMPILE) --constraint requirements/dev.txt --extra api --output-file requirements/api.txt
	$(UV_COMPILE) --constraint requirements/dev.txt --extra api --extra traces --extra build --output-file requirements/image.txt
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["console"], sep="\n")' \
		| $(UV_COMPILE:pyproject.toml=-) --constraint requirements/dev.txt --output-file requirements/console.txt
	$(UV_COMPILE) --constraint requirements/dev.txt --extra embedded --extra plot --extra build --output-file requirements/run.txt

## make clean                  remove the environment and the embedded stack's data
clean:
	rm -rf $(VENV) .tally

$(BIN)/python:
	@echo "creating $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tally needs Python 3.11 or newer")'
	@$(PYTHON) -m venv $(VENV)

# data.txt holds the Open Bandit logs: a wheel that is read as a zip file and never installed.
$(VENV)/.run: $(BIN)/python requirements/run.txt requirements/data.txt pyproject.toml
	@echo "installing the locked dependencies (about a minute, once)"
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) download --require-hashes --no-deps --dest $(VENV)/share/tally -r requirements/data.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@echo "compiling the JSON scanner (about 30 s, first install only)"
	@$(BIN)/python -P -m tally.precompile
	@echo "loading Kafka for its class cache (about 10 s, first install only)"
	@$(BIN)/python -P -m deploy.embedded.class_cache
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# axe.txt holds axe-core, in a wheel that is read as a zip file, too.
$(VENV)/.browser: $(VENV)/.dev requirements/axe.txt
	@$(PIP) download --require-hashes --no-deps --dest $(VENV)/share/tally -r requirements/axe.txt
	@touch $@
