# Two commands: `make demo` trains a small study here and prints its table; `make test` checks everything.
PYTHON ?= python3
VENV   ?= .venv
SHELL  := bash
BIN    := $(VENV)/bin

.PHONY: demo test lint types tests docs site site-serve bench bench-gpu soak validate constraints clean

demo: $(VENV)/node
	$(BIN)/farm demo

test: $(VENV)/test
	$(MAKE) --jobs 2 lint types
	$(MAKE) tests

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/test
	$(BIN)/mypy

# What starts a Ray stays in one process, which begins with it; all else is spread over the cores, a file at a time.
# (tests/conftest.py has the order.) Two Rays at once took longer than one after the other: 60 idle processes of Ray are
# a core's work. What takes long by its nature is for `make soak`. Some 200 processes import farm: it is compiled once for
# all of them, also in a container that sets this variable.
tests: export PYTHONDONTWRITEBYTECODE :=
tests: $(VENV)/test $(BIN)/prometheus $(BIN)/chromium $(BIN)/tmux
	$(BIN)/python -m pytest -m "not long" --durations 25 --numprocesses logical --maxprocesses 4 \
	  --dist loadfile --no-loadscope-reorder

# The pages that are made from the program: docs/study.md, docs/commands.md and docs/rooms.md.
docs: $(VENV)/test
	$(BIN)/python -m cli.reference

# The documentation as a site, in site/: open site/index.html. `make tests` builds it too, and looks at it (tests/test_site.py).
# The variable silences an advertisement.
site: $(VENV)/test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

site-serve: $(VENV)/test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: $(VENV)/test
	$(BIN)/python -m benchmarks

# The first ten minutes on a GPU, in order, and what follows from them; PEER=FOLDER adds a checkout with nanoGPT's model.py.
bench-gpu: export PEER := $(PEER)
bench-gpu: $(VENV)/test
	$(BIN)/python -m benchmarks cuda

# The verdicts on simulated studies whose truth is known: docs/validation.md. About a minute; `make tests` has it in small.
validate: $(VENV)/test
	nice $(BIN)/python -m benchmarks.validate

# The long tests: among them a farm of four hosts, each with a network of its own (root and iproute2), and planted bugs.
# Then runs that are hurt at random, beside a twin left alone: make soak SEED=7 RUNS=8 FAULTS=6 KINDS=kill-agent,kill-redis
soak: export SEED := $(SEED)
soak: export RUNS := $(RUNS)
soak: export FAULTS := $(FAULTS)
soak: export KINDS := $(KINDS)
soak: $(VENV)/test $(VENV)/sky $(BIN)/rsync
	$(BIN)/python -m pytest -m long --durations 0
	$(BIN)/python -m benchmarks.soak

# Of what pip says: the downloads that take their time, and the last long silence.
LARGE = '/[0-9] [MG]B\)/ { sub(/-(cp|py)[0-9][^ ]*/, ""); print; fflush() } /^Installing collected/ { print "  Installing"; fflush() }'

define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "farm needs Python 3.11 or later; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "make: installing farm with torch, Ray and what they need into $(VENV). This happens once, and takes some minutes and about 2 GB (more with torch for CUDA)."
	@set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --constraint constraints.txt --editable ".[$(1)]" | awk $(LARGE)
	@echo "make: installed"
	@touch $(VENV)/$(2)
endef

$(VENV)/node: pyproject.toml constraints.txt
	$(call install,node,node)

$(VENV)/test: pyproject.toml constraints.txt
	@command -v ssh >/dev/null || { echo "No ssh, which make test needs. On Debian and Ubuntu: apt-get install openssh-client"; exit 1; }
	$(call install,all,test)
	@touch $(VENV)/node

# A test scrapes a farm with a real Prometheus: the machine's own, else Debian's package, unpacked here and not installed.
# Lists of packages that are missing or stale are fetched anew, into a folder of ours: root is not needed.
LISTS = -o Dir::State::Lists=$$PWD/lists -o Dir::Cache=$$PWD/cache
FETCH = download -qq -o APT::Sandbox::User=root

$(BIN)/prometheus: | $(VENV)/test
	@own=$$(command -v prometheus) && ln -sf "$$own" $@ || { \
	  mkdir -p $(VENV)/prometheus/lists/partial $(VENV)/prometheus/cache/archives/partial && cd $(VENV)/prometheus && \
	  { apt-get $(FETCH) prometheus || { apt-get $(LISTS) update -qq && apt-get $(LISTS) $(FETCH) prometheus; }; } && \
	  dpkg -x prometheus_*.deb . && rm -rf lists cache *.deb && ln -sf ../prometheus/usr/bin/prometheus ../bin/; } || \
	 { echo "No Prometheus, which make test needs. On Debian and Ubuntu: apt-get install prometheus; elsewhere see https://prometheus.io/download"; exit 1; }

# A report is read in a real Chromium: the machine's own, else Debian's for machines without a screen, unpacked here with
# the libraries that this machine lacks.
BROWSERS = chromium chromium-browser google-chrome google-chrome-stable
GET = -y -qq -o Debug::NoLocking=1 -o Dir::Cache=$$PWD/cache -o APT::Sandbox::User=root --no-install-recommends \
  --download-only install chromium-headless-shell

$(BIN)/chromium: | $(VENV)/test
	@own=$$(command -v $(BROWSERS) | head -1); if [ -n "$$own" ]; then ln -sf "$$own" $@; else \
	  mkdir -p $(VENV)/chromium/lists/partial $(VENV)/chromium/cache/archives/partial && cd $(VENV)/chromium && \
	  { apt-get $(GET) || { apt-get $(LISTS) update -qq && apt-get $(LISTS) $(GET); }; } && \
	  for package in cache/archives/*.deb; do dpkg -x $$package . || exit 1; done && rm -rf lists cache && \
	  printf '%s\n' '#!/bin/sh' 'here=$$(dirname "$$0")/../chromium/usr/lib' \
	    'export LD_LIBRARY_PATH=$$(echo $$here/*-linux-gnu* $$here/*-linux-gnu*/pulseaudio | tr " " :)' \
	    'exec $$here/chromium/chromium-headless-shell "$$@"' > ../bin/chromium && chmod +x ../bin/chromium && \
	  { ../bin/chromium --version > /dev/null || { rm ../bin/chromium; false; }; }; fi || \
	 { echo "No Chromium, which make test needs. On Debian and Ubuntu: apt-get install chromium; elsewhere: Chrome"; exit 1; }

# A test watches a farm in a real terminal. Debian's tmux brings two small libraries, which differ in name by release.
define terminal
tmux $$(apt-cache $(1) depends -i tmux | awk '$$1 == "Depends:" && $$2 ~ /^lib(event|utempter)/ { print $$2 }')
endef

$(BIN)/tmux: | $(VENV)/test
	@own=$$(command -v tmux) && ln -sf "$$own" $@ || { \
	  mkdir -p $(VENV)/tmux/lists/partial $(VENV)/tmux/cache/archives/partial && cd $(VENV)/tmux && \
	  { apt-get $(FETCH) $(call terminal,) || \
	    { apt-get $(LISTS) update -qq && apt-get $(LISTS) $(FETCH) $(call terminal,$(LISTS)); }; } && \
	  for package in *.deb; do dpkg -x "$$package" . || exit 1; done && rm -rf lists cache *.deb && \
	  libraries=$$(dirname "$$(find "$$PWD/usr/lib" -name 'libevent_core*' | head -n 1)") && \
	  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/usr/bin/tmux "$$@"\n' "$$libraries" "$$PWD" > ../bin/tmux && \
	  chmod +x ../bin/tmux && ../bin/tmux -V > /dev/null; } || \
	 { rm -f $@; echo "No tmux, which make test needs. On Debian and Ubuntu: apt-get install tmux"; exit 1; }

# A long test drives the real SkyPilot: in an environment of its own (0.5 GB), as it needs other versions than farm of
# click, uvicorn and others. It wants rsync.
$(VENV)/sky: | $(VENV)/test
	@rm -rf $@ && $(PYTHON) -m venv $@ && echo "make: installing SkyPilot into $@ (once)" && \
	  $@/bin/python -m pip install --quiet --disable-pip-version-check 'skypilot[lambda]==0.14.1' || { rm -rf $@; false; }

$(BIN)/rsync: | $(VENV)/test
	@own=$$(command -v rsync) && ln -sf "$$own" $@ || { \
	  mkdir -p $(VENV)/rsync/lists/partial $(VENV)/rsync/cache/archives/partial && cd $(VENV)/rsync && \
	  { apt-get $(FETCH) rsync libpopt0 || { apt-get $(LISTS) update -qq && apt-get $(LISTS) $(FETCH) rsync libpopt0; }; } && \
	  for package in *.deb; do dpkg -x "$$package" . || exit 1; done && rm -rf lists cache *.deb && \
	  libraries=$$(dirname "$$(find "$$PWD/usr/lib" -name 'libpopt.so*' | head -n 1)") && \
	  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/usr/bin/rsync "$$@"\n' "$$libraries" "$$PWD" > ../bin/rsync && \
	  chmod +x ../bin/rsync && ../bin/rsync --version > /dev/null; } || \
	 { rm -f $@; echo "No rsync, which make soak needs. On Debian and Ubuntu: apt-get install rsync"; exit 1; }

# The versions of .venv, for everybody else's: after the whole suite has passed with them.
constraints: $(VENV)/test
	@{ echo "# Versions that the whole suite passed with. make demo and make test install these."; \
	  $(BIN)/python -m pip freeze --disable-pip-version-check --exclude-editable | sed 's/+[a-z0-9.]*$$//' | grep '==' | grep -v '^triton=='; } > constraints.txt

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
