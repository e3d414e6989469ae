# Every target sets up its own .venv first; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all check typecheck format clean

demo: $(STAMP)
	$(BIN)/rtc compile recipes/lenet5-mnist.yaml --target cpu --target rtx4060ti

test: $(STAMP) check
	$(BIN)/python -m pytest -m "not slow" -n 2

test-all: $(STAMP) check
	$(BIN)/python -m pytest -n 2

check: $(STAMP) typecheck
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

typecheck: $(STAMP)
	@mkdir -p .typecheck/rtc
	@for folder in compiler passes calibration targets recipes; do \
		ln -sfn ../../$$folder .typecheck/rtc/$$folder; done
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) .typecheck build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
