# Everything here also works without make: `python install.py` sets up, then `.venv/bin/course --help` lists the commands.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup course lab ui workbench test test-docker test-slow notebooks screenshots bench lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' Makefile

setup: ## set up .venv from requirements.lock (the others do it by themselves)
	@"$(PYTHON)" install.py

course: setup ## run every notebook in order
	@"$(BIN)/course" run

lab: setup ## open JupyterLab on your copies in work/, with the MLflow UI beside it
	@"$(BIN)/course" lab

ui: setup ## open the MLflow UI on your runs
	@"$(BIN)/course" ui

workbench: setup ## start PostgreSQL, the MLflow server and JupyterLab together
	@"$(BIN)/course" workbench

test: setup ## prove it: every notebook three times, and everything else
	@"$(BIN)/python" -m pytest -n 3 --dist loadgroup --no-loadscope-reorder -m "not slow and not docker"

test-docker: setup ## the workbench in containers, where a Docker engine answers
	@"$(BIN)/python" -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m docker

test-slow: setup ## the long proofs: network cut, another user, fresh environments
	@"$(BIN)/python" -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m slow

notebooks: setup ## regenerate notebooks/ from chapters/ (for authors)
	@"$(BIN)/course" notebooks

screenshots: setup ## renew the committed screenshots (for authors)
	@"$(BIN)/python" -m pytest -m "not slow and not docker" --screenshots tests/integration/course/test_browser.py

bench: setup ## measure; writes bench/results.json
	@"$(BIN)/python" bench/bench.py

.PHONY: coverage
coverage: setup ## which lines the unit tests run (printed, not required)
	@"$(BIN)/python" -m pytest --cov tests/unit

lock: setup ## renew requirements.lock from pyproject.toml (for authors)
	@"$(BIN)/uv" pip compile --universal --fork-strategy fewest --generate-hashes --all-extras --python-version 3.11 \
	  --no-emit-index-url --no-header --quiet pyproject.toml --output-file requirements.lock

clean: ## remove .venv and caches, never your runs or your notebooks
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .coverage
	find . \( -path ./.course -o -path ./work -o -path ./.git \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
