# Two commands do everything: `make demo` runs the main job, `make test` passes the tests.
# Both set themselves up first (virtual environment, pinned constraints, install) and can be repeated.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint lint-deploy chaos comings cost newcomer fuzz bench bench-ingest bench-scale setup clean

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

# The README's lines for a coordinator and two hospitals, run from clean directories and timed.
newcomer: $(READY)
	$(BIN)/python tests/deployment/newcomer.py --out runs/newcomer

# 2,000 spoilt inputs through the ingest; about half an hour.
fuzz: $(READY)
	$(BIN)/python tests/phcc_client/ingest/fuzz.py --out runs/fuzz --batches 100

# The speed table: ratios, one line a goal, and what was lost since the last run; about ten minutes. ROW=3: one row.
bench: $(READY)
	$(BIN)/python tests/benchmarks/all_rows.py $(if $(ROW),--row $(ROW))

# The ingest of 500 synthetic patients: time, memory, and a second run with nothing to do.
bench-ingest: $(READY)
	$(BIN)/python tests/benchmarks/bench_ingest.py --out runs/bench-ingest

# What a round costs the coordinator with 2, 8, 32 and 100 virtual centres that train nothing. SITES="2 8": these.
bench-scale: $(READY)
	$(BIN)/python tests/benchmarks/bench_scale.py --out runs/bench-scale $(if $(SITES),--sites $(SITES))

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
