# `make help` lists what there is. Every target sets up what it needs: Python 3.11 or newer is enough to start.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV ?= .venv
PYTHONS ?= 3.11 3.12 3.13
BIN := $(VENV)/bin
# Asks nothing of pip but wheels whose hashes are written down.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
.DEFAULT_GOAL := help
# What a development environment has: requirements/$(LOCKED).txt
LOCKED ?= dev
.PHONY: help chat test test-pythons test-providers check format lint types layers lock bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

chat: $(VENV)/.chat ## Start the chat (pass options with ARGS="--help")
	@$(BIN)/llmgine chat $(ARGS)

test: $(VENV)/.dev ## Run all tests (one: ARGS="tests/bus -k order")
	$(if $(ARGS),$(BIN)/pytest $(ARGS),$(all_tests))
	@$(if $(ARGS),,touch $(VENV)/.tested)

test-pythons: $(VENV)/.dev ## Run all tests on every supported Python that is here
	@for v in $(PYTHONS); do \
		p=$$(command -v "python$$v") && "$$p" --version >/dev/null 2>&1 || p=$$(ls "$$HOME"/.pyenv/versions/$$v.*/bin/python 2>/dev/null | tail -n 1); \
		if [ -n "$$p" ]; then echo "== Python $$v"; $(MAKE) --no-print-directory test PYTHON="$$p" VENV=".venv-$$v" \
			INSTALL="$(BIN)/uv pip install --quiet --python .venv-$$v" || exit 1; \
		else echo "== Python $$v is not installed: skipped"; fi; done

test-providers: $(VENV)/.dev ## Run the tests of the providers with all of their libraries
	@$(MAKE) --no-print-directory test VENV=.venv-providers LOCKED=providers \
		INSTALL="$(BIN)/uv pip install --quiet --python .venv-providers" ARGS="tests/llm/providers $(ARGS)"

check: format lint types layers $(VENV)/.tested ## Everything a change must pass (tests that did, on these files, are not run again)
	@echo "All checks have passed; the tests, on $$(date -r $(VENV)/.tested '+%Y-%m-%d at %H:%M')."

format: $(VENV)/.dev ## Check the formatting (mend it: ARGS=--fix make format)
	$(BIN)/ruff format $(if $(filter --fix,$(ARGS)),,--check) .

lint: $(VENV)/.dev ## Lint
	$(BIN)/ruff check .

types: $(VENV)/.dev ## Check the types, with mypy and with pyright
	$(BIN)/mypy
	$(BIN)/pyright

layers: $(VENV)/.dev ## Check what imports what
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## Measure beside the peers, which get an environment of their own
	$(BIN)/python benchmarks/run.py $(ARGS)

lock: $(VENV)/.dev ## Pin the newest versions that fit
	$(call compile,chat,--group build)
	$(call compile,dev,--extra mcp --extra otel --extra postgres --extra prometheus --group dev)
	$(call compile,providers,--extra litellm --extra any-llm --group dev)

clean: ## Remove the environments and the caches
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# On every processor there is. What forks processes to kill them is a process of its own, beside the one test that takes a minute.
define all_tests
$(BIN)/pytest --numprocesses auto --dist loadfile --ignore tests/crash --ignore tests/soak
	@echo $(BIN)/pytest tests/soak, beside tests/crash
	@$(BIN)/pytest tests/soak & soak=$$!; $(BIN)/pytest tests/crash; crash=$$?; wait $$soak && exit $$crash
endef

define compile
$(BIN)/uv pip compile pyproject.toml --extra openai --extra local $(2) --universal --python-version 3.11 --upgrade --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --quiet --output-file requirements/$(1).txt
endef

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "LLMgine needs Python 3.11 or newer; none was found. Name one: make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.chat: $(BIN)/python requirements/chat.txt pyproject.toml
	@test -f $(VENV)/.dev || echo "Setting up $(VENV) (once)…"
	@$(INSTALL) --only-binary :all: --require-hashes -r requirements/chat.txt
	@$(INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@

# Whatever a test may look at.
TESTED := $(shell find src tests docs examples benchmarks requirements *.md *.toml Makefile -type f -not -path '*/__pycache__/*' 2>/dev/null)
$(VENV)/.tested: $(VENV)/.dev $(TESTED)
	$(all_tests)
	@touch $@

$(VENV)/.dev: $(BIN)/python requirements/$(LOCKED).txt pyproject.toml
	$(INSTALL) --only-binary :all: --require-hashes -r requirements/$(LOCKED).txt
	$(INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@ $(VENV)/.chat
