"""Methods, losses and samplers from outside the package: files that a user names, and installed packages.

A plug-in is Python code, and loading it runs it. So a file is loaded only where a user chose it: with
`--plugin`, `load_plugin` or the variable `LONGTAIL_PLUGINS`. A run keeps the text of the plug-ins that it
needs; that text is loaded again only if this user has loaded the same before, which a list of SHA-256 sums
outside the run remembers. A run folder from elsewhere therefore names what it needs and runs nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import linecache
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from longtail.config import Choice, Options
from longtail.core.errors import ConfigError
from longtail.core.paths import expanded
from longtail.data.sampling.samplers import SAMPLERS
from longtail.methods import METHODS, Method
from longtail.recipes.plugin_names import GROUPS, PREFIX

VARIABLE = (
    "LONGTAIL_PLUGINS"  # files, parted like PATH; parallel runs and other processes inherit it
)
LARGEST = 2**20  # bytes of a file


@dataclass(frozen=True)
class Plugin:
    """Code from outside the package.

    Attributes:
        module: Name of its module.
        file: Where it was; for a package its name and version.
        sha256: Of its text.
        source: The text of a file, empty for a package.
    """

    module: str
    file: str
    sha256: str
    source: str = ""


def load_plugin(file: Path | str) -> Plugin:
    """Load a Python file that defines methods, options of losses, or samplers, and trust it from now on.

    A `Method` with a `Config` that has a name, and a subclass of `LossOptions`, are known as soon as they are
    defined; a sampler is put into `longtail.data.sampling.samplers.SAMPLERS`. A file that is loaded again
    replaces what it defined before.

    Raises:
        ConfigError: If the file cannot be read or run, defines nothing, or takes a name that exists.
    """
    path = expanded(Path(file)).absolute()
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"The plug-in {file} cannot be read ({error.strerror or error})."
        ) from error
    if path.suffix != ".py" or len(raw) > LARGEST:
        raise ConfigError(f"The plug-in {file} is no Python file (.py) of at most 1 MB.")
    try:
        source = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"The plug-in {file} is not written in UTF-8.") from error
    plugin = Plugin(PREFIX + path.stem, str(path), _sum(source), source)
    _load(plugin)
    _trust(plugin)
    return plugin


def load_chosen() -> None:
    """Load the files that `LONGTAIL_PLUGINS` names and the installed packages with an entry point, once."""
    for file in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        if not _is_loaded(PREFIX + Path(file).stem):
            load_plugin(file)
    _load_installed()


def choose(files: Sequence[Path]) -> None:
    """Load files, and let processes that this one starts load them, too."""
    for file in files:
        load_plugin(file)
    known = filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))
    named = dict.fromkeys([*known, *(str(expanded(file).absolute()) for file in files)])
    if named:
        os.environ[VARIABLE] = os.pathsep.join(named)


def plugins_of(method: Options) -> list[dict[str, Any]]:
    """Return the plug-ins that a method and its options come from, as a run keeps them."""
    needed = {
        METHODS[str(getattr(method, "name", ""))].__module__,
        *(type(part).__module__ for part in _parts(method)),
        *(SAMPLERS[name].__module__ for name in _sampler_names(method) if name in SAMPLERS),
    }
    return [asdict(plugin) for plugin in _loaded() if _top(plugin.module) in map(_top, needed)]


def require_plugins(kept: Any, run: Path) -> None:  # noqa: ANN401 - as read from a file
    """Load what a run needs from outside the package, if this user has loaded it before.

    Args:
        kept: What `plugins_of` gave when the run began.
        run: Its folder, for messages.

    Raises:
        ConfigError: Naming what is missing, and how it is loaded.
    """
    if not kept:
        return
    load_chosen()
    for entry in kept if isinstance(kept, list) else [kept]:
        plugin = _read(entry, run)
        if _is_loaded(plugin.module):
            continue  # what the user has chosen counts, whatever the run was trained with
        if not plugin.source:
            raise ConfigError(
                f"{run} needs {plugin.module} of the package {plugin.file}, which is not installed here."
            )
        if plugin.sha256 not in _trusted():
            raise ConfigError(
                f"{run} was trained with the plug-in {plugin.file}, which is Python code and was never "
                f"loaded here. If you trust it, name the file: --plugin {Path(plugin.file).name}. The run "
                "keeps a copy of its text in environment.json, under `plugins`."
            )
        _load(plugin)


def _load(plugin: Plugin) -> None:
    """Run the text of a plug-in as a module, or leave everything as it was."""
    if _is_loaded(plugin.module) and sys.modules[plugin.module].__longtail__ == plugin:
        return
    module = types.ModuleType(plugin.module)
    module.__file__ = plugin.file
    vars(module)["__longtail__"] = plugin
    # so that tracebacks show its lines
    linecache.cache[plugin.file] = (
        len(plugin.source), None, plugin.source.splitlines(keepends=True), plugin.file
    )  # fmt: skip
    with _all_or_nothing(plugin.module):
        before = _defined()
        _forget(plugin.module)
        sys.modules[plugin.module] = module
        try:
            exec(compile(plugin.source, plugin.file, "exec"), vars(module))
            _add_methods(vars(module).values(), plugin.module)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(_explained(error, plugin)) from error
        _refuse_taken(before, plugin)


def _add_methods(values: Any, module: str) -> None:  # noqa: ANN401 - whatever a module holds
    for kind in list(values):
        if not (isinstance(kind, type) and issubclass(kind, Method) and kind.__module__ == module):
            continue
        config = getattr(kind, "Config", None)
        if config is None or not issubclass(config, Options):
            continue  # a base of others
        name = getattr(config.model_fields.get("name"), "default", None)
        missing = [part for part in ("summary", "advice", "citation") if not hasattr(kind, part)]
        if not isinstance(name, str):
            raise TypeError(
                f"{config.__name__}, the options of {kind.__name__}, has no name with a default"
            )
        if missing:
            raise TypeError(f"{kind.__name__} has no {', '.join(missing)}")
        if METHODS.setdefault(name, kind) is not kind:
            raise TypeError(f"there is a method {name!r} already")


def _refuse_taken(before: Mapping[str, dict[str, Any]], plugin: Plugin) -> None:
    """Refuse a plug-in that defines nothing, or under a name that is taken."""
    added = False
    for what, table in _defined().items():
        for name, value in table.items():
            old = before[what].get(name, value)
            if old is not value and old.__module__ != plugin.module:
                raise ConfigError(
                    f"The plug-in {plugin.file} defines the {what} {name!r}, which exists. Choose another "
                    "name."
                )
            added |= value.__module__ == plugin.module
    if not added:
        raise ConfigError(
            f"The plug-in {plugin.file} defines no method, loss or sampler; docs/extending.md shows how each "
            "is written."
        )


def _defined() -> dict[str, dict[str, Any]]:
    """Return what can be chosen by name: what it is -> name -> where it comes from."""
    families = {f"option of {kind.__name__}": dict(kind.kinds) for kind in Choice.__subclasses__()}
    return {"method": dict(METHODS), "sampler": dict(SAMPLERS), **families}


def _tables() -> Iterator[dict[str, Any]]:
    yield METHODS
    yield SAMPLERS
    for family in Choice.__subclasses__():
        yield family.kinds


def _forget(module: str) -> None:
    for table in _tables():
        for name in [name for name, value in table.items() if value.__module__ == module]:
            del table[name]


@contextmanager
def _all_or_nothing(module: str) -> Iterator[None]:
    """Bring the tables back to what they were if the block fails."""
    kept, old = [(table, dict(table)) for table in _tables()], sys.modules.get(module)
    try:
        yield
    except BaseException:
        for table, content in kept:
            table.clear()
            table.update(content)
        sys.modules.pop(module, None)
        if old is not None:
            sys.modules[module] = old
        raise


def _explained(error: BaseException, plugin: Plugin) -> str:
    """Say what is wrong with a plug-in, and in which of its lines."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == plugin.file:
            line = frame.lineno
    where = "" if line is None else f", line {line}"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"The plug-in {plugin.file}{where}: {type(error).__name__}: {text}"


@cache
def _load_installed() -> None:
    tables: dict[str, Callable[[str, Any], Any]] = {
        "longtail.methods": METHODS.setdefault,
        "longtail.samplers": SAMPLERS.setdefault,
        "longtail.losses": lambda name, kind: None,  # known as soon as it is defined
    }
    for group in GROUPS:
        for entry in importlib.metadata.entry_points(group=group):
            try:
                tables[group](entry.name, entry.load())
            except Exception as error:
                raise ConfigError(
                    f"The plug-in {entry.value} (entry point {group}) cannot be loaded: "
                    f"{type(error).__name__}: {error}"
                ) from error


def _loaded() -> list[Plugin]:
    """Return the files that were loaded, and the packages whose entry points were."""
    found = [
        module.__longtail__
        for name, module in sys.modules.items()
        if name.startswith(PREFIX) and hasattr(module, "__longtail__")
    ]
    for group in GROUPS:
        for entry in importlib.metadata.entry_points(group=group):
            source = getattr(sys.modules.get(entry.module), "__file__", None)
            if source is not None and entry.dist is not None:
                package = f"{entry.dist.name} {entry.dist.version}"
                text = Path(source).read_text(encoding="utf-8")
                found.append(Plugin(entry.module, package, _sum(text)))
    return list(dict.fromkeys(found))


def _is_loaded(module: str) -> bool:
    return module in sys.modules


def _read(entry: Any, run: Path) -> Plugin:  # noqa: ANN401 - as read from a file
    try:
        plugin = Plugin(**entry)
        texts = (plugin.module, plugin.file, plugin.sha256, plugin.source)
        if all(isinstance(text, str) for text in texts) and (
            not plugin.source
            or (plugin.sha256 == _sum(plugin.source) and plugin.module.startswith(PREFIX))
        ):
            return plugin
    except TypeError:
        pass
    raise ConfigError(f"{run}/environment.json does not say which plug-ins the run needs.")


def _parts(options: Any) -> Iterator[Options]:  # noqa: ANN401 - of any option
    if isinstance(options, Options):
        yield options
        for name in type(options).model_fields:
            yield from _parts(getattr(options, name))
    elif isinstance(options, tuple):
        for part in options:
            yield from _parts(part)


def _sampler_names(method: Options) -> Iterator[str]:
    for part in _parts(method):
        name = getattr(part, "name", None)
        if isinstance(name, str):
            yield name


def _top(module: str) -> str:
    return module.partition(".")[0]


def _sum(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8")).hexdigest()


def _list() -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    return state / "longtail" / "plugins.txt"


def _trusted() -> set[str]:
    try:
        return {line.split(" ")[0] for line in _list().read_text(encoding="utf-8").splitlines()}
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a user without a home
        return set()


def _trust(plugin: Plugin) -> None:
    """Remember that this user has loaded this text; without a home it is asked for again."""
    if plugin.sha256 in _trusted():
        return
    try:
        _list().parent.mkdir(parents=True, exist_ok=True)
        with _list().open("a", encoding="utf-8") as file:
            file.write(f"{plugin.sha256} {plugin.file!a}\n")
    except (OSError, RuntimeError):
        pass
