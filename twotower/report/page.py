"""HTML pages in one file, made from templates. All text is escaped unless it is Markup."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from twotower.errors import EnvironmentProblem
from twotower.report.numbers import now

HERE = Path(__file__).parent
STYLE = HERE / "page.css"


def render(template: Path, title: str, content: Mapping[str, object]) -> str:
    """The whole HTML file. A template extends `frame.html` and takes its macros from `parts.html`."""
    loader = ChoiceLoader([FileSystemLoader(template.parent), FileSystemLoader(HERE)])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, cache_size=0
    )
    style = Markup(STYLE.read_text())  # noqa: S704  # a file of ours
    text = environment.get_template(template.name).render({**content, "title": title, "style": style, "now": now()})
    # The name of a file may hold bytes that are no text.
    return text.encode("utf-8", "replace").decode()


def save(path: Path, text: str) -> None:
    """Write a page. EnvironmentProblem with the reason if that fails."""
    written_to(path, lambda: path.write_text(text, encoding="utf-8"))


def written_to(path: Path, write: Callable[[], object]) -> None:
    """Write a file or directory. EnvironmentProblem with the reason if that fails."""
    try:
        write()
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {path}: {error.strerror or error}. Choose another place.") from error
