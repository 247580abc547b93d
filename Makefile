# Everything runs in .venv, installed from requirements/*.txt. Each of these locks is complete: pip resolves nothing,
# builds nothing and takes no package whose hash is not in it, so a later release on the index cannot change the result.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL_LOCKED := $(PIP) install --no-deps --require-hashes --only-binary :all:
HELM := helm.sh/helm/v3/cmd/helm@v3.22.0
# What cargo builds is kept between builds.
export CARGO_TARGET_DIR ?= $(abspath $(VENV))/cargo
KERNEL := bidstream_svc/core/kernel
CARGO_ARGUMENTS := --locked --release --manifest-path $(KERNEL)/Cargo.toml
KUSTOMIZE := sigs.k8s.io/kustomize/kustomize/v5@v5.8.1

.DEFAULT_GOAL := help
.PHONY: help run kernel check test test-kernel test-pure wheel test-wheel audit coverage lint format bench costliest figures manifests deploy-check console-check bulk-check console-shots \
  faults optout-kills optout-fleet relay-faults attacks soak fuzz fuzz-kernel mutants lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

run: $(VENV)/run.installed  ## serve on an embedded operator and print a ready-to-paste curl
	@ls $(KERNEL)/_native.*.so >/dev/null 2>&1 || echo "without the native kernel; after \`make kernel\` the next start uses it" >&2
	@$(BIN)/bidstream-svc serve --dev

kernel: $(VENV)/kernel.built  ## build the native kernel for this checkout, or say what is missing for it

# While you edit: about 6 seconds on two cores once mypy has its cache.
check: $(VENV)/dev.installed $(VENV)/kernel.built  ## ruff, mypy --strict and the tests of the core and the architecture, in a few seconds
	$(MAKE) --no-print-directory lint & \
	$(BIN)/python -m pytest --quiet tests/core tests/test_architecture.py; tests=$$?; \
	wait $$! && exit $$tests

test: $(VENV)/dev.installed $(VENV)/kernel.built  ## run all tests, except those that make deploy-check adds
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-kernel:  ## run the tests of the kernel's crate; needs cargo
	cargo test $(CARGO_ARGUMENTS) --no-default-features  # without PyO3, which needs an interpreter around it

# The package without its kernel, installed beside the checkout and imported from there.
IMPORT_PURE = BUILD_KERNEL=0 PYTHONSAFEPATH=1 PYTHONPATH="$(abspath $(VENV))/pure:$(CURDIR)"
test-pure: $(VENV)/pure.installed $(VENV)/dev.installed  ## run the tests that the native kernel can affect without it
	$(IMPORT_PURE) $(BIN)/python -m pytest --override-ini pythonpath= --numprocesses auto --dist loadfile \
	  tests/test_native.py $(addprefix tests/,core fastpath keystore server)

# cargo gets Zig as its compiler and linker, which know each version of glibc and other processors. For a processor other
# than this machine's, the target has to be installed (`rustup target add`).
MACHINE := $(shell uname -m)
TARGET ?= $(MACHINE)-unknown-linux-gnu
WHEEL_MACHINE = $(firstword $(subst -, ,$(TARGET)))
WHEEL_TAG = manylinux_2_17_$(WHEEL_MACHINE)
ZIG := $(abspath $(VENV))/zig
wheel: $(VENV)/wheel.installed  ## build a manylinux wheel for every Python from 3.11 on into dist/; needs cargo; TARGET=aarch64-unknown-linux-gnu for Arm
	rm -rf build && mkdir -p $(ZIG) dist
	rm -f dist/bidstream_svc-*manylinux*_$(WHEEL_MACHINE).whl
	printf '#!/bin/sh\nexec "$(abspath $(BIN))/cargo-zigbuild" zig cc -- -target $(WHEEL_MACHINE)-linux-gnu.2.17 "$$@"\n' > $(ZIG)/cc-$(TARGET)
	printf '#!/bin/sh\nexec "$(abspath $(BIN))/cargo-zigbuild" zig ar -- "$$@"\n' > $(ZIG)/ar
	chmod +x $(ZIG)/cc-$(TARGET) $(ZIG)/ar
	PATH="$(abspath $(BIN)):$$PATH" BUILD_KERNEL=1 CARGO_BUILD_TARGET=$(TARGET) _PYTHON_HOST_PLATFORM=linux-$(WHEEL_MACHINE) \
	CARGO_TARGET_$(shell echo $(TARGET) | tr a-z- A-Z_)_LINKER=$(ZIG)/cc-$(TARGET) \
	CC_$(subst -,_,$(TARGET))=$(ZIG)/cc-$(TARGET) AR_$(subst -,_,$(TARGET))=$(ZIG)/ar CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/wheel \
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --plat $(WHEEL_TAG) --wheel-dir dist build/wheel/*.whl
	rm -rf build
	$(BIN)/auditwheel show dist/bidstream_svc-*$(WHEEL_TAG).whl | grep -F '"$(WHEEL_TAG)"'

TESTS ?= --numprocesses auto --dist loadfile
test-wheel:  ## run all tests (or TESTS) on the wheel in dist/, in an empty environment of PYTHON without compiler and Rust; see `make wheel`
	PYTHON=$(PYTHON) tests/wheel.sh dist/bidstream_svc-*$(MACHINE).whl $(TESTS)

# `cargo install --locked cargo-deny` installs the tool. Without access to the database of advisories, take it out of AUDIT.
AUDIT ?= advisories bans licenses sources
audit:  ## check the crates for known vulnerabilities, duplicates, licences and sources; needs cargo-deny
	cargo deny --locked --manifest-path $(KERNEL)/Cargo.toml check $(AUDIT)

coverage: $(VENV)/dev.installed  ## every branch of the core is tested, and nine in ten of the rest
	$(BIN)/python -m pytest --cov --cov-report=
	$(BIN)/coverage report --include='bidstream_svc/core/*' --fail-under=100
	$(BIN)/coverage report --omit='bidstream_svc/core/*' --fail-under=90

lint: $(VENV)/dev.installed  ## ruff and mypy --strict; where cargo is, clippy and rustfmt
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	if command -v cargo; then \
	  cargo fmt --check --manifest-path $(KERNEL)/Cargo.toml && cargo clippy $(CARGO_ARGUMENTS) --all-targets -- --deny warnings; \
	fi

format: $(VENV)/dev.installed  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	if command -v cargo; then cargo fmt --manifest-path $(KERNEL)/Cargo.toml; fi

# With PACKAGE=DIR, the package that `pip install --no-deps --target DIR` put there is measured as well.
bench: $(VENV)/dev.installed $(VENV)/kernel.built  ## measure; see benchmarks/README.md
	$(BIN)/python -m benchmarks $(if $(PACKAGE),--package $(PACKAGE))

SEARCH_SECONDS ?= 60
costliest: $(VENV)/dev.installed $(VENV)/kernel.built  ## search for the most expensive request, three times for SEARCH_SECONDS
	$(BIN)/python -m benchmarks.costliest --seconds $(SEARCH_SECONDS)

figures: $(VENV)/dev.installed  ## write the kept results of `make bench` into the documents
	$(BIN)/python -m benchmarks.figures

faults: $(VENV)/dev.installed  ## everything that can go wrong, at length; writes docs/reliability.md
	$(BIN)/python -m tests.faults --write docs/reliability.md

# Without root, or where no memory cgroup can be made, memory is limited by `ulimit -v`.
attacks: $(VENV)/dev.installed $(VENV)/kernel.built $(VENV)/pure.installed  ## attack the sidecar in every way that is known, in 256 MiB; writes docs/reliability.md
	$(BIN)/python -m tests.attacks --write docs/reliability.md

KILLS ?= 1000
optout-kills: $(VENV)/dev.installed  ## kill writers of the opt-out store KILLS times, also on a full disk, which needs root, and those of a service
	$(BIN)/python -m tests.optouts.kills --kills $(KILLS)
	$(BIN)/python -m tests.optouts.kills --kills $(KILLS) --full-disk
	$(BIN)/python -m tests.faults.optout_kills --times $(KILLS)

optout-fleet: $(VENV)/dev.installed $(VENV)/kernel.built  ## opt-outs through a fleet, while Redis and receivers fail; needs redis-server
	$(BIN)/python -m tests.faults.optouts
	$(BIN)/python -m tests.faults.optout_receiver_kills

RELAY_HOSTS ?= 60
relay-faults: $(VENV)/dev.installed $(VENV)/kernel.built  ## RELAY_HOSTS sidecars behind two relays, while these and the operator fail; writes docs/reliability.md
	$(BIN)/python -m tests.faults.relays --hosts $(RELAY_HOSTS) --write docs/reliability.md

SOAK_SECONDS ?= 120
soak: $(VENV)/dev.installed  ## full load with a key refresh every two seconds, for SOAK_SECONDS
	$(BIN)/python -m tests.faults.soak --seconds $(SOAK_SECONDS)

FUZZ_SECONDS ?= 30
FUZZ_TARGETS ?= token layers key_response envelope http settings
fuzz: $(VENV)/fuzz.installed  ## fuzz each of FUZZ_TARGETS for FUZZ_SECONDS, guided by coverage
	for target in $(FUZZ_TARGETS); do \
	  $(BIN)/python -m tests.fuzz $$target -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 || exit 1; \
	done

# The flags are those of cargo-fuzz. With a target, build scripts are compiled without them.
FUZZ_FLAGS := -Zsanitizer=address -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing
fuzz-kernel:  ## fuzz the kernel's crate for FUZZ_SECONDS under the address sanitizer; needs a nightly Rust
	host=$$(rustc +nightly --version --verbose | sed -n 's/^host: //p') && \
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo +nightly run --locked --release --target "$$host" --manifest-path $(KERNEL)/fuzz/Cargo.toml -- \
	  -max_total_time=$(FUZZ_SECONDS) -max_len=1024 -timeout=10

MUTANTS ?= core
mutants: $(VENV)/mutants.installed  ## list small changes of MUTANTS that no test notices; ENDING=37 tries a fifth; see tests/mutants.py
	$(BIN)/python -m tests.mutants $(MUTANTS) $(if $(ENDING),--ending $(ENDING))

# The chart is the only source of what deploy/kubernetes has in common with it. The labels left out describe a release of
# the chart. Helm built from source assumes an old Kubernetes unless told otherwise.
FORMS := gateway gateway-programmes gateway-optouts sidecar sidecar-programmes sidecar-optouts sidecar-network-policy \
  optouts-network-policy optout-receivers relay
manifests: $(BIN)/helm  ## generate the manifests of deploy/kubernetes from the chart in deploy/helm
	export PATH="$(abspath $(BIN)):$$PATH"; for form in $(FORMS); do \
	  rendered=$$(helm template bidstream-svc deploy/helm/bidstream-svc --kube-version 1.34 \
	    --values deploy/kubernetes/$${form%-programmes}/values.yaml --values deploy/kubernetes/$$form/values.yaml) || exit 1; \
	  printf '%s\n' "$$rendered" | sed -E \
	    -e '1s/.*/# Generated by `make manifests` from the chart in deploy\/helm. Change the chart instead./' \
	    -e '/ (app.kubernetes.io\/(instance|managed-by|version)|helm.sh\/chart): /d' \
	    > deploy/kubernetes/$$form/$$form.yaml; \
	done

# Each check is a line. What cannot be checked for want of a tool fails; with REQUIRE_TOOLS=0 it is skipped.
REQUIRE_TOOLS ?= 1
deploy-check: $(VENV)/deploy.installed $(BIN)/helm $(BIN)/kustomize $(BIN)/typed-apply  ## run all tests of the Dockerfile, deploy/, the API description, the published SDK for Java and stock HTTP clients, with the tools that they need
	PATH="$(abspath $(BIN)):$$PATH" REQUIRE_TOOLS=$(REQUIRE_TOOLS) $(BIN)/python -m pytest --verbose --no-header -m "" tests/deploy tests/interop/test_published_java_client.py tests/clients
	PATH="$(abspath $(BIN)):$$PATH" REQUIRE_TOOLS=$(REQUIRE_TOOLS) $(BIN)/python -m pytest --no-header -m needs_tools tests/optouts

# axe-core, which finds barriers for people with disabilities in a page, is in npm's registry only.
AXE := $(VENV)/node_modules/axe-core/axe.min.js
$(AXE): tests/console/package.json tests/console/package-lock.json | $(VENV)/bin/python
	cp tests/console/package*.json $(VENV)/
	npm ci --prefix $(VENV) --ignore-scripts --no-audit --no-fund --silent
	@touch $@

CONSOLE_PYTEST = REQUIRE_TOOLS=$(REQUIRE_TOOLS) $(BIN)/python -m pytest --no-header -m needs_tools tests/console
console-check: $(VENV)/console.installed $(VENV)/kernel.built $(AXE)  ## drive the console with a real Chromium; needs chromium, chromium-driver and npm
	$(CONSOLE_PYTEST) --verbose

console-shots: $(VENV)/console.installed $(VENV)/kernel.built  ## make the pictures of the console in docs/images/; needs chromium and chromium-driver
	$(BIN)/python -m tests.console.pictures docs/images

bulk-check: $(VENV)/bulk.installed $(VENV)/kernel.built  ## decrypt logs on a real Ray and a real Spark, and kill their workers; needs Java 17
	REQUIRE_TOOLS=$(REQUIRE_TOOLS) $(BIN)/python -m pytest --no-header -m needs_tools --verbose tests/bulk tests/bulk_engines

UPGRADE ?= --upgrade
UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --annotation-style line
lock: $(VENV)/lock.installed  ## renew requirements/*.txt from pyproject.toml; UPGRADE= keeps the versions
	$(UV_COMPILE) $(UPGRADE) --group lock --output-file requirements/lock.txt
	$(UV_COMPILE) $(UPGRADE) --group fuzz --output-file requirements/fuzz.txt
	$(UV_COMPILE) $(UPGRADE) pyproject.toml --group dev --output-file requirements/dev.txt
	$(UV_COMPILE) --constraint requirements/dev.txt $(UPGRADE) --group wheel --output-file requirements/wheel.txt
	$(UV_COMPILE) --constraint requirements/dev.txt $(UPGRADE) --group mutants --output-file requirements/mutants.txt
	$(UV_COMPILE) --constraint requirements/dev.txt $(UPGRADE) --group console --output-file requirements/console.txt
	$(UV_COMPILE) --constraint requirements/dev.txt $(UPGRADE) pyproject.toml --group deploy --output-file requirements/deploy.txt
	$(UV_COMPILE) --constraint requirements/dev.txt $(UPGRADE) --no-binary pyspark --emit-build-options --group bulk-check --output-file requirements/bulk.txt
	rm -f requirements/run.txt requirements/build.txt requirements/otel.txt  # parts of dev.txt, which alone decides
	$(UV_COMPILE) --constraint requirements/dev.txt pyproject.toml --output-file requirements/run.txt
	$(UV_COMPILE) --constraint requirements/dev.txt pyproject.toml --extra otel --output-file requirements/otel.txt
	$(UV_COMPILE) --constraint requirements/dev.txt --group build --output-file requirements/build.txt

clean:  ## remove what the other targets made
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -f $(KERNEL)/_native.*.so
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* mutants

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.installed: requirements/run.txt requirements/build.txt pyproject.toml | $(VENV)/bin/python
	$(INSTALL_LOCKED) -r requirements/run.txt -r requirements/build.txt
	BUILD_KERNEL=0 $(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
	@touch $@

$(VENV)/dev.installed: requirements/dev.txt $(VENV)/run.installed
	$(INSTALL_LOCKED) -r requirements/dev.txt
	$(PIP) check
	@touch $@

# Without cargo there is nothing to keep: the next `make` tries again. A running process keeps the file that it has mapped.
$(VENV)/kernel.built: setup.py $(KERNEL)/Cargo.toml $(KERNEL)/Cargo.lock $(wildcard $(KERNEL)/src/*.rs) $(VENV)/run.installed
	rm -f $(KERNEL)/_native.*.so
	$(BIN)/python -W ignore setup.py --quiet build_rust --inplace
	@if ls $(KERNEL)/_native.*.so; then touch $@; fi >/dev/null 2>&1

# Directories are among what this depends on, so that a deleted module counts. `build` would hand on to the next wheel
# what was made for this one.
.NOTPARALLEL:
$(VENV)/pure.installed: setup.py $(shell find bidstream_svc -name '*.py' -o -name '*.yaml' -o -path '*/console/*' -o -type d -not -name __pycache__) $(VENV)/run.installed
	rm -rf build $(VENV)/pure
	BUILD_KERNEL=0 $(PIP) install --no-deps --no-build-isolation --target $(VENV)/pure .
	rm -rf build
	@touch $@

$(VENV)/lock.installed: requirements/lock.txt | $(VENV)/bin/python
	$(INSTALL_LOCKED) -r requirements/lock.txt
	@touch $@

$(VENV)/wheel.installed: requirements/wheel.txt $(VENV)/run.installed
	$(INSTALL_LOCKED) -r requirements/wheel.txt
	$(PIP) check
	@touch $@

$(VENV)/fuzz.installed: requirements/fuzz.txt $(VENV)/dev.installed
	$(INSTALL_LOCKED) -r requirements/fuzz.txt
	$(PIP) check
	@touch $@

$(VENV)/mutants.installed: requirements/mutants.txt $(VENV)/dev.installed
	$(INSTALL_LOCKED) -r requirements/mutants.txt
	$(PIP) check
	@touch $@

$(VENV)/console.installed: requirements/console.txt $(VENV)/dev.installed
	$(INSTALL_LOCKED) -r requirements/console.txt
	$(PIP) check
	@touch $@

# Spark is on the index as a source package only; the lock says so. Its build is a copy of files, by the locked setuptools.
$(VENV)/bulk.installed: requirements/bulk.txt $(VENV)/dev.installed
	$(INSTALL_LOCKED) --no-build-isolation -r requirements/bulk.txt
	$(PIP) check
	@touch $@

$(VENV)/deploy.installed: requirements/deploy.txt $(VENV)/dev.installed
	$(INSTALL_LOCKED) -r requirements/deploy.txt
	$(PIP) check
	@touch $@

# Helm and Kustomize are in no package registry but Go's; its checksum database has the checksums of the modules.
$(BIN)/helm $(BIN)/kustomize: | $(VENV)/bin/python
	if command -v go; then \
	  GOBIN="$(abspath $(BIN))" go install -trimpath $(if $(filter helm,$(@F)),$(HELM),$(KUSTOMIZE)); \
	fi

# Types objects as the API server does for server-side apply, with the parser that it uses.
TYPED_APPLY := tests/deploy/typed_apply
$(BIN)/typed-apply: $(wildcard $(TYPED_APPLY)/*.go) $(TYPED_APPLY)/go.mod $(TYPED_APPLY)/go.sum | $(VENV)/bin/python
	if command -v go; then cd $(TYPED_APPLY) && go build -trimpath -o "$(abspath $@)" .; fi
