"""The page: well-formed, self-contained, complete, and safe with any name."""

import dataclasses
import html.parser
import re

import pytest
import report_example as example

from tsjax import report
from tsjax.study.records import Error, SparseTraining, Training
from tsjax.training import Epoch

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$x_1^{$ & \ufffd",
    "a\x00b\x1b\u202e" + "long name " * 30,
    "温度",
)
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Checks nesting, and collects what the tests ask about."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.ids, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))


def render(tmp_path, study):
    return report.write(study, tmp_path).read_text("utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return render(tmp_path_factory.mktemp("report"), example.study())


def hostile():
    study = example.study()
    return dataclasses.replace(
        study,
        data=dataclasses.replace(
            study.data,
            name="<b>x</b>",
            channels=(*HOSTILE, *(f"channel {i}" for i in range(316))),
            notes=("<script>note()</script>",),
        ),
        forecasts=tuple(
            dataclasses.replace(f, channel=name, forecasts={**f.forecasts, HOSTILE[1]: f.truth})
            for f, name in zip(study.forecasts, HOSTILE, strict=False)
        ),
        baselines=(Error("<script>repeat</script>", 1.0, 1.0),),
        command="./launch.sh --x='</code><script>'",
        config={"model": "<script>", "pred_len": 96, "<i>": HOSTILE[0]},
        versions={"<u>": "</table>"},
        warnings=("<script>warn()</script>\x00\x1b\u202e",),
    )


def test_parses_and_has_its_parts(page):
    parsed = Page(page)
    assert page.startswith("<!DOCTYPE html>")
    assert ("lang", "en") in parsed.attributes
    assert ("charset", "utf-8") in parsed.attributes
    assert parsed.tags.count("h1") == 1
    assert parsed.tags.count("svg") == parsed.tags.count("figcaption") == 4
    assert "th" in parsed.tags
    assert ("scope", "col") in parsed.attributes
    assert ("scope", "row") in parsed.attributes
    order = ["Error by density", "Fine-tuning", "Cost", "Forecasts", "Training", "Data", "repeat"]
    places = [page.index(f"<h2>{'How to ' if name == 'repeat' else ''}{name}") for name in order]
    assert places == sorted(places)


def test_every_figure_has_a_text_alternative(page):
    for head in re.findall(r"<svg[^>]*>", page):
        assert re.search(r'role="img" aria-label="[^"]{40,}"', head), head


def test_needs_nothing_from_outside(page):
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert not {"img", "link", "iframe", "object"} & set(parsed.tags)
    for name, value in parsed.attributes:
        if name in ("src", "href", "xlink:href", "action"):
            assert value.startswith("#"), (name, value)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    # The two namespaces' names are the only addresses.
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_ids_are_unique_and_every_reference_is_met(page):
    ids = Page(page).ids
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'(?:url\(|href=")#([^)"]+)', page)
    assert wanted
    assert set(wanted) <= set(ids)


def test_colours_of_the_figures_follow_the_scheme(page):
    figures = page[page.index("<svg") :]
    assert "var(--dense)" in figures
    assert "#0067a3" not in figures
    assert "prefers-color-scheme: dark" in page


def test_every_table_is_there_in_full(page, tmp_path):
    from tsjax.report import tables

    parsed = Page(page)
    for table in tables.all_tables(example.study()).values():
        for row in table.rows():
            for cell in row:
                assert re.sub(r"\s+", " ", cell).strip() in parsed.text, (table.name, cell)


def test_says_how_to_repeat_it(page):
    study = example.study()
    parsed = Page(page)
    for text in (study.command, "learning_rate", "0.0001", "jax", "0.10.0", "22 min 7 s"):
        assert text in parsed.text.replace("\u00a0", " ")


def test_hostile_names_are_shown_not_obeyed(tmp_path):
    text = render(tmp_path, hostile())
    parsed = Page(text)
    assert not {"script", "img", "b", "i", "u"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert "\x00" not in text
    assert "\x1b" not in text
    for name in HOSTILE[:3]:
        assert name in parsed.text
    assert "<script>note()</script>" in parsed.text
    assert "<script>warn()</script>" in parsed.text
    assert "long name " * 6 not in parsed.text


def test_many_channels_are_cut_short(tmp_path):
    parsed = Page(render(tmp_path, hostile()))
    assert "321 channels" in parsed.text
    assert "and 281 more" in parsed.text
    assert "channel 300" not in parsed.text


def test_smallest_study(tmp_path):
    study = example.study()
    study = dataclasses.replace(
        study,
        ladder=study.ladder[:1],
        finetuned=(),
        costs=(),
        forecasts=(),
        baselines=(),
        training=Training((Epoch(1, 1e-4, 0.9, 0.5, 0.4, 10.0),), 1, "all 1 epochs done"),
        data=dataclasses.replace(study.data, channels=("OT",), notes=()),
    )
    parsed = Page(render(tmp_path, study))
    for said in (
        "Fine-tuning was not asked for.",
        "Cost was not measured.",
        "No forecasts were recorded.",
        "no density below 1 was tried",
        "1 channel,",
    ):
        assert said in parsed.text, said
    assert "Notes on" not in parsed.text


def test_exploding_error_is_cut_and_said(tmp_path):
    ladder = example.study().ladder
    study = example.study(ladder=(*ladder[:-1], dataclasses.replace(ladder[-1], mse=158_000.0)))
    text = Page(render(tmp_path, study)).text.replace("\u202f", " ")
    assert "1 of 22 rungs lie above the axis (▲), up to 158 000" in text


def test_left_out_windows_are_said(tmp_path, page):
    study = example.study()
    left = dataclasses.replace(study, config={**study.config, "drop_last_test": True})
    said = "all test windows but those of the last, incomplete batch"
    assert said not in Page(page).text
    assert said in Page(render(tmp_path, left)).text


def test_step_of_the_data_is_that_of_the_record(page):
    assert "17 420 rows, one every hour, of 7 channels" in Page(page).text.replace("\u202f", " ")


@pytest.mark.parametrize(
    ("seconds", "step"),
    [
        (604_800.0, "every week"),
        (172_800.0, "every 2 days"),
        (900.0, "every 15 minutes"),
        (90.0, "every 90 seconds"),
        (0.5, "every 0.5 seconds"),
        (0.0, None),
    ],
)
def test_step_is_in_the_largest_unit_that_divides_it(seconds, step):
    from tsjax.report import page

    data = dataclasses.replace(example.study().data, step_seconds=seconds)
    assert page._step(example.study(data=data)) == step


def test_warnings_stand_below_the_headline(tmp_path, page):
    assert 'class="warning"' not in page
    said = "Fine-tuning at density 0.01 ended on an\n error that is not finite."
    text = render(tmp_path, example.study(warnings=(said, "Another.")))
    assert text.count('<p class="warning"><strong>Warning:</strong>') == 2
    assert "Warning: Fine-tuning at density 0.01 ended on an error that is not" in Page(text).text
    assert text.index("</dl>") < text.index('class="warning"') < text.index('class="answer"')


def test_the_control_is_explained(tmp_path, page):
    study = example.study(finetuned=(example.control(), *example.study().finetuned))
    said = "The row at density 1 is the control"
    assert said not in Page(page).text
    assert said in Page(render(tmp_path, study)).text


def test_cost_says_what_an_empty_call_takes_and_what_was_not_counted(tmp_path, page):
    assert "a median near it is the price of a call, not of arithmetic" in Page(page).text
    assert "Not counted" not in Page(page).text
    costs = tuple(dataclasses.replace(c, uncounted={"sort": 2}) for c in example.study().costs)
    text = Page(render(tmp_path, example.study(costs=costs))).text
    assert "Not counted, because no rule says how many operations they take: sort (2 times)" in text


def test_a_further_question_has_a_section(tmp_path, page):
    found = SparseTraining(
        "rigl", 600, 1000, 650, 1050, 4_000_000, 1_000_000, 0.5, 0.4, example.training(2, 0.9, 0.6)
    )
    shown = render(tmp_path, example.study(answers={"sparse": found, "other": "unknown here"}))
    assert "question-sparse" in Page(shown).ids
    text = Page(shown).text
    assert "Trained sparse" in text
    start = shown.index('<th scope="row">rigl</th>')
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", shown[start : shown.index("</tr>", start)])
    assert cells[:5] == ["0.6000", "650", "0.500", "0.400", "1.11×"]
    assert "0.6,600,1000,650,1050,0.5" in (tmp_path / "tables" / "sparse.csv").read_text()
    assert "question-" not in page
    assert "unknown here" not in text


def test_revived_weights_are_a_warning(tmp_path, page):
    tuned = example.study().finetuned[0]
    study = example.study(finetuned=(dataclasses.replace(tuned, revived=12),))
    assert "Check this run" not in page
    assert "12 pruned weights are not zero" in Page(render(tmp_path, study)).text
