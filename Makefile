# `make help` lists the targets. They need make, git and CPython 3.11 or newer; everything else is fetched into `.venv` and
# `.state` of this checkout, and nothing is installed into the system.

.DEFAULT_GOAL := help

# Use the pinned tzdata only, not the system's.
export PYTHONTZPATH =
# Use an installed CPython; never download one.
export UV_PYTHON_DOWNLOADS = never
# Compile once here, instead of in every process of the cluster at its first start.
export UV_COMPILE_BYTECODE = 1
unexport VIRTUAL_ENV
# Use the system's certificates where there are any, for a private registry. The second is uv's older name.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS = 1
export UV_NATIVE_TLS = 1
endif

VENV := .venv/bin
STAMP := .venv/.complete
SERVERS := $(VENV)/python -m deploy.local.testservers
CLUSTER := $(VENV)/python -m deploy.local
SERVICES := events tickets media exports
CODE := shared services deploy tests benchmarks docs

# Number of test processes. They share servers, but not databases.
N ?= 2

# A test, a file or a folder for `make test`: T=services/events/tests
T ?=
# Options for pytest: ARGS="-x -k zones"
ARGS ?=

##@ Use

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(STAMP) ## Fetch dependencies into this checkout; the other targets do so when needed
	@:

.PHONY: demo
demo: $(STAMP) ## Start the cluster, then import, sell and export an event step by step (ARCHIVE=path.zip for your own archive)
	@$(CLUSTER) demo $(if $(ARCHIVE),"$(ARCHIVE)")

.PHONY: up
up: $(STAMP) ## Run the cluster, Ctrl-C stops it (ARGS=--detach, GATEWAY_PORT=, STORAGE_PLACE=s3, DATABASE_URL=, RABBITMQ_URL=)
	@$(CLUSTER) up $(ARGS)

.PHONY: down
down: $(STAMP) ## Stop the cluster
	@$(CLUSTER) down

.PHONY: ps
ps: $(STAMP) ## Show the cluster's processes, their memory and their processor time
	@$(CLUSTER) ps

.PHONY: logs
logs: $(STAMP) ## Show the cluster's logs (ARGS="-f events.api")
	@$(CLUSTER) logs $(ARGS)

.PHONY: token
token: $(STAMP) ## Print a developer token (ORG=name, SCOPE="events:write …")
	@$(CLUSTER) token --org "$(or $(ORG),demo)" $(if $(SCOPE),--scope "$(SCOPE)")

.PHONY: messages
messages: $(STAMP) needs-service ## Inspect and repair a service's outbox and dead letters (S=tickets ARGS="dead-letters list")
	@$(CLUSTER) messages $(S) $(or $(ARGS),--help)

.PHONY: prometheus
prometheus: $(STAMP) ## Run Prometheus with the alerts beside the running cluster, Ctrl-C stops it
	@$(VENV)/python -m deploy.observability.prometheus

.PHONY: clean-state
clean-state: $(STAMP) ## Delete all data, keys and logs of the cluster
	@$(CLUSTER) clean-state

##@ Containers

COMPOSE := docker compose
COMPOSE_PREPARE := @deploy/compose/prepare.sh

.PHONY: compose-up
compose-up: ## Run the cluster as containers: build changed images, wait until ready (GATEWAY_PORT=)
	$(COMPOSE_PREPARE)
	@$(COMPOSE) build --quiet
	@$(COMPOSE) up --detach --wait
	@echo "ready: gateway http://$$($(COMPOSE) port gateway 8080), documentation at /docs"
	@echo "token: make compose-token ORG=demo; demo: make compose-demo; stop: make compose-down"

.PHONY: compose-demo
compose-demo: $(STAMP) compose-up ## Run the demo on the containers (ARCHIVE=path.zip for your own archive)
	@GATEWAY_URL="http://$$($(COMPOSE) port gateway 8080)" TOKEN="$$($(COMPOSE_TOKEN) --org demo)" \
	  $(VENV)/python -m deploy.compose.demo $(if $(ARCHIVE),"$(ARCHIVE)")

COMPOSE_TOKEN = $(COMPOSE) exec --no-TTY issuer python -m deploy.compose.issuer token

.PHONY: compose-token
compose-token: ## Print a developer token for the containers (ORG=name, SCOPE="events:write …")
	@$(COMPOSE_TOKEN) --org "$(or $(ORG),demo)" $(if $(SCOPE),--scope "$(SCOPE)")

.PHONY: compose-down
compose-down: ## Stop the containers (ARGS=-v deletes their data)
	$(COMPOSE_PREPARE)
	@$(COMPOSE) down $(ARGS)

##@ Check

.PHONY: test
test: $(STAMP) ## Run the tests against real servers (T=path for some, ARGS="-x -k word" for pytest)
	@$(SERVERS) run -- $(VENV)/pytest $(if $(T),$(T),-n $(N) --dist loadfile) $(ARGS)

.PHONY: drill
drill: $(STAMP) ## Break servers and processes under load, at full length, and report what arrived (T=file, ARGS="-k broker")
	@DRILL=full $(VENV)/pytest $(or $(T),tests/drills) --timeout 1800 $(ARGS)

.PHONY: check
check: lint types imports lock-check messages-check k8s-validate containers-check test ## Run every check that a change must pass

.PHONY: lint
lint: $(STAMP) ## Check style and formatting
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .

.PHONY: format
format: $(STAMP) ## Format the code and apply automatic fixes
	@$(VENV)/ruff check --fix-only --quiet .
	@$(VENV)/ruff format .

.PHONY: types
types: $(STAMP) ## Check the types
	@$(VENV)/mypy $(CODE)

IMPORTS := .state/tools/imports

$(IMPORTS)/.complete: uv.lock $(STAMP)
	@UV_PROJECT_ENVIRONMENT=$(IMPORTS) $(UV) sync --frozen --only-group imports --quiet
	@touch $@

.PHONY: imports
imports: $(IMPORTS)/.complete ## Check the import boundaries of services and shared
	@PYTHONPATH=$(subst $() ,:,$(wildcard shared/src shared/testkit/src services/*/src)) $(IMPORTS)/bin/lint-imports

.PHONY: lock-check
lock-check: $(STAMP) ## Check that uv.lock matches the pyproject files
	@$(UV) lock --check --quiet

.PHONY: messages-check
messages-check: $(STAMP) ## Check that docs/messages.md and docs/asyncapi.json match the contracts
	@$(VENV)/python -m docs.generate_messages --check

.PHONY: containers-check
containers-check: $(STAMP) ## Check the Dockerfile and docker-compose.yml
	@$(VENV)/hadolint Dockerfile
	@if docker compose version >/dev/null 2>&1; then \
	  docker compose --env-file deploy/compose/env.example config --quiet; \
	else echo "containers-check: docker-compose.yml was not checked, because \`docker compose\` is missing"; fi

.PHONY: messages-doc
messages-doc: $(STAMP) ## Write docs/messages.md and docs/asyncapi.json, and freeze new samples of messages
	@$(VENV)/python -m docs.generate_messages

.PHONY: k8s-validate
k8s-validate: $(STAMP) ## Check every overlay of deploy/k8s against the schemas of Kubernetes and of the operators
	@$(VENV)/python -m deploy.k8s.validation

.PHONY: k8s-render
k8s-render: $(STAMP) ## Render the overlays of deploy/k8s to .state/k8s (OVERLAY=production for one, ARGS=- to print it)
	@$(VENV)/python -m deploy.k8s.manifests $(OVERLAY) $(ARGS)

.PHONY: k8s-rules
k8s-rules: ## Write the alerts as a resource of the Prometheus operator, from deploy/observability/rules.yml
	@{ printf '%s\n' '# Written by `make k8s-rules` from deploy/observability/rules.yml.' \
	  'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' 'metadata:' '  name: rostrum-rules' 'spec:'; \
	  sed '/^#/d; s/^/  /' deploy/observability/rules.yml; } > deploy/k8s/components/monitoring/rules.yaml

.PHONY: k8s-secrets
k8s-secrets: $(STAMP) ## Print the Secrets of the local overlay of deploy/k8s, for `kubectl apply -f -`
	@$(VENV)/python -m deploy.k8s.local_secrets

##@ Secure

SECURITY := .state/tools/security
SECURITY_STAMP := $(SECURITY)/.complete

$(SECURITY_STAMP): uv.lock $(STAMP)
	@UV_PROJECT_ENVIRONMENT=$(SECURITY) $(UV) sync --frozen --only-group security --quiet
	@touch $@

# `--strict`: a package that the database does not know fails the audit, instead of passing as free of vulnerabilities.
.PHONY: audit
audit: $(SECURITY_STAMP) ## Audit all locked packages for known vulnerabilities (AUDIT_SERVICE=osv for OSV.dev)
	@$(UV) export --frozen --all-packages --all-groups --no-emit-workspace --no-hashes --quiet \
	  --output-file $(SECURITY)/locked.txt >/dev/null
	@$(SECURITY)/bin/pip-audit --requirement $(SECURITY)/locked.txt --no-deps --disable-pip --strict \
	  --progress-spinner off --vulnerability-service $(or $(AUDIT_SERVICE),pypi) $(ARGS)

.PHONY: secrets-scan
secrets-scan: $(SECURITY_STAMP) ## Scan the files of git for secrets that .secrets.baseline does not accept
	@git ls-files -z | xargs -0 $(SECURITY)/bin/detect-secrets-hook --no-verify --baseline .secrets.baseline

.PHONY: secrets-accept
secrets-accept: $(SECURITY_STAMP) ## Accept what the scan finds now as harmless: updates .secrets.baseline, review its diff
	@$(SECURITY)/bin/detect-secrets scan --no-verify --baseline .secrets.baseline

.PHONY: sbom
sbom: SBOM_TAG ?= dev
sbom: $(SECURITY_STAMP) ## List the packages of each service, and of its image (SBOM_TAG=), as CycloneDX in .state/sbom
	@mkdir -p .state/sbom
	@set -e; for service in $(SERVICES); do \
	  $(UV) export --frozen --package rostrum-$$service --no-default-groups --quiet --preview-features sbom-export \
	    --format cyclonedx1.5 --output-file .state/sbom/$$service.cdx.json >/dev/null; \
	  if docker image inspect rostrum-$$service:$(SBOM_TAG) >/dev/null 2>&1; then \
	    SYFT_CHECK_FOR_APP_UPDATE=false $(SECURITY)/bin/syft scan docker:rostrum-$$service:$(SBOM_TAG) --quiet \
	      --output cyclonedx-json=.state/sbom/$$service-image.cdx.json; \
	  else echo "sbom: Docker has no image rostrum-$$service:$(SBOM_TAG), so only its locked packages are listed"; fi; \
	done

##@ Measure

.PHONY: bench
bench: $(STAMP) ## Run the benchmarks (ARGS= for one)
	@$(SERVERS) run --only database --only broker -- $(VENV)/python -m benchmarks $(ARGS)

##@ Migrate

# Uses the service's role on a temporary server, so that autogenerate compares with what the migrations create.
IN_SCRATCH = env -u DATABASE_URL -u TEST_DATABASE_URL $(SERVERS) run --only database -- sh -ec ' \
	address="$${TEST_DATABASE_URL\#\#*@}"; \
	ADMIN_DATABASE_URL="$$TEST_DATABASE_URL" PROVISION="$(S):scratch" $(VENV)/python -m shared.database.provisioning; \
	export DATABASE_URL="postgresql+asyncpg://$(S):scratch@$${address%%/*}/rostrum"; \
	alembic() { $(VENV)/alembic -c services/$(S)/alembic.ini "$$@"; }; \
	alembic upgrade head; \
	$(1)'

.PHONY: revision
revision: AUTO ?= --autogenerate
revision: $(STAMP) needs-service ## Write a migration for S=service, M="what it does" (AUTO= for an empty one)
	@test -n "$(M)" || { echo 'M is missing: say what the migration does, such as make revision S=$(S) M="add a colour to events"'; exit 2; }
	@export MESSAGE="$(M)"; $(call IN_SCRATCH,alembic revision $(AUTO) -m "$$MESSAGE")

.PHONY: migrate
migrate: $(STAMP) needs-service ## Migrate the database at DATABASE_URL to the newest schema of S=service (`make up` does so itself)
	@test -n "$$DATABASE_URL" || { echo 'DATABASE_URL is missing: name the database, such as make migrate S=$(S) DATABASE_URL=postgresql+asyncpg://…'; exit 2; }
	@$(VENV)/alembic -c services/$(S)/alembic.ini upgrade head

.PHONY: needs-service
needs-service:
	@test -n "$(filter $(SERVICES),$(S))" || { echo 'S is missing: name a service, S=$(subst $() ,|,$(SERVICES))'; exit 2; }

# ------------------------------------------------------------------ set-up

# Find the first CPython 3.11 or newer. An existing environment comes first, so that it is kept.
FIND_PYTHON = for name in $(CURDIR)/$(VENV)/python python3 python3.15 python3.14 python3.13 python3.12 python3.11; do \
	if found=$$(command -v $$name) && $$found -c "import sys; sys.exit(sys.version_info < (3, 11) \
	    or sys.implementation.name != 'cpython')" 2>/dev/null; then break; fi; found=; done; \
	test -n "$$found" || { echo "No CPython 3.11 or newer is installed. On Debian: apt-get install python3" >&2; exit 1; }

OWN_UV := .state/tools/uv
UV = $(or $(shell command -v uv),$(OWN_UV)/bin/uv)

$(STAMP): uv.lock pyproject.toml shared/pyproject.toml shared/testkit/pyproject.toml $(wildcard services/*/pyproject.toml)
	@set -e; $(FIND_PYTHON); \
	if ! command -v uv >/dev/null && ! test -x $(OWN_UV)/bin/uv; then \
	  base=$$($$found -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'); \
	  $$base -m pip --version >/dev/null 2>&1 || { echo "uv is missing, and so is pip to fetch it. \
	On Debian: apt-get install python3-pip" >&2; exit 1; }; \
	  echo "setup: fetching uv"; \
	  rm -rf $(OWN_UV).unfinished; \
	  $$base -m pip install --quiet --disable-pip-version-check --no-warn-script-location --target $(OWN_UV).unfinished 'uv>=0.9,<1'; \
	  rm -rf $(OWN_UV); mv $(OWN_UV).unfinished $(OWN_UV); \
	fi; \
	echo "setup: fetching the locked packages"; \
	uv=$$(command -v uv || echo $(OWN_UV)/bin/uv); \
	case $$found in $(CURDIR)/$(VENV)/*) ;; *) export UV_PYTHON=$$found ;; esac; \
	$$uv sync --frozen --all-packages --quiet; \
	touch $@
