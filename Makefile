# `make demo` and `make test` set up everything they need. `make install` does nothing when it is up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: install install-test demo check test bench bench-size clean

demo: install
	$(BIN)/sb3-prefine demo

test: install-test
	$(BIN)/pytest -n $(WORKERS)

check: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python tools/check_prose.py

# Needs RL_TRAINED_AGENTS. For numbers to publish, leave the machine alone meanwhile.
bench: install-test
	for what in step whole safe population growth threads rollout; do $(BIN)/python -m benchmarks speed $$what || exit 1; done
	$(BIN)/python -m benchmarks speed-page

# Writes 17 GB to FOLDER.
bench-size: install-test
	$(BIN)/python -m benchmarks speed size $(FOLDER)
	$(BIN)/python -m benchmarks speed-page

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sb3-prefine needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.created
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[demo]"
	@touch $@

# Also the two safety packages (without their pins) and Bullet.
$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	$(BIN)/sb3-prefine envs --install
	@touch $@

clean:
	rm -rf $(VENV) build dist runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
