"""Text from outside: harmless where it is shown, and nothing private in what is published."""

import pytest

from bce3s_hf.text import fenced_code, inline_code, markdown_text, printable, publishable, spreadsheet_cell

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
