"""Pages made from the code when the site is built, so that they cannot tell anything else; and the formulas."""

from __future__ import annotations

import html
import io
import re
import sys
import unicodedata
from pathlib import Path

import ziamath
from fontTools.subset import Options as SubsetOptions
from fontTools.subset import Subsetter
from fontTools.ttLib import TTFont
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter
from traitlets.config import Config as NbConfig

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cflow_cli import records  # noqa: E402
from cflow_cli.config import tree  # noqa: E402
from cflow_cli.config.settings import SETTINGS  # noqa: E402
from cflow_cli.engine import options as processes  # noqa: E402
from cflow_cli.measurements import built_in  # noqa: E402
from cflow_cli.report import definitions  # noqa: E402

_GROUPS = {
    "model": "The network. Defaults are small; the file's comment has the paper's size.",
    "data": "The training examples, and the test split where there is one.",
    "loss": "What is minimised.",
    "optimizer": "Any optax optimizer; its keys are optax's own arguments. Each brings its default `lr`.",
    "schedule": "The learning rate over time; `lr` is its peak.",
    "processes": "What is measured or stepped beside the optimizer: `processes=[discrete,central]`.",
    "measurements": "What is measured along every process: `measurements=[evaluation,outputs]`.",
    "logger": "Trackers of experiments, none by default: `logger=wandb`, or several, `logger=[csv,tensorboard]`.",
    "eigs": "How the top of the spectrum is followed.",
    "kernel": "What `cflow kernel` computes; runs have no such group.",
    "launcher": "Where the runs of a sweep go: `cflow run -m launcher=slurm …`.",
    "experiment": "Presets of several keys: `cflow run experiment=quick`.",
}


def on_config(config):
    """Put the gallery into the navigation where it has been drawn: `cflow figures` writes it."""
    if (ROOT / "docs" / "gallery.md").exists():
        config.nav.insert(2, {"Gallery": "gallery.md"})
    return config


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Put in the definitions of the report's columns, and let links to notebooks lead to their pages."""
    markdown = re.sub(r"\]\(([\w/]+)\.ipynb\)(?!\{download)", r"](\1.md)", markdown)
    return markdown.replace("<!-- quantities -->", quantities())


def quantities() -> str:
    """Every column of a report, its heading and its definition."""
    told = [
        [f"`{q.name}`", *(text.replace("|", "\\|") for text in (q.heading, q.meaning))]
        for q in definitions.QUANTITIES
    ]
    rows = [f"| {' | '.join(texts)} |" for texts in told]
    return "\n".join(["| name | heading | definition |", "|---|---|---|", *rows])


def on_page_content(content: str, page, config, files) -> str:
    """Formulas as MathML, which browsers draw without a script or fonts from elsewhere; roles of docstrings as code."""
    content = re.sub(
        r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>',
        lambda found: mathml(html.unescape(found[3]), display=found[2] == "["),
        content,
        flags=re.DOTALL,
    )
    return re.sub(
        r":(?:class|meth|func|data|mod|attr|exc):<code>~?(?:[\w.]*\.)?(\w+)</code>",
        r"<code>\1</code>",
        content,
    )


def on_post_page(output: str, page, config) -> str:
    """Refuse a page that needs the network to be shown."""
    for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", output):
        if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag):
            raise PluginError(f"{page.file.src_path} takes something from the network: {tag}")
    return output


def mathml(latex: str, *, display: bool) -> str:
    """A formula as MathML."""
    found = convert(latex, display="block" if display else "inline")
    # Relations and brackets come as identifiers, which have no space around them.
    found = re.sub(r"<mi>&#x([0-9A-F]+);</mi>", _symbol, found)
    # A sign after a bracket, a relation or a comma stands close to its number.
    before = r"(<mo[^>]*>(?:&#x0003D;|&#x00028;|&#x0002C;|[(=,])</mo>)"
    return re.sub(before + r"<mo>(&#x02212;|−)</mo>", r'\1<mo form="prefix">−</mo>', found)


def _symbol(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    if unicodedata.category(character)[0] == "L":
        return found[0]
    stretchy = ' stretchy="false"' if unicodedata.category(character) in ("Ps", "Pe") else ""
    return f"<mo{stretchy}>{character}</mo>"


def on_files(files: Files, config) -> Files:
    """Add the generated pages."""
    for name, text in (
        ("index.md", index()),
        ("configuration.md", configuration()),
        ("columns.md", columns()),
    ):
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "assets/math.ttf", content=math_font()))
    for path in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        text, pictures = notebook(path)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook with its outputs as Markdown, and its pictures by name."""
    exporter = MarkdownExporter(config=NbConfig({"ExtractOutputPreprocessor": {"enabled": True}}))
    text, resources = exporter.from_filename(str(path), {"unique_key": path.stem})
    title, _, rest = text.strip().partition("\n")
    download = f"[This page as a notebook]({path.name}){{download}}"
    return f"{title}\n\n{download}\n{rest}\n", resources["outputs"]


def math_font() -> bytes:
    """STIX Two Math (Open Font License) as Ziamath brings it, less most letters: not every system can set formulas."""
    path = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    font = TTFont(path)
    # Latin, Greek, accents, punctuation, arrows, operators, and the italics that letters in formulas become.
    ranges = (
        (0x20, 0xFF),
        (0x300, 0x3FF),
        (0x2010, 0x2044),
        (0x2190, 0x22FF),
        (0x27C0, 0x27EF),
        (0x2A00, 0x2AFF),
    )
    ranges += (0x1D434, 0x1D467), (0x1D6E2, 0x1D71B)
    characters = {code for first, last in ranges for code in range(first, last + 1)}
    subsetter = Subsetter(
        SubsetOptions(layout_features=["ssty", "rtlm"], drop_tables=["DSIG", "GPOS", "GDEF"])
    )
    subsetter.populate(unicodes=characters)
    subsetter.subset(font)
    out = io.BytesIO()
    font.save(out)
    return out.getvalue()


def index() -> str:
    """The README; its links into docs/ lead to the pages, and those to other files of the repository to nothing."""

    def link(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        if re.match(r"https?:|#", target):
            return found[0]
        if not target.startswith("docs/") or not (ROOT / target).exists():
            return text
        # A link that shows a file's name shows the title of its page.
        text = _title(target) if text == target else text
        return f"[{text}]({re.sub(r'ipynb$', 'md', target.removeprefix('docs/'))})"

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", link, readme)


def _title(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def configuration() -> str:
    """Every key of every config file with its default and meaning."""
    defaults = {entry.key: entry.text for entry in tree.read_entries(tree.conf_dir() / "config.yaml")}
    lines = [
        "# Configuration",
        "",
        "Every key can be set on the command line, `cflow run lr=0.05 model.widths=[64,64]`; `cflow run --cfg job` "
        "shows the whole. This page is made from the files in `conf/` and the table that values are checked with.",
        "",
        "## Top level",
        "",
        "| key | default | allowed | meaning |",
        "|---|---|---|---|",
        *(
            _row(f"`{key}`", f"`{defaults[key]}`", setting.allowed, setting.meaning)
            for key, setting in SETTINGS.items()
        ),
    ]
    for group, choices in tree.groups().items():
        lines += ["", f"## {group}", "", _GROUPS[group]]
        for choice, path in choices.items():
            summary = tree.read_choice(path, group).summary
            lines += ["", f"### {group}={choice}", "", summary, "", *_entries(path)]
    return "\n".join(lines) + "\n"


def _entries(path: Path) -> list[str]:
    rows = [_row(f"`{e.key}`", f"`{e.text}`", e.comment) for e in tree.read_entries(path)]
    return ["| key | default | meaning |", "|---|---|---|", *rows] if rows else []


def _row(*texts: str) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def columns() -> str:
    """Columns of the two tables and the statuses."""
    lines = [
        "# Tables and columns",
        "",
        "A run folder has two tables, each a folder of Parquet parts that together are the table. null means not "
        "measured. The same words are in the files: `pyarrow.parquet.read_schema(part).field(name).metadata`.",
    ]
    for name, table in (("metrics", records.METRICS), ("eigenvalues", records.EIGENVALUES)):
        lines += ["", f"## {name}", "", "| column | type | unit | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{c.name}` | {c.type} | {c.unit} | {c.meaning} |".replace("||", "\\|\\|") for c in table
        ]
    lines += [
        "",
        "## Columns of measurements",
        "",
        "Those that [measurements](measurements.md) add to `metrics`.",
    ]
    lines += ["", "| measurement | column | unit | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | `{c.name}` | {c.unit} | {c.meaning} |"
        for name, kind in built_in.BUILT_IN.items()
        for c in (*kind().columns_for(["stable", "central"]), *kind().predictions()[0])
    ]
    lines += ["", "## Columns of processes", "", "Those that only one process has."]
    lines += ["", "| process | column | unit | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | `{c.name}` | {c.unit} | {c.meaning} |"
        for name, kind in processes.BUILT_IN.items()
        for c in getattr(kind, "columns", ())
    ]
    lines += ["", "## Kinds of eigenvalues", "", "| kind | value |", "|---|---|"]
    kinds = dict(records.KINDS)
    for measurement in built_in.BUILT_IN.values():
        kinds |= {**measurement.kinds, **measurement().predictions()[1]}
    lines += [f"| `{kind}` | {text} |" for kind, text in kinds.items()]
    lines += ["", "## Statuses of a process", "", "| status | stops it | meaning |", "|---|---|---|"]
    lines += [f"| `{s.label}` | {'yes' if s.stops else 'no'} | {s.sentence} |" for s in records.Status]
    return "\n".join(lines) + "\n"
