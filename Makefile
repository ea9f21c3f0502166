# make demo | test | test-host | proof | lint | bench | reproduce.  PYTHON=python3.12 picks an interpreter, TORCH_INDEX=URL a wheel index for torch.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
OUT ?= out
WORKERS ?= auto
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-host proof lint bench reproduce clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/python -m dummyforcing_core demo --out $(OUT)

# Side by side, one file a worker; those inside ComfyUI and on its page, which take longest, first.
test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	  tests/host tests/web tests/slow tests/golden tests/fuzz tests/property tests/unit

# Long proofs (a thousand chunks) of what `make test` shows on short clips.
proof: $(STAMP)
	$(BIN)/python -m pytest -m proof -n $(WORKERS) tests/unit tests/property

# The tests against a real ComfyUI and its page, which `make test` skips where there is none; here they must run.
test-host: $(STAMP)
	.ci/setup-host
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[browser]"
	COMFYUI_REQUIRED=1 $(BIN)/python -m pytest tests/host tests/web

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# The nodes are part of a package only in the host's eyes: they are checked as one beside a link to this folder.
	@parent=$$(mktemp -d) && ln -s "$(CURDIR)" "$$parent/pack" && cd "$$parent" && \
	  "$(abspath $(BIN))/mypy" --config-file "$(CURDIR)/pyproject.toml" --cache-dir "$(CURDIR)/.mypy_cache" -p pack.nodes; \
	  status=$$?; rm -r "$$parent"; exit $$status

bench: $(STAMP)
	$(BIN)/python benchmarks/bench_rollout.py

# The paper's tables beside this machine's: make reproduce ARGS="--model FILE --text-encoder FILE --vae FILE"
reproduce: $(STAMP)
	$(BIN)/python scripts/reproduce.py --out $(OUT)/reproduce $(ARGS)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv), then run make again" >&2; \
	  exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@if [ -n "$(TORCH_INDEX)" ]; then $(BIN)/python -m pip install -q -c constraints.txt --index-url "$(TORCH_INDEX)" torch; fi
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[standalone,test]"
	@touch $@

clean:
	rm -rf $(VENV) $(OUT)
