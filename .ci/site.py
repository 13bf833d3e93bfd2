"""Adds files from outside `docs/` to the site, so that a fact has one home. Their links work in the repository and on the site."""

import re
from pathlib import Path

from mkdocs.structure.files import File

# Path in the repository: path on the site.
ADDED = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "ARCHITECTURE.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SCHEDULERS.md": "SCHEDULERS.md",
    "SECURITY.md": "SECURITY.md",
    "BENCHMARKS.md": "BENCHMARKS.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "suites/evidence/cifar10.md": "evidence-cifar10.md",
    "suites/evidence/imagenette160.md": "evidence-imagenette160.md",
    "results/2026-11-28-cifar10/report.html": "results/2026-11-28-cifar10/report.html",
    "results/2026-11-29-imagenette160/report.html": "results/2026-11-29-imagenette160/report.html",
    "tokenizers/export/README.md": "tokenizers/export/README.md",
    "tokenizers/program/PROTOCOL.md": "tokenizers/program/PROTOCOL.md",
}


def on_files(files, config):
    root = Path(config.config_file_path).parent
    for source, page in ADDED.items():
        files.append(File.generated(config, page, abs_src_path=str(root / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Makes links between the two places links between pages, and indents nested lists by four, which Python-Markdown needs."""

    sources = {shown: source for source, shown in ADDED.items()}
    folder = Path(sources.get(page.file.src_uri, ".")).parent

    def link(match):
        target = match["target"].removeprefix("../").removeprefix("docs/")
        beside = (folder / target).as_posix()
        return f"]({ADDED.get(target) or ADDED.get(beside, target)}"

    lines, fenced = [], False
    for line in markdown.split("\n"):
        fenced ^= line.startswith("```")
        if not fenced:
            text = line.lstrip(" ")
            line = " " * ((len(line) - len(text)) // 2 * 4) + text
            line = re.sub(r"\]\((?P<target>[^)#:]+)", link, line)
        lines.append(line)
    return "\n".join(lines)
