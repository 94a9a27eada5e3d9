"""Writes a folder of wheels that offers pip the same PyTorch as PyPI: `cuda_index.py FOLDER`.

The CUDA build takes gigabytes, so a stand-in has its name, its version and its requirements. It is
the PyTorch of this interpreter, built for the CPU, and behaves like a CUDA build that finds no GPU.
With `--cpu`, the folder also has a build that is tagged +cpu.
"""

import importlib.metadata
import sys
import zipfile
from pathlib import Path

_RELEASE = importlib.metadata.version("torch").partition("+")[0]
_LIBRARIES = ("nvidia-cublas", "nvidia-cudnn-cu13", "cuda-toolkit")
_LIBRARY_BYTES = 40_000_000

# Copied from torch 2.13.0+cu130 on a machine without a driver: it names its accelerator and numbers
# it. The import system takes the entry of sys.modules at the end of this file.
_TORCH = """
import sys

sys.path.insert(0, {site!r})
del sys.modules["torch"]
try:
    import torch
finally:
    sys.path.remove({site!r})


def _no_driver(*args, **kwargs):
    raise RuntimeError("Found no NVIDIA driver on your system.")


class _Kind(type):
    def __call__(cls, *args, **kwargs):
        numbered = len(args) == 1 and type(args[0]) is int
        return cls.real("cuda", args[0]) if numbered else cls.real(*args, **kwargs)

    def __instancecheck__(cls, value):
        return isinstance(value, cls.real)


class device(metaclass=_Kind):
    real = torch.device


torch.__version__ = torch.version.__version__ = "{release}+cu130"
torch.version.cuda = "13.0"
torch.device = device
torch.accelerator.current_accelerator = (
    lambda check_available=False: None if check_available else device.real("cuda")
)
torch.cuda.current_device = torch.cuda.current_stream = torch.cuda.default_stream = _no_driver
"""


def _wheel(
    folder: Path, name: str, version: str, files: dict[str, str | bytes], *needs: str
) -> None:
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    contents: dict[str, str | bytes] = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    contents[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, text in contents.items():
            archive.writestr(path, text)


def _main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    # A file beside the package, as wheels have it.
    site = str(Path(importlib.metadata.distribution("torch").locate_file("")))
    stand_in = {"torch/__init__.py": _TORCH.format(site=site, release=_RELEASE)}
    _wheel(folder, "torch", _RELEASE, stand_in, *_LIBRARIES)
    for library in _LIBRARIES:
        module = library.replace("-", "_")
        _wheel(folder, library, "13.0", {f"{module}/library.so": bytes(_LIBRARY_BYTES)})
    if "--cpu" in sys.argv[2:]:
        _wheel(folder, "torch", f"{_RELEASE}+cpu", {"torch/__init__.py": ""})


_main()
