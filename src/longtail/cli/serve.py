"""`longtail serve`."""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longtail.cli.lines import say
from longtail.cli.show import checking, print_notes
from longtail.core.errors import ConfigError, LongtailError
from longtail.runs import LoadedModel, Run, load
from longtail.runs.ensemble_folder import is_ensemble

if TYPE_CHECKING:
    from longtail.serve.neighbours import TrainingImages

NEEDED = ("starlette", "uvicorn")


def serve(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    nearest: Annotated[
        int, typer.Option(min=0, max=50, help="Training images shown beside a prediction.")
    ] = 5,
    top: Annotated[int, typer.Option(min=1, help="Classes per image.")] = 5,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Open a local page to drop images on: prediction, probabilities, nearest training images.

    Programs send the bytes of an image to /predict and get JSON. Only this machine can connect, unless --host
    says otherwise; then anyone who can reach the machine may ask, and nothing is encrypted.

    Examples:

      longtail serve runs/my-run

      longtail serve runs/my-run --port 8080 --nearest 0

      curl --data-binary @photo.jpg http://127.0.0.1:8000/predict
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"longtail serve needs {' and '.join(missing)}: pip install 'longtail[serve]'"
        )
    with _listening(host, port) as listening:  # first, so that a port in use is told at once
        print_notes([run])
        model = load(run, device=device)
        training = _training_images(run, model) if nearest else None
        _serve(run.name, model, training, top, nearest, host, listening)


def _serve(
    name: str,
    model: LoadedModel,
    training: TrainingImages | None,
    top: int,
    nearest: int,
    host: str,
    listening: socket.socket,
) -> None:
    import uvicorn

    from longtail.serve.app import Served, build_app

    hosts, shown = ["127.0.0.1", "localhost", "[::1]"], host
    if not _is_loopback(host):
        hosts = ["*"]
        shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
        say("warning: other machines may send images to this one, and nothing is encrypted")
    address = f"{f'[{shown}]' if ':' in shown else shown}:{listening.getsockname()[1]}"
    say(f"{name}: open http://{address} in a browser; Ctrl-C ends it")
    app = build_app(Served(name, model, training, top, nearest), hosts)
    config = uvicorn.Config(
        app, log_level="warning", limit_concurrency=64, timeout_keep_alive=5, server_header=False,
        proxy_headers=False,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that has the port.

    Raises:
        ConfigError: If it cannot be had.
    """
    made: socket.socket | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        if made is not None:
            made.close()
        raise ConfigError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}); --port 0 takes a free port."
        ) from error
    return made


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _training_images(run: Path, model: LoadedModel) -> TrainingImages | None:
    """Return the training images of a run; None, and a line that says so, where they are not to be had."""
    from longtail.serve.neighbours import TrainingImages

    if is_ensemble(run):
        say(
            "note: an ensemble has no features of its own, so that no nearest training images are shown"
        )
        return None
    try:
        with checking() as progress:
            data = Run.open(run).open_data(progress).split("train")
        data = data.normalised_by(model.metadata.mean, model.metadata.std)
        with checking("features of the training images") as progress:
            return TrainingImages(model, data, note=say, progress=progress)
    except LongtailError as error:
        say(f"note: no nearest training images are shown: {error}")
        return None
