# make demo   the story of the README, on two daemons that it starts and stops
# make test   every check and test
# make check  format, lint, types, import directions
# make bench  the figures of docs/performance.md, measured here

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check format bench clean lock

demo: $(READY)
	$(BIN)/python demo/story.py

# Three at a time: much of a test is waiting. A file's tests stay together, they share daemons.
test: check
	$(BIN)/python -m pytest -n 3 --dist loadfile

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python -m bench

# The hashes in requirements.txt are checked, so what is installed is what was reviewed.
$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(READY)

# Pin the dependencies of pyproject.toml again (needs `uv` on the path).
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-header --quiet --upgrade -o requirements.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .demo
