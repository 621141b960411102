# make check: everything that must hold before a commit.  make demo: segment the demo CT.
# make fuzz: damaged headers with a new seed, for some minutes.
# make nnunet: train nnU-Net once on phantoms; NORMNET_NNUNET is the folder of its environment.
# Every target sets up what it needs in .venv, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.NOTPARALLEL:
.PHONY: check demo test fuzz nnunet lint types docs clean

check: lint types docs test

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(INSTALL) -e '.[dev,docs]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python demo/run.py demo-out

test: $(VENV)/.developer
	$(BIN)/pytest --numprocesses logical --dist loadfile --no-loadscope-reorder \
		--cov --cov-report=term:skip-covered

fuzz: $(VENV)/.developer
	$(BIN)/python -m tests.robustness.fuzz --seed $$(date +%s) --save fuzz-failures

nnunet: $(VENV)/.developer
	@test -n "$(NORMNET_NNUNET)" || { echo "set NORMNET_NNUNET=FOLDER"; exit 1; }
	NORMNET_NNUNET=$(NORMNET_NNUNET) $(BIN)/pytest -m slow tests/experiments/test_nnunet.py

lint: $(VENV)/.developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.developer
	$(BIN)/mypy

docs: $(VENV)/.developer
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html; to search, serve it: python3 -m http.server -d site"

clean:
	rm -rf $(VENV) demo-out site
