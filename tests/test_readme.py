"""What the README quotes is what lies in the files it quotes from."""

import re

import pytest
from conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
# A comment names the file, and the lines of the table or block below it must be lines of that file.
QUOTES = re.findall(r"<!-- from (\S+) -->\n\n?((?:\|.*\n)+)", README)


def test_there_are_quotes():
    assert QUOTES and README.count("<!-- from ") == len(QUOTES)


@pytest.mark.parametrize(("source", "table"), QUOTES, ids=lambda each: each if "\n" not in each else "")
def test_quoted_tables_are_in_the_files_they_come_from(source, table):
    lines = (REPOSITORY / source).read_text().splitlines()
    for line in table.splitlines():
        assert line in lines, f"{source} has changed: quote it anew"
