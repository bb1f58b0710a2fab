# Coldframe. `make up` is all a newcomer needs; `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup models up test test-slow lint bench-engine bench-llamacpp study clean
PY := .venv/bin/python
VAR := $(or $(COLDFRAME_VAR),var)
STARTER := $(VAR)/models/smollm2-135m-instruct
# Tests and linters never ask a model hub: an offline call would retry for 23 s.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
PYTEST := $(OFFLINE) $(PY) -m pytest -n 2 --dist loadfile

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv and the browser assets (says nothing when there is nothing to do)
	@deploy/setup.sh

models: setup ## Fetch and convert the starter models into var/models
	@$(PY) -m jobs.starter --into $(VAR)/models

up: setup ## Start everything on http://127.0.0.1:8000 (PORT=... for another); Ctrl-C stops it
	@exec $(PY) manage.py up

test: setup models ## Run the tests, the browser tests included where there is a Chromium
	@$(PYTEST) $(ARGS)

test-slow: setup models ## Run the tests that take minutes as well
	@$(PYTEST) --run-slow $(ARGS)

lint: setup ## Check style, types, migrations, deployment settings and common security mistakes
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(OFFLINE) $(PY) manage.py makemigrations --check --dry-run
	@$(OFFLINE) HTTPS=1 $(PY) manage.py check --deploy --tag security --fail-level WARNING
	@# Of lesser severity is what ruff's S rules report as well, where every exception carries its reason.
	@$(PY) -m bandit --quiet --severity-level high --recursive ml jobs webapp --configfile pyproject.toml

bench-engine: setup models ## Measure the engine: mixed against plain, and against generate()
	@$(OFFLINE) $(PY) bench/engine.py --model $(STARTER) --llamacpp $(VAR)/bench/llamacpp $(ARGS)

bench-llamacpp: setup models ## Build llama.cpp for bench-engine to compare with (minutes; needs cmake and a C++ compiler)
	@$(PY) bench/make_llamacpp.py --model $(STARTER) --into $(VAR)/bench/llamacpp $(ARGS)

study: setup models ## Reproduce docs/studies from the raw data sets: DATA=folder, ARGS=--quick for a short check
	@$(OFFLINE) $(PY) bench/study.py $(if $(DATA),--data $(DATA)) $(ARGS)

clean: ## Remove what setup and the linters made (var/, your data, stays)
	@rm -rf .venv node_modules webapp/static/vendor staticfiles .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
