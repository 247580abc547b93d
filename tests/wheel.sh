#!/usr/bin/env bash
# Usage: tests/wheel.sh WHEEL [ARGUMENT OF PYTEST...]; `make test-wheel`
# Installs the wheel and the locked packages into an empty environment of PYTHON and runs the tests on it, with neither a
# compiler nor Rust on PATH. The kernel is required, and the copied checkout has none that was built, so a test that
# imported the checkout instead of the wheel would fail.
set -euo pipefail
cd "$(dirname "$0")/.."
wheel=$(realpath "$1")
shift
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
checkout=$scratch/checkout
mkdir "$checkout" "$scratch/bin"
git ls-files -z | xargs -0 cp --parents --target-directory "$checkout"

IFS=: read -ra directories <<<"$PATH"
for program in "${directories[@]/%//*}"; do
  for file in $program; do
    case ${file##*/} in
      cc | c[+89]* | *gcc* | *g++* | *clang* | cpp* | ld | ld.* | as | rustc* | rustup* | cargo* | *zig*) ;;
      *) [[ -x $file && ! -e $scratch/bin/${file##*/} ]] && ln -s "$file" "$scratch/bin/" ;;
    esac
  done
done
PATH=$scratch/bin
for tool in cc gcc cargo rustc; do
  if command -v "$tool"; then echo "$tool is on PATH" >&2; exit 1; fi
done

python=$scratch/environment/bin/python
"${PYTHON:-python3}" -m venv "$scratch/environment"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$python" -m pip install --quiet --no-deps --require-hashes --only-binary :all: -r requirements/dev.txt
"$python" -m pip install --quiet --no-deps --no-index "$wheel"
"$python" -m pip check
cd "$checkout"
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
export BUILD_KERNEL=1 PATH=$scratch/environment/bin:$PATH PYTHONSAFEPATH=1 PYTHONPATH=$packages:$checkout
"$python" -c 'import sys, bidstream_svc as b; print(sys.version.split()[0], b.__file__); sys.exit(not b.is_native)'
"$python" -m pytest --override-ini pythonpath= "$@"
