# Everything by one word. `make demo` and `make test` install what is missing first; see .ci/bootstrap.
# Paths are relative, so that the checkout may lie in a folder with spaces.
SHELL = /bin/sh
PY = .venv/bin/python
QUICK = not slow and not renode and not hardware
WORKERS = 2
BOARDS = f412-sim,f746-sim,f765-sim,h743-sim
ZOO = zoo:mobilenetv2-w0.35-r64 zoo:mcunet-vww1 zoo:ds-cnn zoo:resnet-8 zoo:ad-autoencoder

.PHONY: help demo search test test-all lint format figures clean

help:
	@echo 'make demo      benchmark the zoo on the four simulated boards, and leave a report in results/ (SEARCH=1: make'
	@echo '               search after it)'
	@echo 'make search    find, train and deploy a network for handwritten digits on a simulated board'
	@echo 'make test      lint, types, import rules and all tests that are not slow'
	@echo 'make test-all  the slow tests as well, and those that need renode or a real board where they exist'
	@echo "make figures   measure the committed figures into results/figures.json (ONLY='sim_*', ALL=1)"
	@echo 'make lint      ruff, mypy and import-linter;  make format  rewrites the sources'

demo:
	@.ci/bootstrap demo
	@status=0; .venv/bin/tinyrack bench $(ZOO) --boards $(BOARDS) --json results/demo.json || status=$$?; \
	test $$status -gt 1 || .venv/bin/tinyrack report || status=$$?; exit $$status
	$(if $(SEARCH),@$(MAKE) --no-print-directory search)

search:
	@.ci/bootstrap test
	.venv/bin/tinyrack search --task digits --board f746-sim --latency-ms 4 --sram-kb 32 --population 12 \
	  --generations 4 --out results/search-digits

lint:
	@.ci/bootstrap test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-logo

format:
	@.ci/bootstrap test
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

test: lint
	$(PY) -m pytest -n $(WORKERS) -m '$(QUICK)' $(TESTS)

test-all: lint
	$(PY) -m pytest -n $(WORKERS) $(TESTS)

figures:
	@.ci/bootstrap test
	$(PY) -m tests.benchmarks $(if $(ONLY),--only '$(ONLY)') $(if $(ALL),--all)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
