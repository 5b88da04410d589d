# Two commands do everything: `make demo` runs the main job, `make test` passes the tests.
# Both set themselves up first (virtual environment, pinned constraints, install) and can be repeated.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint lint-deploy chaos comings cost setup clean

demo: $(READY)
	$(BIN)/phcc-simulate configs/demo.yaml --out runs/demo

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Every process of a real deployment killed at every stage; about an hour on two cores. See deploy/RELIABILITY.md.
chaos: $(READY)
	$(BIN)/python tests/deployment/chaos.py --out runs/chaos

# Sites that are slow, vanish, return, come late; about twenty minutes.
comings: $(READY)
	$(BIN)/python tests/deployment/comings.py --out runs/comings

# What a round costs beside Flower's own, memory at 3 and 24 sites, 200 rounds in a row; about an hour.
cost: $(READY)
	$(BIN)/python tests/deployment/cost.py --out runs/cost

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The files of deploy/ under their own linters, which most machines lack; systemd-analyze and promtool where they are.
lint-deploy: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[deploy-lint]"
	$(BIN)/python -m pytest -q tests/deploy

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[simulation,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
