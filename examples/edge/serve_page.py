"""Serves a page that runs an ONNX version in the browser: pictures against sentences.

    python examples/edge/serve_page.py models/lit/1

onnxruntime-web is fetched from npm once; then nothing is loaded from outside, and no picture leaves
the computer. To put the page on a server of your own copy `browser/`, `ort/` (the files of
`RUNTIME` from `dist/` of the npm package) and `version/` (the version).
"""

import argparse
import functools
import http.server
import pathlib
import subprocess
import sys
import tarfile
import tempfile

import reference

HERE = pathlib.Path(__file__).resolve().parent / "browser"
PACKAGE = "onnxruntime-web@1.30.0"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
CACHE = pathlib.Path.home() / ".cache" / "keras_lit"
PAGE = ("page.css", "page.js", "pictures.js", "sentencepiece.js", "sentences.js", "towers.js")
HEADERS = {
    # The browser itself refuses to load anything from elsewhere, or to send anything there.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; "
    "img-src 'self' blob: data:; frame-ancestors 'none'",
    # Threads share memory, for which browsers require these two.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def runtime(cache: pathlib.Path = CACHE) -> pathlib.Path:
    """The folder with the files of `RUNTIME`; `npm pack` fetches them once."""
    folder = cache / PACKAGE.replace("@", "-")
    if folder.is_dir():
        return folder
    print(f"Fetching {PACKAGE} with npm (once) into {folder}", file=sys.stderr, flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as working:
        command = ["npm", "pack", "--silent", "--pack-destination", working, PACKAGE]
        try:
            npm = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            raise SystemExit("`npm`, which fetches onnxruntime-web, is not installed.") from None
        if npm.returncode:
            raise SystemExit(f"`npm pack {PACKAGE}` failed: {npm.stderr.strip()[-300:]}")
        unpacked = pathlib.Path(working, "unpacked")
        unpacked.mkdir()
        with tarfile.open(next(pathlib.Path(working).glob("*.tgz"))) as package:
            for name in RUNTIME:
                content = package.extractfile(f"package/dist/{name}")
                assert content is not None, f"{PACKAGE} has no {name}"
                (unpacked / name).write_bytes(content.read())
        try:
            unpacked.rename(folder)  # Whole or not at all.
        except OSError:  # Another process was first.
            if not folder.is_dir():
                raise
    return folder


def files_of(version: pathlib.Path, cache: pathlib.Path = CACHE) -> dict[str, pathlib.Path]:
    """The files that are served: {path of the address: file}."""
    settings = reference.read(version, "onnx")
    for side in ("image", "text"):
        if side not in settings:
            raise SystemExit(f"The page needs both towers. {version} holds no {side} tower.")
    names = [pathlib.Path(name).name for name in settings["sha256"]]
    return {
        "/": HERE / "index.html",
        **{f"/{name}": HERE / name for name in PAGE},
        **{f"/version/{name}": version / name for name in ("lit.json", *names)},
        **{f"/ort/{name}": runtime(cache) / name for name in RUNTIME},
    }


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves these files and no others."""

    def __init__(self, *args: object, files: dict[str, pathlib.Path]):
        self.files = files
        super().__init__(*args)  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        local = self.headers.get("Host", "").rsplit(":", 1)[0] in ("127.0.0.1", "localhost")
        # Another site's name that points here (DNS rebinding) gets nothing.
        return str(self.files.get(path.partition("?")[0], "") if local else "") or "/nothing/here"

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *args: object) -> None:
        """Logs no requests."""


def server(files: dict[str, pathlib.Path], port: int) -> http.server.ThreadingHTTPServer:
    """A server for this computer alone; port 0 takes a free one."""
    return http.server.ThreadingHTTPServer(
        ("127.0.0.1", port), functools.partial(Handler, files=files)
    )


def main() -> None:
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", type=pathlib.Path, help='of export.save(..., format="onnx")')
    parser.add_argument("--port", type=int, default=8000, help="0: a free one")
    args = parser.parse_args()
    files = files_of(args.version)
    try:
        serving = server(files, args.port)
    except OSError as error:
        message = f"Port {args.port} is not available ({error}): pass another --port."
        raise SystemExit(message) from None
    with serving:
        print(f"The page is at http://127.0.0.1:{serving.server_port}/", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
