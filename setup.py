"""What is built besides the Python package: the native kernel, where it can be.

The kernel (bidstream_svc/core/kernel/) is a Rust crate, for one extension module for every Python from 3.11 on. It is
built where cargo is and has the crates of Cargo.lock or can download them; nothing else is ever downloaded. Elsewhere
the package is pure Python, and one line of the build's output says what is missing. With BUILD_KERNEL=1 that is an
error; with BUILD_KERNEL=0 the kernel is not built.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.errors import BaseError, CompileError
from setuptools_rust import RustExtension, build_rust

MANIFEST = "bidstream_svc/core/kernel/Cargo.toml"
# Neither a toolchain nor a component: `cargo` may be rustup's, which downloads what is missing.
CARGO_ENVIRONMENT = os.environ | {"RUSTUP_AUTO_INSTALL": "0", "CARGO_NET_RETRY": "1", "CARGO_HTTP_TIMEOUT": "20"}
CARGO_ENVIRONMENT.setdefault("CARGO_TARGET_DIR", str(Path("build/cargo").absolute()))
IS_REQUIRED = os.environ.get("BUILD_KERNEL")
KERNEL = RustExtension(
    "bidstream_svc.core.kernel._native",
    MANIFEST,
    cargo_manifest_args=["--locked"],
    quiet=True,
    debug=False,
    env=CARGO_ENVIRONMENT,
)


class BuildKernel(build_rust):
    """Builds the kernel, or says in one line why not."""

    def run(self) -> None:
        """Build it."""
        problem = missing_for_kernel()
        if problem is None:
            try:
                super().run()
            except (BaseError, CompileError) as error:
                problem = f"cargo failed: {error}"
            else:
                return
        if IS_REQUIRED == "1":
            raise SystemExit(f"the native kernel cannot be built: {problem}")
        print(f"built without the native kernel: {problem}", file=sys.stderr)
        self.be_pure()

    def be_pure(self) -> None:
        """Let the wheel say that it runs on any platform, as nothing in it is native."""
        self.distribution.has_ext_modules = lambda: False
        wheel = self.distribution.get_command_obj("bdist_wheel", create=False)
        if wheel is not None:
            wheel.root_is_pure = True


def missing_for_kernel() -> str | None:
    """Return what is missing to build the kernel, or None."""
    needed = tomllib.loads(Path(MANIFEST).read_text())["package"]["rust-version"]
    version = run_cargo("--version")
    if version is None:
        return f"cargo {needed} or newer is not installed"
    found = re.match(r"cargo (\d+)\.(\d+)", version)
    if found is None or tuple(map(int, found.groups())) < tuple(map(int, needed.split("."))):
        return f"cargo {needed} or newer is needed, and this is {version.strip()}"
    if shutil.which(os.environ.get("CC", "cc").split()[0]) is None:
        return "a C compiler is not installed"
    if run_cargo("fetch", "--locked", "--manifest-path", MANIFEST) is None:
        return "the crates of Cargo.lock cannot be downloaded"
    return None


def run_cargo(*arguments: str) -> str | None:
    """Return what cargo prints, or None if it fails or is missing."""
    cargo = os.environ.get("CARGO", "cargo")
    try:
        return subprocess.run(
            [cargo, *arguments], env=CARGO_ENVIRONMENT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


if IS_REQUIRED not in {"0", "1", None}:
    raise SystemExit("BUILD_KERNEL is neither 0 nor 1")
if IS_REQUIRED == "0":
    setup()
else:
    setup(
        rust_extensions=[KERNEL],
        cmdclass={"build_rust": BuildKernel},
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )
