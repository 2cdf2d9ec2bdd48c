# make book: build the site.  make test: every test but the slow ones.  Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: book zip pdf test quick-test lint coverage strict links lock clean

book: .venv/installed
	$(BIN)/toroid book

# The site in one file, to read offline; the pages as a PDF, printed by a Chromium.
zip pdf: .venv/installed
	$(BIN)/toroid book --$@

test: .venv/installed
	$(PYTEST) tests toroid --durations=10
	TOROID_STORE=$$(mktemp -d) $(PYTEST) book --nbval-lax --nbval-current-env

quick-test: .venv/installed
	$(PYTEST) tests toroid -x --ignore tests/test_site.py

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/mypy && $(BIN)/codespell

# The tests once more, with the share of lines and branches that they run; weekly.
coverage: .venv/installed
	$(PYTEST) tests toroid --cov --cov-report=term

# Every output of every page as it is stored, but for times and what goes to stderr; weekly.
strict: .venv/installed
	TOROID_STORE=$$(mktemp -d) $(PYTEST) book --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg

links: .venv/installed
	$(BIN)/jupyter-book build . --builder linkcheck --path-output _build/links

# Needs uv; torch and torchvision keep their pins, the accelerator libraries are left to torch.
lock:
	mkdir -p .venv
	grep -E '^torch(vision)?==' requirements.lock > .venv/torch.txt
	head -2 requirements.lock > .venv/lock
	uv pip compile --universal --python-version 3.10 --fork-strategy fewest --no-annotate --no-header \
		--no-emit-index-url --all-extras -c .venv/torch.txt pyproject.toml --quiet \
		| grep -v -i -E '^(nvidia|cuda|triton)' >> .venv/lock
	mv .venv/lock requirements.lock

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# runs/ stays: it holds results.
clean:
	rm -rf _build .venv
