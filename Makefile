# Everything here also works without make: `python3 install.py` sets up, then `.venv/bin/course --help` lists the commands.
PYTHON ?= python3
BIN := .venv/bin
unexport PYTHONHOME PYTHONOPTIMIZE PYTHONPATH PYTHONSTARTUP PYTHONWARNINGS # of another Python

.DEFAULT_GOAL := help
.PHONY: help setup course lab ui workbench test test-integration test-passes test-docker test-slow site navigation notebooks screenshots bench lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-17s %s\n", $$1, $$2 }' Makefile

setup: ## set up .venv from requirements.lock (the others do it by themselves)
	@"$(PYTHON)" install.py

course: setup ## run every notebook in order, into a showcase store of its own
	@"$(BIN)/course" run --showcase

lab: setup ## open JupyterLab on your copies in work/, with the MLflow UI next to it
	@"$(BIN)/course" lab

ui: setup ## open the MLflow UI on your runs
	@"$(BIN)/course" ui

workbench: setup ## start PostgreSQL, the MLflow server and JupyterLab together
	@"$(BIN)/course" workbench

test: setup ## run the fast tests: style, types, unit tests, text rules, each notebook once
	@"$(BIN)/python" -m pytest

test-integration: setup ## test with real servers, processes and a browser
	@"$(BIN)/python" -m pytest -m integration

test-passes: setup ## run each notebook in harder cases: killed and resumed, with nbval, on the other market, with vector instructions off
	@"$(BIN)/python" -m pytest -m passes

test-docker: setup ## test the images and the workbench in containers (needs Docker)
	@"$(BIN)/python" -m pytest -m docker -n 3 --dist loadfile

test-slow: setup ## run the slow tests: no network, another user, a class of 30, fresh environments
	@"$(BIN)/python" -m pytest -m slow

site: setup ## build the course as a website, in .course/site
	@"$(BIN)/python" -m sphinx -W -E -q -c book . .course/site

navigation: setup ## renew maps and tables from chapters/contents.toml (for authors)
	@"$(BIN)/course" navigation

notebooks: setup ## regenerate notebooks/ from chapters/ (for authors)
	@"$(BIN)/course" notebooks

screenshots: setup ## renew the committed screenshots (for authors)
	@"$(BIN)/python" -m pytest -m integration -n 0 --screenshots tests/integration/course/test_browser.py

bench: setup ## run the benchmarks and write bench/results.json
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
