# `make demo` and `make test` work on a fresh checkout: each makes .venv first, if need be.
.PHONY: demo test lint docs notebooks bench fuzz mutants soak clean venv

demo: venv
	.venv/bin/hetsyn demo

test: venv
	.venv/bin/python -m pytest -n 2 --dist loadfile

lint: venv
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy

docs: venv
	.venv/bin/python -m sphinx -q -W -n --keep-going -b html -d build/docs/doctrees docs build/docs/html
	@echo 'The pages are in build/docs/html/index.html'

notebooks: venv
	.venv/bin/python tools/notebooks

bench: venv
	.venv/bin/hetsyn bench

fuzz: venv
	.venv/bin/python tools/fuzz

mutants: venv
	.venv/bin/python tools/mutants

soak: venv
	.venv/bin/python tools/soak

venv:
	@tools/make_venv

clean:
	rm -rf .venv .venv-newest build dist docs/notebooks *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
