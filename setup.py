"""Builds the compiled operators; everything else about the package is in pyproject.toml.

Two libraries are built from csrc/: ``maskrcnn_benchmark/_ops_cpu.so`` if there is a C++ compiler, and
``maskrcnn_benchmark/_ops_cuda.so`` if there are nvcc and a GPU, or FORCE_CUDA=1. They speak to PyTorch
through its stable C interface (csrc/torch_abi.h) and are loaded by ``maskrcnn_benchmark.layers``, not
imported. So the build needs neither PyTorch nor Python headers, works in pip's isolated environment
without downloading anything large, and one wheel serves every Python and every PyTorch from 2.10 on.

Without a compiler the installation still succeeds: the operators then run on torchvision and PyTorch.

Environment variables: CXX and CXXFLAGS; CUDA_HOME, NVCC_FLAGS and TORCH_CUDA_ARCH_LIST
(like "8.0;9.0+PTX"); FORCE_CUDA=1 (build the CUDA library without a GPU, fail if that does not work),
FORCE_CUDA=0 (never build it); MAX_JOBS.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setuptools

if int(setuptools.__version__.split(".")[0]) < 77:
    raise SystemExit(
        f"this needs setuptools 77 or newer, found {setuptools.__version__}: "
        "pip install --upgrade setuptools wheel, or install with pip install ."
    )

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = Path(__file__).resolve().parent / "csrc"
CPU_LIBRARY = "maskrcnn_benchmark._ops_cpu"
CUDA_LIBRARY = "maskrcnn_benchmark._ops_cuda"

# Contraction off: only what the sources fuse is fused, so that overlaps round alike everywhere.
COMPILE_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall"]
# Vectors wider than the baseline are passed between inlined functions only.
COMPILE_FLAGS += ["-Wno-psabi"]
DEFAULT_CUDA_ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0")


def find_compiler() -> list[str] | None:
    """The C++ compiler to call, None if there is none."""
    wanted = os.environ.get("CXX")
    if wanted:
        command = shlex.split(wanted)
        return command if shutil.which(command[0]) else None
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    return None


def find_nvcc() -> str | None:
    """nvcc of CUDA_HOME, else of the usual place, else of PATH."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    for home in filter(None, homes):
        path = Path(home) / "bin" / "nvcc"
        if path.is_file():
            return str(path)
    return shutil.which("nvcc")


def visible_architectures() -> list[str]:
    """Compute capabilities of the GPUs of this machine, lowest first."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=compute_cap", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    found = re.findall(r"^\d+\.\d+$", answer.stdout, re.MULTILINE)
    return sorted(set(found), key=lambda version: tuple(map(int, version.split("."))))


def cuda_wanted() -> bool:
    """True if the CUDA library is to be built."""
    force = os.environ.get("FORCE_CUDA")
    if force is not None and force not in ("0", "1"):
        raise SystemExit(f"FORCE_CUDA must be 0 or 1, got {force!r}")
    if force == "0" or (force is None and not visible_architectures()):
        return False
    if find_nvcc() is not None and find_compiler() is not None:
        return True
    if force == "1":
        raise SystemExit("FORCE_CUDA=1, but nvcc or a C++ compiler is missing (set CUDA_HOME, CXX)")
    return False


def architecture_flags(nvcc: str) -> list[str]:
    """What nvcc is to generate code for; the newest architecture also as PTX, for later GPUs."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if listed:
        wanted = re.split(r"[;\s]+", listed.strip())
    else:
        wanted = visible_architectures()
        if not wanted:
            answer = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True)
            known = set(re.findall(r"compute_(\d+)", answer.stdout))
            wanted = [a for a in DEFAULT_CUDA_ARCHITECTURES if a.replace(".", "") in known]
            if not wanted:
                raise CompileError(
                    f"{nvcc} offers none of the architectures "
                    f"{', '.join(DEFAULT_CUDA_ARCHITECTURES)}: set TORCH_CUDA_ARCH_LIST to one of "
                    f"its own ({', '.join(sorted(known, key=int)) or 'it lists none'})"
                )
            wanted[-1] += "+PTX"
    flags = []
    for entry in wanted:
        match = re.fullmatch(r"(\d+)\.(\d+)(a?)(\+PTX)?", entry)
        if match is None:
            raise SystemExit(
                f"TORCH_CUDA_ARCH_LIST: cannot read {entry!r}, expected like 9.0 or 9.0+PTX"
            )
        number = match[1] + match[2] + match[3]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[4]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


class BuildOps(build_ext):
    """Compiles with the compilers themselves: plain shared libraries, not Python modules."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, extension: Extension) -> None:
        compiler = find_compiler()
        if compiler is None:
            self.tell("no C++ compiler found: the operators will run on torchvision and PyTorch")
            return
        target = Path(self.get_ext_fullpath(extension.name))
        folder = Path(self.build_temp).resolve() / extension.name
        try:
            if extension.name == CUDA_LIBRARY:
                self.build_cuda(compiler, extension.sources, folder, target)
            else:
                self.build_cpu(compiler, extension.sources, folder, target)
        except CompileError as error:
            if os.environ.get("FORCE_CUDA") == "1" and extension.name == CUDA_LIBRARY:
                raise
            self.tell(f"{target.name} was not built, torchvision and PyTorch stand in: {error}")

    def build_cpu(
        self, compiler: list[str], sources: list[str], folder: Path, target: Path
    ) -> None:
        flags = COMPILE_FLAGS + shlex.split(os.environ.get("CXXFLAGS", ""))
        objects = self.compile_all([*compiler, *flags], sources, folder)
        stubs = self.make_stubs(compiler, folder, ["torch_cpu"])
        self.link([*compiler, "-shared", *objects, *stubs], target)

    def build_cuda(
        self, compiler: list[str], sources: list[str], folder: Path, target: Path
    ) -> None:
        nvcc = find_nvcc()
        if nvcc is None:
            raise CompileError("nvcc not found")
        flags = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "-ccbin", compiler[0]]
        flags += architecture_flags(nvcc) + shlex.split(os.environ.get("NVCC_FLAGS", ""))
        objects = self.compile_all([nvcc, *flags], sources, folder)
        stubs = self.make_stubs(compiler, folder, ["torch_cpu", "torch_cuda"])
        host = [part.replace("-Wl,", "-Xlinker=") for part in stubs]
        # The runtime is linked in, so that its version need not be that of PyTorch.
        self.link(
            [nvcc, "-shared", "-cudart=static", "-ccbin", compiler[0], *objects, *host], target
        )

    def compile_all(self, command: list[str], sources: list[str], folder: Path) -> list[str]:
        """Compile what is older than its source or any header; returns the object files."""
        folder.mkdir(parents=True, exist_ok=True)
        headers = [*SOURCES.rglob("*.h"), *SOURCES.rglob("*.cuh"), Path(__file__)]
        newest_header = max(header.stat().st_mtime for header in headers)
        stamp = folder / "command"
        same_command = stamp.is_file() and stamp.read_text() == shlex.join(command)
        stamp.write_text(shlex.join(command))

        def compile_one(source: str) -> str:
            result = folder / (Path(source).name + ".o")
            newest = max(newest_header, Path(source).stat().st_mtime)
            if self.force or not same_command or not self.is_newer(result, newest):
                self.call([*command, "-c", source, "-o", str(result)])
            return str(result)

        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(compile_one, sources))

    @staticmethod
    def is_newer(path: Path, time: float) -> bool:
        return path.is_file() and path.stat().st_mtime > time

    def make_stubs(self, compiler: list[str], folder: Path, names: list[str]) -> list[str]:
        """Empty libraries with the names of PyTorch's own.

        Linking with them records that PyTorch's libraries are needed without PyTorch being there;
        when the result is loaded, those of the running PyTorch are found under these names.
        """
        empty = folder / "empty.cpp"
        empty.write_text("")
        for name in names:
            library = f"lib{name}.so"
            named = f"-Wl,-soname,{library}"
            output = str(folder / library)
            self.call([*compiler, "-shared", "-fPIC", str(empty), "-o", output, named])
        return [f"-L{folder}", "-Wl,--no-as-needed", *(f"-l{name}" for name in names)]

    def link(self, command: list[str], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A process may have the old file loaded: put the new one in its place, do not write into it.
        fresh = target.with_suffix(".new")
        self.call([*command, "-o", str(fresh)])
        fresh.replace(target)
        self.tell(f"built {target}")

    def call(self, command: list[str]) -> None:
        try:
            result = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise CompileError(f"{command[0]} does not run: {error}") from error
        if result.returncode != 0:
            raise CompileError(f"{shlex.join(command)}\n{result.stdout}{result.stderr}")
        if result.stderr.strip():
            self.tell(result.stderr.strip())

    def copy_extensions_to_source(self) -> None:
        """In-place builds copy only what was built."""
        built = [
            e
            for e in self.extensions
            if Path(self.build_lib, self.get_ext_filename(e.name)).is_file()
        ]
        self.extensions = built
        super().copy_extensions_to_source()

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).is_file()]

    @staticmethod
    def tell(message: str) -> None:
        print(f"maskrcnn_benchmark: {message}", flush=True)


class Wheel(bdist_wheel):
    """The libraries depend on the platform, not on the version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def extensions() -> list[Extension]:
    """The libraries to build, with their sources relative to this file."""
    root = SOURCES.parent
    cpu = sorted(str(path.relative_to(root)) for path in (SOURCES / "cpu").glob("*.cpp"))
    cuda = sorted(str(path.relative_to(root)) for path in (SOURCES / "cuda").glob("*.cu"))
    found = [Extension(CPU_LIBRARY, cpu)]
    if cuda and cuda_wanted():
        found.append(Extension(CUDA_LIBRARY, cuda))
    return found


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildOps, "bdist_wheel": Wheel})
