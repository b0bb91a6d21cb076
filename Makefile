# make demo: train a GPT on tales and read what it writes.     make test: everything that CI runs.
# make fuzz: hostile flags, files and folders, many more than in make test.
# make docs: the site, in build/site.
# make install-trials: the wheel, the sdist and the clone, each in a new environment (PYTHON=python3.14 for another Python).
# make browser: every chapter in JupyterLab.     make colab: every chapter alone, in a Python without nanogpt.
PYTHON ?= python3
CONSTRAINTS ?= -c constraints.txt
BIN := .venv/bin

.PHONY: demo test docs fuzz install-trials browser colab env clean

.venv/demo: settings.ini setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable . $(CONSTRAINTS)
	touch $@

.venv/dev: .venv/demo
	$(BIN)/pip install --quiet --editable '.[dev]' $(CONSTRAINTS)
	touch $@

env: .venv/dev

demo: .venv/demo
	$(BIN)/nanogpt demo

test: env
	$(BIN)/python scripts/check.py
	$(BIN)/ruff check nanogpt tests scripts speedrun
	$(BIN)/pyright nanogpt
	rm -rf build/alone  # each notebook runs in a folder of its own, so that it needs no file but itself
	for path in nbs/*.ipynb nbs/tools/*.ipynb nbs/solutions/*.ipynb nbs/projects/*.ipynb; do \
	  folder=build/alone/$${path%.ipynb} && mkdir -p $$folder && cp $$path $$folder || exit 1; \
	done
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test build/alone --n-workers 3 --timing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile

docs: env
	rm -rf build/docs build/site && mkdir -p build/docs
	cp -R docs/. nbs images speedrun benchmarks README.md CONTRIBUTING.md CHANGELOG.md LICENSE build/docs
	test -e out/demo/ckpt.pt || $(BIN)/nanogpt demo
	$(BIN)/nanogpt explain out/demo --title "Inside a GPT" --out build/docs/explain.html
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -d build/doctrees build/docs build/site
	NANOGPT_SITE=build/site $(BIN)/python -m pytest --quiet tests/test_site.py
	@echo "build/site/index.html"

fuzz: env
	NANOGPT_FUZZ=20 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_fuzz.py

install-trials:
	rm -rf build/dist build/tools && $(PYTHON) -m venv build/tools && build/tools/bin/pip install --quiet build
	build/tools/bin/python -m build --outdir build/dist
	build/tools/bin/python scripts/install_trials.py build/dist/* .

browser: env
	NANOGPT_BROWSER=all $(BIN)/python -m pytest tests/browser

colab: env
	NANOGPT_COLAB=all $(BIN)/python -m pytest tests/test_colab.py

clean:
	rm -rf .venv build *.egg-info
