"""A virtual environment for each peer, made when it is first needed."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / ".venvs"
# torch is pinned to our version, which the machine has as a CPU build, so that no CUDA build is drawn.
PACKAGES = {
    "trl-1.12.0": ["torch==2.13.0", "transformers==5.24.0", "trl==1.12.0", "vaderSentiment==3.3.2"],
    "trl-1.16.0": ["torch==2.13.0", "transformers==5.24.0", "trl==1.16.0"],
    "llama-cpp": ["llama-cpp-python==0.3.36", "numpy==2.4.6"],
}
BUILD = {"CMAKE_ARGS": "-DGGML_NATIVE=ON", "CMAKE_BUILD_PARALLEL_LEVEL": "2"}  # llama.cpp for this very processor


def python_of(name: str | None) -> str:
    """The interpreter of the environment of this name, our own for None."""
    if name is None:
        return sys.executable
    folder = FOLDER / name
    python, whole = folder / "bin" / "python", folder / "whole"
    if not whole.exists():
        print(f"making the environment {name}: {' '.join(PACKAGES[name])}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", *PACKAGES[name]]
        subprocess.run(install, check=True, env=os.environ | BUILD)
        whole.touch()
    return str(python)
