"""Pages written from the code: one for each method, and one with every option."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from longtail.methods import METHODS
from longtail.recipes import recipe_names, resolve
from longtail.recipes.explain import Explained, explained, options_of_runs

TITLES = {
    "single-head": "Single head: losses, class weights, sampling and mixing",
    "decoupling": "Decoupling: cRT, LWS, tau-normalisation and nearest class mean",
    "balms": "BALMS: balanced meta-softmax",
    "mislas": "MiSLAS: mixup shifted label-aware smoothing",
    "gcl": "GCL: Gaussian clouded logit adjustment",
    "weight-balancing": "WB: weight balancing",
    "cc-sam": "CC-SAM: class-conditional sharpness-aware minimisation",
    "oltr": "OLTR: dynamic meta-embedding and modulated attention",
    "fslwf": "FSLwF: few-shot learning without forgetting",
    "tde": "TDE: total direct effect",
    "bbn": "BBN: bilateral-branch network",
    "rsg": "RSG: rare-class sample generator",
    "elf": "ELF: early-exiting framework",
    "experts": "Experts: RIDE, SADE and BalPoE",
    "mdcs": "MDCS: more diverse experts with consistency self-distillation",
    "ace": "ACE: ally complementary experts",
    "lfme": "LFME: learning from multiple experts",
    "ncl": "NCL: nested collaborative learning",
    "shike": "SHIKE: self-heterogeneous integration with knowledge excavation",
    "reslt": "ResLT: residual learning for long-tailed recognition",
    "sure": "SURE: mixed images, a cosine classifier and images weighted by uncertainty",
    "glmc": "GLMC: global and local mixture consistency cumulative learning",
    "paco": "PaCo: parametric contrastive learning",
    "bcl": "BCL: balanced contrastive learning",
    "proco": "ProCo: probabilistic contrastive learning",
    "tsc": "TSC and KCL: targeted supervised contrastive learning",
    "do": "DO: decoupled optimisation",
}
# from here on, the head of a file says what paper and code leave open and what is done here
DECISIONS = re.compile(
    r"^(Where papers? and|What the paper leaves|What the released code|There is no published code)",
    re.MULTILINE,
)


def write_pages(folder: Path, ideas: Path, notes: Path) -> None:
    """Write `<folder>/<method>.md` for every method.

    Args:
        folder: Where the pages go.
        ideas: Holds `<method>.md`: how it works, with its equations.
        notes: Holds `<method>.md`: what is good to know when using it.
    """
    folder.mkdir(exist_ok=True)
    recipes: dict[str, list[tuple[str, str]]] = {name: [] for name in METHODS}
    for recipe in recipe_names():
        if recipe.startswith("images/"):
            continue  # it has no data of its own
        config = resolve(recipe)
        recipes[config.method_name].append((recipe, config.description))
    for name, method in METHODS.items():
        lines = [f"# {TITLES[name]}", "", f"{_sentence(method.summary)}", ""]
        lines += [f"**Use it when:** {_sentence(method.advice)}", ""]
        lines += [f"**Cite:** {_sentence(method.citation)}", ""]
        lines += [f"**In a command or recipe:** `method={name}`", "", "## How it works", ""]
        lines += [(ideas / f"{name}.md").read_text(encoding="utf-8").strip(), ""]
        note = notes / f"{name}.md"
        if note.exists():
            lines += ["## Good to know", "", note.read_text(encoding="utf-8").strip(), ""]
        head = inspect.getdoc(sys.modules[method.__module__]) or ""
        if found := DECISIONS.search(head):
            lines += ["## Where paper and code disagree", ""]
            lines += [*_as_list(head[found.start() :]), ""]
        rows = list(explained(method.Config))
        lines += ["## Options", "", *(_options(rows) if rows else ["There are none."])]
        lines += ["", "## Recipes", ""]
        lines += [f"- `{recipe}`: {text}" for recipe, text in recipes[name]]
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_options(file: Path) -> None:
    """Write a page with every option of data, model and training."""
    lines = [
        "# Every option",
        "",
        "Set an option as `key=value` on the command line or in a recipe. On the command line, the last part",
        "of a key is enough where it is unambiguous (`epochs=40`). `longtail options WORD` searches them.",
        "",
    ]
    file.write_text("\n".join([*lines, *_options(options_of_runs())]) + "\n", encoding="utf-8")


def _as_list(text: str) -> Iterator[str]:
    """Yield the lines of a docstring as Markdown; `    name   text` becomes an item of a list."""
    in_list = False
    for line in text.splitlines():
        item = re.match(r" {4}(\S[^.]{0,12}?) {2,}(\S.*)", line)
        starts = bool(item) or line.startswith("- ")
        listed = starts or (in_list and line.startswith(" "))
        if listed != in_list and line:
            yield ""  # between a list and a paragraph
        in_list = listed
        if item:
            yield f"- **{item[1]}**: {item[2]}"
        elif line.startswith(" "):
            yield f"  {line.strip()}"
        else:
            yield line


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _options(rows: Iterable[Explained]) -> Iterator[str]:
    yield "| option | default | values | meaning |"
    yield "|---|---|---|---|"
    for row in rows:
        # neither the end of a cell nor the beginning of an equation
        values, meaning = (
            text.replace("|", "&#124;").replace("$", "\\$") for text in (row.values, row.meaning)
        )
        yield f"| `{row.key}` | `{row.default or '-'}` | {values} | {meaning} |"
