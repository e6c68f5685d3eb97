# Everything a developer or CI runs. Each target brings what it needs (config/tools/setup.sh) and is quick when that is there.
NODEJS := node_modules/.bin/node
SETUP := bash config/tools/setup.sh
# What there has to be for two hosts; for a cluster; for everything. What commas join is made side by side.
FOR_HOSTS := packages modules shim guests
FOR_LAB := packages modules shim kubernetes,launcher,guests
FOR_ALL := packages modules shim kubernetes,launcher,guests,qemu10
# Node says of several things that work that they may change.
QUIET := $(NODEJS) --disable-warning=ExperimentalWarning
JEST := $(QUIET) --experimental-vm-modules node_modules/jest/bin/jest.js \
  -c config/tools/jest.mjs
DEPCRUISE := $(NODEJS) node_modules/dependency-cruiser/bin/dependency-cruiser.mjs \
  --config config/tools/dependency-cruiser.mjs --output-type err-long
LAB := $(NODEJS) test/lab/kubernetes/lab-command.ts
PRETTIER := $(NODEJS) node_modules/prettier/bin/prettier.cjs --config config/tools/prettier.json --log-level warn
SHELL_SCRIPTS := .ci/run config/tools/setup.sh test/lab/debian-mirror.sh test/lab/qemu10.sh test/lab/kubernetes/build.sh \
  test/lab/kubernetes/node.sh test/lab/kubernetes/kubevirt/launcher/recipe.sh \
  test/lab/kubernetes/kubevirt/launcher/virt-launcher-monitor.sh \
  src/memory/shim/build.sh \
  src/main/kubectl-twinrun.sh src/main/kubectl_complete-twinrun.sh

SEED ?=
PROGRAMS ?=
KILLS ?= 30
JSON ?= build/bench.json
CLUSTER ?= lab
CHAPTER ?= $(if $(filter existing,$(CLUSTER)),existing,cluster)
CHAPTERS := $(patsubst test/demo/chapters/%.ts,%,$(wildcard test/demo/chapters/*.ts))
ifeq ($(filter $(CHAPTER),$(CHAPTERS)),)
$(error there is no CHAPTER $(CHAPTER): $(CHAPTERS))
endif
NEEDS_hosts := for-hosts
NEEDS_existing := modules
NETWORK ?= replication

.DEFAULT_GOAL := help
.PHONY: help setup modules build generate format lint unit test sim model soak demo traces bench clean \
  lab-binaries kubernetes e2e for-hosts for-lab lab lab-down lab-power-off lab-power-on lab-cut-link lab-mend-link lab-api-outage \
  lab-frail-disks lab-fail-disk lab-mend-disk

help: ## Print what there is to make
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install and build all that the targets below need (root, Debian packages, node_modules, guest images)
	@$(SETUP) $(FOR_ALL)

for-hosts:
	@$(SETUP) $(FOR_HOSTS)

for-lab:
	@$(SETUP) $(FOR_LAB)

modules:
	@$(SETUP) modules

build: ## Compile the preload shim, the only C there is (everything else runs from src as it is)
	@$(SETUP) shim

generate: modules ## Write crds/ anew from src/api, config/kustomize from the chart (a test says when they are out of date)
	@$(NODEJS) src/main/generate.ts
	@$(NODEJS) test/chart/kustomize.ts

format: modules ## Format everything
	@$(PRETTIER) --write .

lint: modules ## Types, lint rules, who imports whom, formatting, shell scripts
	@failed=; \
	$(NODEJS) node_modules/typescript/bin/tsc -p . || failed=yes; \
	$(NODEJS) node_modules/eslint/bin/eslint.js -c config/tools/eslint.mjs src test || failed=yes; \
	$(DEPCRUISE) src test || failed=yes; \
	$(PRETTIER) --check . || failed=yes; \
	if command -v shellcheck >/dev/null; then shellcheck $(SHELL_SCRIPTS) || failed=yes; \
	else echo "lint: shell scripts are not checked, there is no shellcheck (make setup)"; fi; \
	[ -z "$$failed" ]

unit: modules build ## The tests that start no guest of the lab; TEST=PATH for the tests of one file or folder
	@$(if $(TEST),$(JEST) $(TEST),$(NODEJS) test/main.ts unit)

test: setup ## Everything that must pass, stage by stage, on a plain machine without KVM
	@$(NODEJS) test/main.ts

sim: modules ## Ten thousand simulated lives of a pair; SEED=N replays one with its log
	@$(NODEJS) test/sim/main.ts $(if $(SEED),--seed $(SEED),--seeds 10000)

model: modules ## Every interleaving of a small pair and its quorum, to the end; prints the number of states
	@$(NODEJS) test/model/main.ts

lab-binaries: ## Build a real Kubernetes, once (six minutes); PROGRAMS=kube-apiserver for a part of it
	@bash test/lab/kubernetes/build.sh $(PROGRAMS)

kubernetes: for-lab ## The tests against a real Kubernetes: custom resources, a control plane, a node
	@$(NODEJS) test/main.ts kubernetes

e2e: $(if $(filter existing,$(CLUSTER)),modules,for-lab) ## Every fault of a cluster of three nodes; CLUSTER=existing: on yours
	@$(QUIET) $(if $(filter existing,$(CLUSTER)),test/demo/chapters/existing.ts --faults all,test/main.ts integration-long e2e e2e-long)

lab: for-lab ## A Kubernetes of three nodes on this machine with Twinrun on it, to try things; it says how
	@$(LAB) up

lab-down: modules ## Take the lab away, with everything in it
	@$(LAB) down

lab-power-off: ## NODE=node-a loses power
	@$(LAB) power-off $(NODE)

lab-power-on: ## NODE=node-a boots from its disk
	@$(LAB) power-on $(NODE)

lab-cut-link: ## Silence between NODE=node-a and NETWORK=replication, management or lan, or in it with PEER=node-b only
	@$(LAB) cut-link $(NODE) $(NETWORK) $(PEER)

lab-mend-link: ## The same link is whole again
	@$(LAB) mend-link $(NODE) $(NETWORK) $(PEER)

lab-frail-disks: ## Volumes that are made from now on are on disks that fail when they are told to
	@$(LAB) frail-disks

lab-fail-disk: ## The newest volume of NODE=node-a has TROUBLE=write, read, slow, hang or full
	@$(LAB) fail-disk $(NODE) $(TROUBLE)

lab-mend-disk: ## It works again
	@$(LAB) mend-disk $(NODE)

lab-api-outage: ## The API server is away for SECONDS=60
	@$(LAB) api-outage $(or $(SECONDS),60)

soak: for-hosts ## Faults of every kind at random, two at once too, KILLS=30 of them; SEED= repeats a run's choices
	@$(NODEJS) test/soak/main.ts --kills $(KILLS) $(if $(SEED),--seed $(SEED))

demo: $(or $(NEEDS_$(CHAPTER)),for-lab) ## A node loses power, clients notice nothing; CHAPTER=hosts, maintenance...
	@$(QUIET) test/demo/chapters/$(CHAPTER).ts

traces: modules ## Replay what the engines of make soak and make demo wrote down through the protocol machine
	@$(NODEJS) test/traces/main.ts build

bench: setup ## Every promised figure against its target, in one run; JSON=FILE gets them, samples beside it
	@$(NODEJS) test/bench/main.ts --json $(JSON)

clean: ## Remove what the targets made in this checkout (the caches outside it stay) and what dead labs left behind
	@if [ -x $(NODEJS) ] && [ "$$(id -u)" = 0 ]; then $(LAB) down && $(NODEJS) test/lab/hosts.ts clean; fi
	@rm -rf build node_modules
