# `make run` and `make test` are all that most people need; both set up what is missing first.

PORT ?= 8000
ARGS ?=
MINUTES ?= 60

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED := .venv/.locked
INSTALLED := .venv/.installed
BENCHED := .venv/.benched
MODULES := web/ui/node_modules/.installed
PAGE := web/static/index.html
PAGE_SOURCES := $(shell find web/ui \( -name node_modules -o -path web/ui/tests \) -prune -o -type f -print)
LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --custom-compile-command "make lock" --quiet

.PHONY: help setup run test check bench soak lock clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

setup: $(INSTALLED) $(PAGE) ## what everything else needs: .venv and the page

run: setup ## sample markets on http://localhost:8000 (another port: PORT=8001)
	$(BIN)/candled demo --port $(PORT)

test: export PYTHONDONTWRITEBYTECODE = # or each of many processes compiles everything again
test: setup ## every test of the page and of the daemon (some of these: ARGS="-k journal")
	scripts/npm run --silent test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

check: setup ## style and types, of the daemon and of the page
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	scripts/npm run --silent check

bench: setup $(BENCHED) ## every figure, beside its reference
	$(BIN)/python -m bench $(ARGS)

soak: setup ## kill the daemon a thousand times under load, cut connections ten thousand times, then an hour of random histories, and one of requests (less: MINUTES=10)
	$(BIN)/python -m bench.soak $(ARGS)
	CANDLED_SOAK_CUTS=10000 $(BIN)/python -m pytest -s -p no:xdist tests/test_cuts.py
	CANDLED_SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest -s -p no:xdist tests/test_histories.py tests/test_fuzz.py

lock: setup ## bring requirements/*.txt up to date with pyproject.toml (newest of everything: ARGS=--upgrade)
	$(LOCK) $(ARGS) --output-file requirements/run.txt pyproject.toml
	$(LOCK) $(ARGS) --output-file requirements/dev.txt --constraints requirements/run.txt --group dev pyproject.toml
	$(LOCK) $(ARGS) --output-file requirements/bench.txt --constraints requirements/dev.txt --group bench pyproject.toml
	$(LOCK) $(ARGS) --output-file requirements/node.txt --group node

clean: ## everything that setup made; data directories stay
	rm -rf .venv web/static web/ui/node_modules dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(LOCKED): requirements/dev.txt scripts/venv
	@scripts/venv
	@echo "installing the locked packages"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

$(INSTALLED): pyproject.toml $(LOCKED)
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(BENCHED): requirements/bench.txt $(INSTALLED)
	@$(PIP) --require-hashes -r requirements/bench.txt
	@touch $@

$(MODULES): web/ui/package.json web/ui/package-lock.json scripts/npm | $(LOCKED)
	@echo "installing what the page is built with"
	@scripts/npm ci --silent
	@touch $@

$(PAGE): $(PAGE_SOURCES) $(MODULES)
	@scripts/npm run --silent build
	@touch $@
