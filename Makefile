# make run: the app on the shipped pack. make test: everything the tests need, then the tests. make style: lint.

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
IN = $(VENV)/bin/python
ARGS ?=

.PHONY: run test style clean

run: $(VENV)/.app
	$(IN) app.py $(ARGS)

test: $(VENV)/.dev
	$(IN) -m pytest $(ARGS)

style: $(VENV)/.dev
	$(IN) -m ruff format .
	$(IN) -m ruff check --fix .

$(VENV)/.app: requirements.txt | $(IN)
	$(IN) -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt | $(IN)
	$(IN) -m pip install --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(VENV)/.app

$(IN):
	@test -n "$(PYTHON)" || { echo "Python 3.10, 3.11 or 3.12 is needed and was not found."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "Install Python's venv module (Debian: python3-venv) and retry."; exit 1; }

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
