"""Text from outside: harmless where it is shown, and nothing private in what is published; files written whole."""

import resource
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import bce3s_hf
from bce3s_hf import BCE3SConfig, SplitManifest
from bce3s_hf.text import (
    fenced_code,
    inline_code,
    markdown_text,
    printable,
    publishable,
    spreadsheet_cell,
    write_whole,
)

TOKEN = "hf_" + 34 * "x"


def test_markdown_shows_a_text_as_it_is_in_one_line():
    assert markdown_text(" a\n# b | *c* ") == r"a \# b \| \*c\*"
    assert markdown_text("<b> & [x](http://y.z)") == r"&lt;b&gt; &amp; \[x\](http\://y\.z)"


def test_code_that_would_end_its_code_or_its_cell_is_text():
    assert inline_code("a  b\n*c*") == "`a b *c*`"
    assert inline_code("a`b") == r"a\`b" and inline_code("a|b") == r"a\|b" and inline_code(" ") == ""


def test_fence_is_longer_than_any_in_the_command():
    assert fenced_code("python x.py") == "```bash\npython x.py\n```"
    assert fenced_code("a\n````\nb").splitlines()[::4] == ["`````bash", "`````"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", " =z", "  \n@z", "\tz", "\rz"])
def test_formulas_get_an_apostrophe(text):
    assert spreadsheet_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", " ", "a=b", "1-2", " z", "'=1", "a\t=1", "\nz", "0.5"])
def test_other_cells_stay(text):
    assert spreadsheet_cell(text) == text


def test_terminal_sees_escapes_not_control_characters():
    text = "a\x1b[31m\r\n\t\x9b\u202eü 日本\udcff"
    assert printable(text) == r"a\x1b[31m\r\n\t\x9b\u202eü 日本\udcff"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("git clone https://jane:pa@ss@host.org/a/b", "git clone https://***@host.org/a/b"),
        ("--url=ssh://jane@host:22/a '--b'", "--url=ssh://***@host:22/a '--b'"),
        ("https://host.org/@jane/a https://host.org/?to=a@b", "https://host.org/@jane/a https://host.org/?to=a@b"),
        ("a https://host.org b@c", "a https://host.org b@c"),
        ("x '/opt/my secret/a b.yaml' --b \"/opt/x y/z\" '/opt/c'", "x 'a b.yaml' --b \"z\" 'c'"),
        ("x --hub_token abc/def --b", "x --hub_token *** --b"),
        ("x --hub-token=abc --b", "x --hub-token=*** --b"),
        ("x --hub_token  'a b' --b", "x --hub_token  *** --b"),
        ("x --hub_tok abc", "x --hub_tok ***"),
        ("x --hub_tag v1 --hub_token", "x --hub_tag v1 --hub_token"),
        (f"/opt/x/train.py {TOKEN}", "train.py ***"),
        (f"python /opt/x/train.py --a {TOKEN}, hf_short", "python train.py --a ***, hf_short"),
    ],
)
def test_secrets_are_masked(text, shown, monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane")
    assert publishable({"a": [text, 3, None]}) == {"a": [shown, 3, None]}


@contextmanager
def full_disk(bytes_left):
    """No file may become longer than that: a longer write fails in its middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


MANIFEST = SplitManifest("label", 3, "exp", 1.0, "first", 0, [1, 2], [0, 1, 2], "0" * 64)
WRITERS = {  # of the same file twice
    "text": ("a.txt", lambda folder, value: write_whole(folder / "a.txt", 9 * value)),
    "config.json": ("config.json", lambda folder, value: BCE3SConfig(lambda_ss=len(value)).save_pretrained(folder)),
    "split.json": ("split.json", lambda folder, value: replace(MANIFEST, kind=value).save(folder / "split.json")),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_file_whose_writing_fails_in_the_middle_is_the_old_one(tmp_path, kind):
    name, write = WRITERS[kind]
    write(tmp_path, "old")
    old = (tmp_path / name).read_bytes()
    with full_disk(len(old) // 2), pytest.raises(OSError, match="File too large"):
        write(tmp_path, "newer")
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == old
    write(tmp_path, "newer")
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() != old


def test_every_file_of_text_is_written_by_the_function_that_writes_it_whole():
    package = Path(bce3s_hf.__file__).parent
    sources = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}
    writing = [name for name, source in sources.items() if "write_text(" in source or "json.dump(" in source]
    assert writing == ["text.py"]
