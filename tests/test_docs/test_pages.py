"""What the pages of the documentation name exists: tools, files and headings."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ('*.md', 'docs/*.md', 'configs/*/README.md')
    for path in ROOT.glob(pattern)
)
# GitHub's anchor of a heading has its text without the addresses of links.
LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^)\s]+)\)')


def prose(page):
    """The text of a page without its blocks of code."""
    text = (ROOT / page).read_text()
    text = re.sub(r'^```.*?^```$', '', text, flags=re.M | re.S)
    return re.sub(r'^    .*$', '', text, flags=re.M)


def anchors(page):
    headings = re.findall(r'^#+ (.*)$', prose(page), re.M)
    words = [LINK.sub(r'\2', heading).lower() for heading in headings]
    return {re.sub(r'[^\w\- ]', '', text).strip().replace(' ', '-') for text in words}


@pytest.mark.parametrize('page', PAGES)
def test_tools_files_and_headings_exist(page):
    text = (ROOT / page).read_text()
    tools = set(re.findall(r'(?<![\w/])tools/[\w/]+\.(?:py|sh)', text))
    missing = [tool for tool in tools if not (ROOT / tool).is_file()]
    for _, _, target in LINK.findall(prose(page)):
        if target.startswith(('http://', 'https://')):
            continue
        path, _, anchor = target.partition('#')
        linked = (ROOT / page).parent / path if path else ROOT / page
        if not linked.exists():
            missing.append(target)
        elif anchor and linked.suffix == '.md':
            other = linked.resolve().relative_to(ROOT.resolve()).as_posix()
            if anchor not in anchors(other):
                missing.append(target)
    assert not missing


def test_the_pages_name_the_main_tools():
    assert 'tools/start_project.py' in (ROOT / 'docs/own_data.md').read_text()
    assert 'tools/predict.py' in (ROOT / 'docs/using_a_model.md').read_text()
