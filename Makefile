# Everything a developer or CI runs. Each target brings what it needs (config/tools/setup.sh) and is quick when that is there.
NODE := node_modules/.bin/node
SETUP := bash config/tools/setup.sh
JEST := $(NODE) --disable-warning=ExperimentalWarning --experimental-vm-modules node_modules/jest/bin/jest.js \
  -c config/tools/jest.mjs
DEPCRUISE := $(NODE) node_modules/dependency-cruiser/bin/dependency-cruiser.mjs \
  --config config/tools/dependency-cruiser.mjs --output-type err-long
# Here NODE is a node of the lab, when somebody says which.
LAB := node_modules/.bin/node test/lab/kubernetes/lab-command.ts
LAB_NODE = $(if $(findstring command,$(origin NODE)),$(NODE))
PRETTIER := $(NODE) node_modules/prettier/bin/prettier.cjs --config config/tools/prettier.json --log-level warn
SHELL_SCRIPTS := .ci/run config/tools/setup.sh test/lab/debian-mirror.sh test/lab/qemu10.sh test/lab/kubernetes/build.sh \
  test/lab/kubernetes/node.sh test/lab/kubernetes/kubevirt/launcher/recipe.sh \
  test/lab/kubernetes/kubevirt/launcher/virt-launcher-monitor.sh \
  src/memory/shim/build.sh \
  src/main/kubectl-twinrun.sh src/main/kubectl_complete-twinrun.sh

SEED ?=
PROGRAMS ?=
KILLS ?= 30
JSON ?= build/bench.json

.DEFAULT_GOAL := help
.PHONY: help setup modules build generate format lint unit test sim model soak demo demo-cluster traces bench clean \
  lab-binaries kubernetes e2e lab lab-down lab-power-off lab-power-on

help: ## Print what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install and build all that the targets below need (root, Debian packages, node_modules, guest images)
	@$(SETUP) packages modules shim guests qemu10

modules:
	@$(SETUP) modules

build: ## Compile the preload shim, the only C there is (everything else runs from src as it is)
	@$(SETUP) shim

generate: modules ## Write crds/ anew from src/api, config/kustomize from the chart (a test says when they are out of date)
	@$(NODE) src/main/generate.ts
	@$(NODE) test/chart/kustomize.ts

format: modules ## Format everything
	@$(PRETTIER) --write .

lint: modules ## Types, lint rules, who imports whom, formatting, shell scripts
	@failed=; \
	$(NODE) node_modules/typescript/bin/tsc -p . || failed=yes; \
	$(NODE) node_modules/eslint/bin/eslint.js -c config/tools/eslint.mjs src test || failed=yes; \
	$(DEPCRUISE) src test || failed=yes; \
	$(PRETTIER) --check . || failed=yes; \
	if command -v shellcheck >/dev/null; then shellcheck $(SHELL_SCRIPTS) || failed=yes; \
	else echo "lint: shell scripts are not checked, there is no shellcheck (make setup)"; fi; \
	[ -z "$$failed" ]

unit: modules build ## The tests that start no guest of the lab; TEST=PATH for the tests of one file or folder
	@$(if $(TEST),$(JEST) $(TEST),$(NODE) test/main.ts unit)

test: setup ## Everything that must pass, stage by stage, on a plain machine without KVM
	@$(NODE) test/main.ts

sim: modules ## Ten thousand simulated lives of a pair; SEED=N replays one with its log
	@$(NODE) test/sim/main.ts $(if $(SEED),--seed $(SEED),--seeds 10000)

model: modules ## Every interleaving of a small pair and its quorum, to the end; prints the number of states
	@$(NODE) test/model/main.ts

lab-binaries: ## Build a real Kubernetes, once (ten minutes or more); PROGRAMS=kube-apiserver for a part of it
	@bash test/lab/kubernetes/build.sh $(PROGRAMS)

kubernetes: setup lab-binaries ## The tests against a real Kubernetes: custom resources, a control plane, a node
	@$(NODE) test/main.ts kubernetes

e2e: setup lab-binaries ## Twinrun on a cluster of three nodes, every fault done to it, a client that counts
	@$(NODE) test/main.ts e2e

lab: setup lab-binaries ## A Kubernetes of three nodes on this machine, to try things on; it says how to use it
	@$(LAB) up

lab-down: modules ## Take the lab away, with everything in it
	@$(LAB) down

lab-power-off: ## NODE=node-a loses power
	@$(LAB) power-off $(LAB_NODE)

lab-power-on: ## NODE=node-a boots from its disk
	@$(LAB) power-on $(LAB_NODE)

soak: setup ## Kill processes, hosts and links at random, KILLS=30 of them; SEED= repeats a run's choices
	@$(NODE) test/soak/main.ts --kills $(KILLS) $(if $(SEED),--seed $(SEED))

demo: setup ## Two hosts, two guests, kill -9, power off, cut cables: watch clients not notice
	@rm -rf build/demo
	@$(NODE) test/demo/main.ts --traces $(CURDIR)/build/demo

demo-cluster: setup lab-binaries ## A ProtectedVM with PostgreSQL on three Kubernetes nodes: power off, and clients do not notice
	@$(NODE) test/demo/on-cluster.ts

traces: modules ## Replay what the engines of make soak and make demo wrote down through the protocol machine
	@$(NODE) test/traces/main.ts build

bench: setup ## Every promised figure against its target, in one run; JSON=FILE gets them, samples beside it
	@$(NODE) test/bench/main.ts --json $(JSON)

clean: ## Remove what the targets made in this checkout (the caches outside it stay) and what dead labs left behind
	@if [ -x $(NODE) ] && [ "$$(id -u)" = 0 ]; then $(LAB) down && $(NODE) test/lab/hosts.ts clean; fi
	@rm -rf build node_modules
