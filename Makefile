# Each target sets up its own .venv first; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo-installed
DEV := $(VENV)/.dev-installed

.PHONY: demo test test-slow check typecheck format clean

demo: $(DEMO)
	$(BIN)/rtc compile recipes/lenet5-mnist.yaml --target cpu --target rtx4060ti

test: check
	$(BIN)/python -m pytest -m "not slow" -n 2

test-slow: $(DEV)
	$(BIN)/python -m pytest -m slow -n 2

check: typecheck
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

# The folders lie at the top and are imported as rtc.*: type checkers see that through links.
typecheck: $(DEV)
	@mkdir -p .typecheck/rtc
	@for folder in compiler passes calibration targets recipes; do \
		ln -sfn ../../$$folder .typecheck/rtc/$$folder; done
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(DEMO): pyproject.toml
	@echo "installing rtc and the demo's runtimes into $(VENV) (PyTorch is large: a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(BIN)/python -m pip install -qq --editable ".[demo]"
	@touch $@

$(DEV): pyproject.toml
	@echo "installing rtc and its tools into $(VENV) (PyTorch is large: a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(BIN)/python -m pip install -qq --editable ".[dev]"
	@touch $(DEMO) $@

clean:
	rm -rf $(VENV) .typecheck build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
