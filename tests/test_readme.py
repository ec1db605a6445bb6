"""What the READMEs quote is what lies in the files they quote from."""

import re

import pytest
from conftest import REPOSITORY

TEXTS = [(REPOSITORY / name).read_text(encoding="utf-8") for name in ("README.md", "results/README.md")]
# A comment names the file, and the lines of the table or block below it must be lines of that file.
QUOTES = [quote for text in TEXTS for quote in re.findall(r"<!-- from (\S+) -->\n\n?((?:\|.*\n)+)", text)]


def test_there_are_quotes():
    assert QUOTES and sum(text.count("<!-- from ") for text in TEXTS) == len(QUOTES)


@pytest.mark.parametrize(("source", "table"), QUOTES, ids=lambda each: each if "\n" not in each else "")
def test_quoted_tables_are_in_the_files_they_come_from(source, table):
    lines = (REPOSITORY / source).read_text(encoding="utf-8").splitlines()
    for line in table.splitlines():
        assert line in lines, f"{source} has changed: quote it anew"


@pytest.mark.parametrize(
    "name", ["README.md", "results/README.md", *(f"docs/{each.name}" for each in REPOSITORY.glob("docs/*.md"))]
)
def test_links_lead_somewhere(name):
    """Files that are linked exist, and headings that are linked are headings."""
    here = REPOSITORY / name
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", here.read_text(encoding="utf-8")):
        path, _, heading = link.partition("#")
        target = (here.parent / path) if path else here
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], link
