# Everything a newcomer types. `make` alone lists it.
#
#   make devnet PEERS=8 ROUNDS=5 ARGS="--kill 2@3"      another network
#   make test   ARGS="tests/storage -k tile"            another selection
#   make devnet PYTHON=python3.12                       another Python, for the first installation
#   make devnet TORCH_INDEX=URL                         another build of torch (README, "Another build of torch")

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS ?= 4
ROUNDS ?= 20
SECONDS ?= 60
SEEDS ?= 0..499
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
TORCH_INDEX ?=
ARGS ?=
PACKAGES := protocol consensus p2p storage compute node simnet

.DEFAULT_GOAL := help
.PHONY: help devnet test quick check mutants fuzz nightly bench docs vectors vectors-approve clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

# Done once, and again when what is installed changes. The stamp is written last, so that a broken installation is repeated.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "nocknode needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not there): name another with PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "'$(PYTHON) -m venv' failed: install this Python's venv module (on Debian and Ubuntu: python3-venv)" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[dev]'
	@touch $@

devnet: $(INSTALLED) ## a network of real nodes on this machine trains a model while you watch
	$(BIN)/nocknode simnet up --peers $(PEERS) --rounds $(ROUNDS) $(ARGS)

test: $(INSTALLED) ## the whole test suite
	$(BIN)/python -m pytest $(ARGS)

quick: $(INSTALLED) ## the tests without the slow ones
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

check: $(INSTALLED) ## lint, format, types, imports and the rules of the house: before every commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 0 tests/architecture

mutants: $(INSTALLED) ## which generator of simnet/finality notices which wrong machine, at which seed: some minutes
	$(BIN)/python -m tests.consensus.finality.mutants

fuzz: $(INSTALLED) ## hostile bytes for every decoder: SECONDS=600 for longer, ARGS="transaction --seed 7" for one
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

nightly: $(INSTALLED) ## every scenario in its small form and the swarm, 500 seeds each: hours; SEEDS=0..19 JOBS=8 for other ones
	@failed=; for name in $(basename $(notdir $(wildcard configs/scenarios/*.toml))); do \
	  echo "== $$name"; $(BIN)/nocknode simnet run $$name --ci --seeds $(SEEDS) --jobs $(JOBS) $(ARGS) || failed="$$failed $$name"; \
	done; \
	echo "== swarm"; $(BIN)/nocknode simnet swarm --seeds $(SEEDS) --jobs $(JOBS) $(ARGS) || failed="$$failed swarm"; \
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

bench: $(INSTALLED) ## every program in benchmarks/, its short form; one that fails does not hide the others
	@failed=; for program in $(basename $(notdir $(wildcard benchmarks/[a-z]*.py))); do \
	  echo "== $$program"; $(BIN)/python -m benchmarks.$$program --quick $(ARGS) || failed="$$failed $$program"; \
	done; test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

docs: $(INSTALLED) ## the reference of every package, in site/
	$(BIN)/pdoc --output-directory site $(PACKAGES)

vectors: $(INSTALLED) ## compare the golden bytes of protocol/ with what the code makes now
	$(BIN)/python -m tools.vectors

vectors-approve: $(INSTALLED) ## a decision: replace the golden bytes by what the code makes now
	$(BIN)/python -m tools.vectors --approve
	$(BIN)/python -m tests.compute.golden_deltas --write

clean: ## remove what was made here, the environment included
	rm -rf $(VENV) build site devnet *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
