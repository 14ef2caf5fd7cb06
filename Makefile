# The project's commands. Needs python >= 3.11, make, git and a package registry; everything else goes to .venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.lrnb-setup
UV_VERSION := 0.13.9
WORKERS ?= 3
MAP_SEEDS ?= 32-35
QUESTION_SEEDS ?= 0-3
SIZE_SEEDS ?= 0-3

.DEFAULT_GOAL := help
.PHONY: help setup study lab test test-slow results by-hand parameters bench bench-scoring lint format map questions retention size-rates sizes languages lesson-run smol-base lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP)  ## .venv with the versions of requirements.lock; a second call does nothing

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "lrnb needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "could not make $(VENV). On Debian and Ubuntu: apt-get install python3-venv, then make setup" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

study: setup  ## the whole study on the synthetic micro-world: table and report in minutes
	$(BIN)/lrnb run params/qaa.yaml --preset nano

lab: setup  ## JupyterLab at notebooks/00_start_here.ipynb
	$(BIN)/lrnb lab

test: setup  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

test-slow: setup  ## the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

map: setup  ## the study over a region, a pool a cell in docs/results/map (hours; continues where it was)
	@set -e; for x in 0 0.08 0.24; do for n in 240 960 3840; do \
	  mix="{$$(for t in topic reading response sums; do printf "world_$$t: $$((n / 4)), "; done)}"; \
	  $(BIN)/lrnb run params/qaa.yaml --preset nano --seeds $(MAP_SEEDS) --pool docs/results/map/x$$x-sft$$n \
	    --set runs=runs/map-x$$x --set base_bilingual=$$x --set base_alone=0.02 --set "sft_mix=$$mix" \
	    --set 'ct_budgets=[4096, 16384, 65536, 262144, 1048576]' --set 'methods=[average, task_arithmetic, ties]'; \
	done; done

questions: setup  ## two open questions of the paper, asked of four seeds' runs (hours; continues where it was)
	$(BIN)/lrnb run params/qaa.yaml --preset nano --seeds $(QUESTION_SEEDS)
	$(BIN)/lrnb questions params/qaa.yaml --preset nano --seeds $(QUESTION_SEEDS) --pool docs/results/questions

retention: setup  ## which ability needs most of SFT's entries: one more stage of seed 0 of nano (minutes), in its report
	$(BIN)/lrnb run params/qaa.yaml --preset nano --set retention=262144

size-rates: setup  ## learning rates of nano at four sizes, chosen on seeds of their own (hours; continues where it was)
	$(BIN)/python -m lrnb.cli.sizes rates

sizes: setup  ## nano at four sizes of model, a pool a size in docs/results/sizes (hours; continues where it was)
	$(BIN)/python -m lrnb.cli.sizes run --seeds $(SIZE_SEEDS)

FROZEN := docs/results/smol/frozen.yaml
SEVEN := --preset smol --set 'tasks_written=[]' --set test_limit=204 --set 'methods=[average, task_arithmetic, ties, ties_sv, nuslerp]'
$(FROZEN):
	$(BIN)/lrnb run params/bn.yaml params/mn.yaml --seeds 0-0 --pool docs/results/smol-tuned $(SEVEN)
	$(BIN)/lrnb freeze runs/smol/bn runs/smol/mn --out $@

languages: setup smol-base $(FROZEN)  ## seven languages on a real model, LRNB_DATA=FOLDER: tuned on two, frozen (hours; continues where it was)
	$(BIN)/lrnb run params/all.yaml --seeds 0-1 --pool docs/results/smol $(SEVEN) --set @$(FROZEN) --set runs=runs/frozen
	$(BIN)/lrnb run params/mn.yaml params/ug.yaml params/bo.yaml params/or.yaml --seeds 2-2 --pool docs/results/smol $(SEVEN) --set @$(FROZEN) --set runs=runs/frozen

lesson-run: setup  ## make the small run that ships with the lesson, and the lesson's solutions, anew (minutes)
	$(BIN)/lrnb run params/qaa.yaml --preset nano --set base_width=64 --set runs=runs/lesson
	$(BIN)/python -m lrnb.pipeline.lesson_run runs/lesson/nano/qaa
	$(BIN)/python -m lrnb.widgets.lesson > docs/teaching-solutions.md

results: setup  ## docs/results.md, from the files of docs/results
	$(BIN)/python -m lrnb.report.results_page docs/results > .results.md
	mv .results.md docs/results.md

by-hand: setup  ## docs/ties-by-hand.html, the lesson on six numbers for any website
	$(BIN)/python -m lrnb.report.by_hand_page > .by-hand.html
	mv .by-hand.html docs/ties-by-hand.html

parameters: setup  ## docs/parameters.md, from the fields of Study
	$(BIN)/python -m lrnb.study.parameters_page > .parameters.md
	mv .parameters.md docs/parameters.md

bench: setup  ## merging measured against mergekit and a plain copy; options in BENCH="--shape small"
	$(BIN)/python -m benchmarks.merge $(BENCH)

bench-scoring: setup  ## items/s against the harness's own model: SCORING="smol=DIR --data-root DIR --lang bn"
	$(BIN)/python -m benchmarks.scoring $(SCORING)

lint: setup  ## ruff (notebooks too), types, order of the folders, stripped outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify $$(find notebooks -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*')

format: setup  ## put code and notebooks into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout $$(find notebooks -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*')

smol-base: setup  ## fetch and convert the base of preset smol (Gemma 3 270M; its terms of use are shown)
	$(BIN)/python -m lrnb.training.base gemma3-270m

lock: setup  ## resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
	  --no-emit-index-url --extra test pyproject.toml --output-file requirements.lock

clean:  ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
