"""What mkdocs does not do by itself: pages that stand outside docs/, links that work here and on GitHub, the OpenAPI document.

README.md is the first page and CONTRIBUTING.md is a page too. A file of the code that a page links to becomes a page of its own
under source/, and a folder becomes a list of its files. So the built pages need no other site, and no link leads nowhere.
"""

import json
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils.templates import TemplateContext

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}  # of the repository -> of the site
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json", ".sh": "sh"}
MAX_SHOWN = 64_000  # bytes; a larger file can be downloaded
HIDDEN = "---\nsearch:\n  exclude: true\n---\n"  # the head of a page that the search leaves out
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s]+)(\))")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    ours = [file.src_uri for file in files.documentation_pages()]
    for path in sorted({target for page in ours for target in _outside(page)}):
        for file in _source(path, config):
            if file.src_uri not in files.src_uris:
                files.append(file)
    files.append(File.generated(config, "openapi.json", content=_openapi()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead the links to where things are on the site, and indent lists inside lists as Python's Markdown wants it."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    origin = _origin(page.file.src_uri)

    def led(found: re.Match[str]) -> str:
        target, _, anchor = found[2].partition("#")
        place = posixpath.relpath(_place(_resolved(origin, target)), posixpath.dirname(page.file.src_uri) or ".")
        return found[1] + place + (f"#{anchor}" if anchor else "") + found[3]

    return _in_prose(markdown, lambda text: re.sub(r"^( +)(?=[-*] )", r"\1\1", LINK.sub(led, text), flags=re.MULTILINE))


def on_page_context(context: TemplateContext, page: Page, **_: object) -> TemplateContext:
    """Leave out the table of contents of a page that has a single heading."""
    if not any(heading.children for heading in page.toc):
        page.meta["hide"] = ["toc"]
    return context


def _in_prose(markdown: str, change: Callable[[str], str]) -> str:
    """A text changed everywhere but in its fenced blocks."""
    return "".join(part if part.startswith("```") else change(part) for part in FENCE.split(markdown))


def _origin(page: str) -> str:
    """Where a page of the site stands in the repository."""
    return next((name for name, ours in PAGES.items() if ours == page), f"docs/{page}")


def _resolved(origin: str, target: str) -> str:
    """The path in the repository that a link of a file leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def _place(path: str) -> str:
    """Where a path of the repository is on the site."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/") and not path.endswith(".py"):
        return path.removeprefix("docs/")
    whole = ROOT / path
    return f"source/{path}" if whole.is_file() and not _is_shown(whole) else f"source/{path}.md"


def _outside(page: str) -> Iterator[str]:
    """The paths of the repository that a page links to and that are no page of docs/ themselves."""
    origin = _origin(page)
    for found in LINK.finditer(FENCE.sub("", (ROOT / origin).read_text())):
        path = _resolved(origin, found[2].partition("#")[0])
        if _place(path).startswith("source/"):
            yield path


def _is_shown(path: Path) -> bool:
    return path.suffix != ".parquet" and path.stat().st_size <= MAX_SHOWN


def _source(path: str, config: MkDocsConfig) -> Iterator[File]:
    """The page of a file, or of a folder and of all files in it. A file that is too large to show is itself."""
    whole = ROOT / path
    if not whole.exists():
        return  # mkdocs says which link leads nowhere
    if whole.is_dir():
        inside = sorted(one for one in whole.rglob("*") if one.is_file() and "__pycache__" not in one.parts)
        names = [str(one.relative_to(ROOT)) for one in inside]
        yield File.generated(config, f"source/{path}.md", content=_listing(path, names))
        for name in names:
            yield from _source(name, config)
    elif _is_shown(whole):
        yield File.generated(config, f"source/{path}.md", content=_shown(path, whole.read_text()))
    else:
        yield File.generated(config, f"source/{path}", abs_src_path=str(whole))


def _listing(folder: str, names: list[str]) -> str:
    def place(name: str) -> str:
        return posixpath.relpath(_place(name), posixpath.dirname(f"source/{folder}.md"))

    lines = [f"- [{posixpath.relpath(name, folder)}]({place(name)})" for name in names]
    return "\n".join([f"{HIDDEN}# {folder}/", "", "The files of this folder.", "", *lines, ""])


def _shown(path: str, text: str) -> str:
    language = LANGUAGES.get(posixpath.splitext(path)[1], "text")
    return f"{HIDDEN}# {path}\n\n~~~~~~{language}\n{text.rstrip()}\n~~~~~~\n"


def _openapi() -> str:
    """The OpenAPI document, as the server gives it at /openapi.json."""
    from docs.generate_api import routes
    from service.app import VERSION
    from service.http.openapi import document

    return json.dumps(document(routes(), VERSION), indent=1)
