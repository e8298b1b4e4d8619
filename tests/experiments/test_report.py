"""The page that compares runs: what it says, that it is valid and closed in itself, and how it looks in a browser."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import browser
import numpy as np
import pytest
from conftest import needs
from disks import quota
from planting import caught, changed

from hetsyn_plugins.core.files import write_json
from hetsyn_plugins.core.network import HetSynLayer, Network
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments import sweep, variants
from hetsyn_plugins.experiments.config import Config, load_config, to_toml
from hetsyn_plugins.experiments.report import page as page_module
from hetsyn_plugins.experiments.report.page import write_report
from hetsyn_plugins.experiments.report.reading import ClaimFolder
from hetsyn_plugins.experiments.run_folder import (
    ClaimResult,
    ClaimRow,
    Failure,
    PictureFile,
    RunSummary,
    SeedResult,
    mean_sd,
    read_content,
    write_content,
)
from hetsyn_plugins.experiments.training_log import Record, line_of

VERSIONS = {"python": "3.10.14", "hetsyn_plugins": "0.1.0", "torch": "2.3.1", "snntorch": "1.0.0"}


def make_run(
    folder: Path,
    settings: Sequence[str] = (),
    tests: Sequence[float] = (0.9844, 0.9906, 0.9931),
    *,
    unfinished: int = 0,
    failed: int = 0,
    versions: dict[str, str] = VERSIONS,
    bare: bool = False,
) -> Path:
    """A folder as `hetsyn train dms` leaves it: so many seeds with these figures, then some that did not end well.

    bare   without logs and networks: nothing to draw, which takes the time
    """
    config = load_config("dms", ["network.hidden=[12]", *settings])
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(config))
    for seed in range(len(tests) + unfinished + failed):
        path, done, rng = folder / f"seed-{seed}", seed < len(tests), np.random.default_rng(seed)
        path.mkdir()
        if done:
            write_content(path / "result.json", result_of(config, seed, tests[seed], versions))
        elif seed >= len(tests) + unfinished:
            failure = Failure(321, "iteration 322: the loss is nan: layer 'hidden1'")
            write_content(path / "failure.json", failure)
        if bare:
            continue
        before = variants.build(config.network, config.task.lines, config.task.outputs, config.task.dt, seed)
        checkpoint.save(before, path / "start.safetensors")
        final = tests[seed] if done else 0.6
        log = [record(i, final, rng) for i in range(10, 1010 if done else 330, 10)]
        (path / "log.jsonl").write_text("".join(f"{line_of(one)}\n" for one in log))
        if done:
            checkpoint.save(trained(before, rng), path / "network.safetensors")
    if tests:
        command = f"hetsyn train dms --seeds 0-{len(tests) - 1} --out {folder.name}"
        write_content(folder / "summary.json", summary_of(config, tests, command))
    return folder


def record(iteration: int, final: float, rng: np.random.Generator) -> Record:
    """A line of a log."""
    score = final - (final - 0.5) * np.exp(-iteration / 150) + rng.normal(0, 0.02)
    validation = None if iteration % 100 else score + rng.normal(0, 0.005)
    return {
        "iteration": iteration, "epoch": float(iteration), "loss": 1 - score, "score": score,
        "validation": validation, "lr": 5e-3, "seconds": iteration * 0.05,
    }  # fmt: skip


def trained(network: Network, rng: np.random.Generator) -> Network:
    """The network with its synaptic decays moved, one tau in fifty to infinity, as far as they are one a synapse."""
    layers = []
    for layer in network.layers:
        assert isinstance(layer, HetSynLayer)
        moved = {field: getattr(layer.params, field) for field in ("decay", "recurrent_decay")}
        moved = {field: move(decay, rng) for field, decay in moved.items() if decay is not None and decay.size > 1}
        layers.append(replace(layer, params=layer.params.replace(**moved)))
    return Network(tuple(layers))


def move(decay: Any, rng: np.random.Generator) -> Any:
    moved = decay ** rng.lognormal(-0.2, 0.6, decay.shape)
    moved[rng.random(decay.shape) < 0.02] = 1
    return moved.astype(np.float32)


def result_of(config: Config, seed: int, test: float, versions: dict[str, str]) -> SeedResult:
    """What came of a seed."""
    select = config.training.select
    return SeedResult(
        seed=seed, measure="accuracy", test=test, validation=test - 0.0037, iterations=1000,
        selected_iteration=1000 if select == "last" else 900, select=select, seconds=48.3 + seed,
        peak_memory_mb=412.6 + seed, threads=2, framework=config.framework, parameters=4321, versions=versions,
    )  # fmt: skip


def summary_of(config: Config, tests: Sequence[float], command: str) -> RunSummary:
    """What came of the seeds together."""
    none = mean_sd([])
    return RunSummary(
        task="dms", variant=config.network.variant, measure="accuracy", select=config.training.select,
        seeds=list(range(len(tests))), test=mean_sd(tests), validation=none, seconds=none, peak_memory_mb=420.0,
        command=command,
    )  # fmt: skip


def make_claim(folder: Path, runs: Sequence[str] = (), **changed: Any) -> Path:
    """A claim with three rows, one of which differs, and a picture."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    ax = Figure(figsize=(6, 3), layout="constrained").add_subplot()
    ax.bar(["cue", "noise"], [154.38, 85.59])
    ax.figure.savefig(folder / "taus.png")
    rows = [
        ClaimRow("tau of cue channels, mean", 154.38, 136.41, 9.73, 5, "ms", True, "up from 100 ms"),
        ClaimRow("tau of noise channels, mean", 85.59, 97.28, 3.16, 5, "ms", None, ""),
        ClaimRow("accuracy after reset", 75.68, 49.72, None, 5, "%", False, "it falls further than the paper's"),
    ]
    claim = ClaimResult(
        name="table4", title="Table 4: long time constants are needed",
        statement="Training lengthens the time constants of cue channels and shortens those of noise channels.",
        command="hetsyn claim table4 --seeds 0-4", rows=rows,
        verdict="The directions are the paper's; accuracy after resetting falls further.",
        tried="Rates of 5e-3, 1e-2 and 2e-2 for tau; training r instead of tau.",
        pictures=[PictureFile("taus.png", "Mean time constants of cue and noise channels")], runs=list(runs),
    )  # fmt: skip
    write_json(folder / "claim.json", asdict(claim) | changed)
    return folder


# ---- the page of a comparison with everything in it ----------------------------------------------------------------

HOSTILE = """<script>alert("x")</script></pre></td>' & <img src=x onerror=alert(1)>"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that ended, did not end, failed and have not begun, a claim with runs, names that are HTML."""
    folder = tmp_path_factory.mktemp("sample")
    make_run(folder / "a/hetsyn")
    make_run(folder / "homneu", ["network.variant=homneu", "training.select=best_test"], (0.712, 0.655, 0.698))
    make_run(folder / "<b onclick='x'>&lt;$^$", ["network.variant=hetneu"], (0.91,), unfinished=1, failed=1)
    make_run(folder / "begun", ["framework=norse"], (), versions=VERSIONS).joinpath("seed-0").mkdir()
    make_run(
        folder / "claims/runs/hetsyn",
        ["network.tau_start=[0.1, 0.01]"],
        (0.9987, 0.9991),
        versions=VERSIONS | {"torch": "2.9.1"},
    )
    make_claim(folder / "claims/table4", ["../runs/hetsyn"])
    rows = [asdict(ClaimRow(HOSTILE, None, 0.0497, 0.0031, 10, "", True, HOSTILE))]
    texts = {key: HOSTILE for key in ("title", "statement", "command", "verdict", "tried")}
    make_claim(folder / "claims/hostile", rows=rows, pictures=[{"file": "taus.png", "caption": HOSTILE}], **texts)
    names = ["a/hetsyn", "homneu", "<b onclick='x'>&lt;$^$", "begun", "claims/table4", "claims/hostile"]
    return write_report([folder / name for name in names], folder / "report.html")


@pytest.fixture(scope="module")
def page(sample: Path) -> Page:
    return Page(sample.read_text(encoding="utf-8"))


class Page(HTMLParser):
    """A page taken apart: elements with their attributes, the text of table rows, and what is not valid HTML."""

    VOID = ("meta", "link", "img", "br", "wbr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.html, self.open, self.invalid = text, list[str](), list[str]()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        self.invalid += [f"{tag} is not closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if len(dict(attrs)) < len(attrs):
            self.invalid.append(f"an attribute twice in {tag}")
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.invalid.append(f"</{tag}> at {self.getpos()} closes something else")

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, *starts: str) -> list[str]:
        """The first row whose first cells are these."""
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return next(row for row in rows if row[: len(starts)] == list(starts))

    @property
    def words(self) -> str:
        """All text, one space between words."""
        return " ".join(self.text.split())


def test_valid_html(page: Page) -> None:
    assert page.invalid == []
    assert page.html.startswith("<!doctype html>")
    assert page.of("html") == [{"lang": "en"}]
    assert next(m.get("charset") for m in page.of("meta")) == "utf-8", "before any text"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.of("meta")
    assert len(page.of("title")) == len(page.of("h1")) == len(page.of("main")) == 1
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert max(Counter(ids).values()) == 1
    links = [a["href"] for a in page.of("a")]
    assert len(links) >= 5 and {(link or "")[1:] for link in links} <= set(ids), (
        "every link leads somewhere in the page"
    )
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and max(np.diff(levels)) <= 1, "no level of headings is left out"


def test_tables_and_pictures_can_be_read_aloud(page: Page) -> None:
    assert page.of("th") and all(th.get("scope") in ("col", "row", "rowgroup") for th in page.of("th"))
    assert all(th.get("class") != "wide" for th in page.of("th"))
    scrollers = [a for a in page.of("div") if a.get("class") == "wide"]
    assert len(scrollers) == len(page.of("table")) and all(a["tabindex"] == "0" and a["aria-label"] for a in scrollers)
    pictures = page.of("img")
    assert len(pictures) >= 5 and all(len(img["alt"] or "") > 20 for img in pictures)
    assert len(page.of("figcaption")) == len(page.of("figure")) == len(pictures)
    curves = next(img["alt"] or "" for img in pictures if "accuracy" in (img["alt"] or ""))
    assert "homneu" in curves and re.search(r"homneu [67]\d\.\d\d ± ", curves), "the ends of the curves are in words"


def test_nothing_comes_from_elsewhere(page: Page) -> None:
    """No script; pictures and icon in the page, whole and of the size it says; no address in styles."""
    assert not page.of("script")
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), f"{tag} {attributes}"
        for name in ("src", "href", "srcset", "poster", "data", "action", "background"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), f"{tag} {attributes}"
    styles = "".join(re.findall("<style>(.*?)</style>", page.html, re.S))
    assert len(styles) > 1000 and not re.search(r"url\(|@import|http", styles)
    for img in page.of("img"):
        kind, _, content = (img["src"] or "").partition(",")
        assert kind == "data:image/png;base64"
        height, width = read_png(base64.b64decode(content)).shape[:2]
        assert (img["width"], img["height"]) == (str(width), str(height)) and min(width, height) > 100


def read_png(content: bytes) -> Any:
    from matplotlib import image

    return image.imread(io.BytesIO(content), format="png")


def test_what_comes_from_files_stays_text(page: Page) -> None:
    assert page.words.count('<script>alert("x")</script>') >= 7, (
        "title, statement, command, verdict, tried, row, caption"
    )
    assert "<b onclick='x'>&lt;$^$" in page.words
    assert all("alert(" not in f"{a}" for tag, a in page.elements if tag not in ("img", "div"))
    assert {tag for tag, _ in page.elements} == {
        "html", "head", "meta", "title", "link", "style", "body", "header", "main", "section", "article", "div", "h1",
        "h2", "h3", "p", "strong", "a", "ul", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td",
        "figure", "img", "figcaption", "details", "summary", "pre", "code", "wbr", "span",
    }  # fmt: skip


def test_the_table_of_runs(page: Page) -> None:
    """Mean and s.d. (n - 1) of the seeds that are done, as NumPy has them."""
    mean, sd = 100 * np.mean([0.9844, 0.9906, 0.9931]), 100 * np.std([0.9844, 0.9906, 0.9931], ddof=1)
    row = page.row("a/hetsyn")
    assert row[1] == f"{mean:.2f} ± {sd:.2f} %" == "98.94 ± 0.45 %"
    assert row[2:6] == [f"{mean - 0.37:.2f} ± {sd:.2f} %", "the last", "3", "R-HetSynLIF"]
    assert row[6:] == ["12", "dms", "snntorch", "49.3 s", "415 MB", "4,321"]
    assert page.row("homneu")[3] == "chosen on the test set"
    assert "the test figure is flattered" in page.words
    assert page.row("<b onclick='x'>&lt;$^$")[1:5] == ["91.00 %", "90.63 %", "the last", "1 of 3"]
    assert page.row("begun")[1:5] == ["none", "none", "none", "0 of 1"]
    assert (
        page.row("runs/hetsyn")[1]
        == f"{100 * np.mean([0.9987, 0.9991]):.2f} ± {100 * np.std([0.9987, 0.9991], ddof=1):.2f} %"
    )


def test_seeds_that_did_not_end_well_are_told(page: Page) -> None:
    expected = (
        "seed 1 not ended, logged up to iteration 320; seed 2 failed: iteration 322: the loss is nan: layer 'hidden1'"
    )
    assert f"<b onclick='x'>&lt;$^$ : {expected}" in page.words.replace("$^$:", "$^$ :")
    assert page.row("1", "none")[-1] == "not ended, logged up to iteration 320"
    assert "begun: seed 0 not ended, no log yet" in page.words


def test_every_seed_has_a_row(page: Page) -> None:
    assert page.row("0", "98.44 %") == ["0", "98.44 %", "98.07 %", "1,000", "1,000", "48.3 s", "413 MB", "2", "done"]
    assert page.row("2", "69.80 %") == ["2", "69.80 %", "69.43 %", "1,000", "900", "50.3 s", "415 MB", "2", "done"]


def test_seeds_are_in_order(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tests=[0.5] * 11, bare=True)
    page = Page(write_report([run], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [row[0] for row in page.rows if row[1] == "50.00 %"] == [str(seed) for seed in range(11)]


def test_the_settings_that_differ_and_no_others(page: Page) -> None:
    start = page.rows.index(next(row for row in page.rows if row[0] == "Setting"))
    table = {row[0]: row[1:] for row in page.rows[start + 1 : start + 6]}
    assert table["network.variant"] == ["hetsyn", "homneu", "hetneu", "hetsyn", "hetsyn"]
    assert table["network.tau_start"] == ["[0.04, 0.004]"] * 4 + ["[0.1, 0.01]"]
    assert table["training.select"] == ["last", "best_test", "last", "last", "last"]
    assert table["framework"] == ["snntorch", "snntorch", "snntorch", "norse", "snntorch"]
    assert table["version of torch"] == ["2.3.1", "2.3.1", "2.3.1", "none", "2.9.1"]
    assert page.rows[start + 6][0] == "Synapses", "no other row"
    assert re.search("All results made with *python 3.10.14, hetsyn_plugins 0.1.0, snntorch 1.0.0", page.words)


def test_the_claims(page: Page) -> None:
    assert page.row("tau of cue channels, mean")[1:] == [
        "154.38 ms",
        "136.41 ms",
        "9.73",
        "5",
        "holds",
        "up from 100 ms",
    ]
    assert page.row("tau of noise channels, mean")[1:6] == ["85.59 ms", "97.28 ms", "3.16", "5", "not judged"]
    assert page.row("accuracy after reset")[1:6] == ["75.68 %", "49.72 %", "none", "5", "differs from the paper"]
    assert page.row(HOSTILE)[1:6] == ["not given", "0.0497", "0.0031", "10", "holds"]
    assert "differs from the paper in 1 of 2 rows" in page.words
    for text in (
        "shortens those of noise channels.",
        "falls further.",
        "training r instead",
        "hetsyn claim table4 --seeds 0-4",
    ):
        assert text in page.words


def test_time_constants_before_and_after(sample: Path, page: Page) -> None:
    """Medians and shares in the table are those of the files, all seeds together."""
    by_file: dict[str, list[Any]] = {"start": [], "network": []}
    for name, taus in by_file.items():
        for seed in range(3):
            layer = checkpoint.load(sample.parent / f"a/hetsyn/seed-{seed}/{name}.safetensors").layers[0]
            with np.errstate(divide="ignore"):
                taus.append(5.0 / abs(np.log(layer.params.decay.astype(np.float64))))
    before, after = np.array(by_file["start"]), np.array(by_file["network"])
    counts = [row[1] for row in page.rows if row[0] == "hidden1 input"]
    assert counts == ["1,080", "1,080", "360", "720"], "of the seeds that are done, where some are"
    row = page.row("hidden1 input")
    assert row[1] == f"{before.size:,}" == "1,080"
    assert row[2] == f"{np.median(before):.1f} → {np.median(after):.1f} ms"
    assert row[3] == f"{before.mean():.1f} → {np.minimum(after, 5000).mean():.1f} ms"
    assert row[4] == f"0.0 → {100 * np.mean(after > 700):.1f} %"
    assert row[6] == f"0.0 → {100 * np.mean(np.isinf(after)):.1f} %" != "0.0 → 0.0 %"


def test_the_configurations_and_commands(sample: Path, page: Page) -> None:
    assert (sample.parent / "homneu/config.toml").read_text() in page.text
    assert "hetsyn train dms --seeds 0-2 --out hetsyn" in page.words
    assert f"hetsyn train {sample.parent}/begun/config.toml --seeds 0 --out {sample.parent}/begun" in page.words
    assert re.search(r"hetsyn report \S+/a/hetsyn \S+/homneu .* --out \S+/report.html", page.words)


def drawn_curves(folders: list[Path], out: Path, page: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes of all learning curves of a report."""
    draw, axes = page.plots.learning_curves, []
    monkeypatch.setattr(
        page.plots, "learning_curves", lambda *args, **names: axes.append(draw(*args, **names)) or axes[-1]
    )
    page.write_report(folders, out)
    monkeypatch.undo()
    return axes


@pytest.mark.parametrize("validated", [True, False])
def test_a_learning_curve_is_of_what_its_axis_says(
    validated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_curves(page_module, validated, tmp_path, monkeypatch)


def check_curves(page: Any, validated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation where it was measured, else the score of the batches: each log has numbers of its own."""
    folders = []
    for name, low in (("one", 0.1), ("other", 0.4)):
        folders.append(make_run(tmp_path / name, tests=(0.9, 0.8), bare=True))
        for seed in (0, 1):
            lines: list[Any] = [record(i, 0.9, np.random.default_rng(0)) for i in (100, 200)]
            for at, line in enumerate(lines):
                line |= {"score": low + 0.01 * seed + 0.02 * at, "validation": None}
                line |= {"validation": line["score"] + 0.2} if validated else {}
            (folders[-1] / f"seed-{seed}/log.jsonl").write_text("".join(f"{line_of(one)}\n" for one in lines))
    (ax,) = drawn_curves(folders, tmp_path / "page.html", page, monkeypatch)
    shift = 0.2 if validated else 0.0
    for line, low in zip(ax.lines, (0.1, 0.4), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.array([low + 0.005, low + 0.025]) + shift)
    where = "validation samples" if validated else "training batches"
    assert ax.get_ylabel() == f"accuracy ({where})"
    text = (tmp_path / "page.html").read_text()
    assert f"one {100 * (0.125 + shift):.2f} ±" in text, "the last numbers, in words"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('("validation", "validation samples") if', '("score", "validation samples") if', "Not equal to tolerance"),
        ("(record[key] for record in log)", '(record["score"] for record in log)', "the last numbers, in words"),
        ("values[-1] for values", "values[0] for values", "the last numbers, in words"),
    ],
    ids=["scores drawn as validation", "scores told as validation", "the first numbers"],
)
def test_planted_bugs_are_caught(
    old: str, new: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = changed(page_module.__name__, old, new)[page_module.__name__]
    with caught(says):
        check_curves(fresh, True, tmp_path, monkeypatch)


def test_histograms_are_of_the_networks_before_and_after(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    draw = page_module.plots.tau_change
    monkeypatch.setattr(page_module.plots, "tau_change", lambda *taus: calls.append(taus) or draw(*taus))
    page_module.write_report([sample.parent / "a/hetsyn"], sample.parent / "histograms.html")
    ((before, after),) = calls
    for taus, file in ((before, "start"), (after, "network")):
        layers = [
            checkpoint.load(sample.parent / f"a/hetsyn/seed-{seed}/{file}.safetensors").layers[0] for seed in range(3)
        ]
        expected = np.concatenate([layer.params.tau(5e-3).decay.ravel() for layer in layers])
        np.testing.assert_allclose(taus["hidden1 input"], expected)


# ---- other folders -------------------------------------------------------------------------------------------------


def test_a_run_as_it_is_really_written(tmp_path: Path) -> None:
    """What `hetsyn train` leaves can be read, and the page says what its summary says."""
    settings = ["network.hidden=[5]", "training.iterations=4", "training.log_every=2", "task.test_samples=40"]
    summary = sweep.train_seeds(load_config("dms", settings), [0], tmp_path / "real", quiet=True)
    page = Page(write_report([tmp_path / "real"], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.invalid == []
    assert page.row("real")[1] == f"{100 * summary.test.mean:.2f} %"
    assert summary.command in page.words and "torch" in page.words
    assert len(page.of("img")) == 3, "two learning curves and time constants"


def test_errors_have_their_own_digits(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mse", tests=(0.0497, 0.0523), bare=True)
    for path in run.glob("seed-*/result.json"):
        write_content(path, replace(read_content(SeedResult, path), measure="MSE"))
    page = Page(write_report([run], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.row("mse")[1] == "0.05100 ± 0.00184 MSE"


@pytest.mark.parametrize("left", ["log.jsonl", "network.safetensors", "start.safetensors"])
def test_a_run_without_some_of_its_files(left: str, tmp_path: Path) -> None:
    """What is there is shown: a log without networks, networks without a log."""
    run = make_run(tmp_path / "run", tests=(0.9, 0.8))
    for path in run.glob(f"seed-*/{left}"):
        path.unlink()
    page = Page(write_report([run], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.row("run")[1] == "85.00 ± 7.07 %"


def test_many_runs_in_one_picture(tmp_path: Path) -> None:
    """The legend of thirty runs leaves the curves their room."""
    runs = [make_run(tmp_path / f"run-number-{index}", tests=(0.9,), bare=True) for index in range(30)]
    for run in runs:
        (run / "seed-0/log.jsonl").write_text(line_of(record(100, 0.9, np.random.default_rng(0))) + "\n")
    page = Page(write_report(runs, tmp_path / "page.html").read_text(encoding="utf-8"))
    picture, losses = page.of("img")
    assert "loss" in losses["alt"]
    pixels = read_png(base64.b64decode((picture["src"] or "").partition(",")[2]))
    spines = (pixels[..., :3] < 0.6).all(-1).mean(0).max()
    assert spines * pixels.shape[0] / 160 > 2, "inches of the axes, whose left edge is the longest dark line"


@pytest.mark.parametrize(("measure", "mean"), [("accuracy", "90.00 %"), ("MSE", "0.9000 MSE")])
def test_a_result_that_is_not_a_number_is_a_failure(measure: str, mean: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tests=(0.9, float("nan")), bare=True)
    for path in run.glob("seed-*/result.json"):
        result = read_content(SeedResult, path)
        write_content(path, replace(result, measure=measure, validation=float("nan")))
    page = Page(write_report([run], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.row("run")[1:3] == [mean, "none"] and page.row("run")[4] == "1 of 2"
    assert page.row("1", "nan")[-1] == "failed: the measure on the test set is nan"


def test_a_log_cut_off_in_its_last_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tests=(), unfinished=1)
    log = run / "seed-0/log.jsonl"
    log.write_text(log.read_text() + '{"iteration": 330, "sco')
    page = Page(write_report([run], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "not ended, logged up to iteration 320" in page.words


def test_the_same_run_twice_is_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", bare=True)
    claim = make_claim(tmp_path / "claim", ["../run"])
    page = Page(write_report([run, run, claim], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.of("h1") and "HetSyn: 1 claim and 1 run" in page.words
    assert "What sets them apart" not in page.words


def damaged(run: Path, file: str, content: str | dict[str, Any]) -> str:
    """The path of a file with this text, or with a JSON object as it is written; an object without digest is damage."""
    if isinstance(content, dict):
        write_json(run / file, content)
    else:
        (run / file).write_text(content)
    return f"{run / file}"


RECORD = record(10, 0.9, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("config.toml", "framework = ", "expected a configuration in TOML"),
        ("config.toml", 'framework = "norse"', "task.name: expected a text, got None"),
        ("config.toml", "framework = 1979-05-27", "framework: expected a text, got datetime.date"),
        ("summary.json", "{", "expected a summary.json, got what cannot be read"),
        ("summary.json", {}, "command: expected a text, got nothing"),
        ("seed-0/result.json", '{"seed": 0', "expected a result.json, got what cannot be read"),
        ("seed-0/result.json", {"measure": "MSE", "test": 1, "validation": ""}, "validation: expected a number"),
        (
            "seed-0/result.json",
            {"measure": "MSE", "validation": None, "test": "good"},
            "test: expected a number, got good",
        ),
        (
            "seed-0/result.json",
            {"measure": "MSE", "validation": None, "test": True},
            "test: expected a number, got True",
        ),
        ("seed-0/result.json", {"measure": "x" * 201}, "measure: expected a word of up to 200"),
        ("seed-0/result.json", "[]", "expected an object"),
        ("seed-0/log.jsonl", "{]\n{}\n", "line 1: expected a record in JSON"),
        ("seed-0/log.jsonl", '{"iteration": 10}\n', "line 1: expected an object of iteration, epoch, loss"),
        ("seed-0/log.jsonl", f"{line_of(RECORD)}\n" * 2, "line 2: iteration: expected an iteration after 10, got 10"),
        ("seed-0/log.jsonl", line_of(RECORD).replace("10.0", "11.0") + "\n", "line 1: expected the record"),
        ("seed-0/log.jsonl", line_of(RECORD | {"score": "0.5"}) + "\n", "line 1: score: expected a number, got 0.5"),
        (
            "seed-0/log.jsonl",
            line_of(RECORD | {"seconds": float("inf")}) + "\n",
            "line 1: seconds: expected a finite number",
        ),
        ("seed-0/log.jsonl", "9" * 2000, "line 1: expected at most 1000000 lines of 1000 bytes"),
        ("seed-0/network.safetensors", "no tensors", "network.safetensors"),
        ("claim.json", "{", "expected a claim.json, got what cannot be read"),
        ("claim.json", {}, "title: expected a text, got nothing"),
    ],
)
def test_a_damaged_file_is_named(file: str, content: Any, what: str, tmp_path: Path) -> None:
    folder = make_claim(tmp_path / "it") if file == "claim.json" else make_run(tmp_path / "it", tests=(0.9,))
    path = damaged(folder, file, content)
    with pytest.raises(ValueError, match=re.escape(what)) as caught:
        write_report([folder], tmp_path / "page.html")
    assert path in str(caught.value)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"rows": [{"label": "x"}]}, "rows[0].paper: expected a number or null, got nothing"),
        ({"rows": ["x"]}, "rows[0]: expected an object, got x"),
        ({"pictures": [{"file": "no.png", "caption": ""}]}, "no.png, which does not exist"),
        ({"pictures": [{"file": "claim.json", "caption": ""}]}, "expected a PNG"),
        ({"pictures": [{"file": "../it.png", "caption": ""}]}, "outside its folder"),
        ({"pictures": [{"file": "/etc/passwd", "caption": ""}]}, "outside its folder"),
        ({"pictures": [{"file": "link.png", "caption": ""}]}, "outside its folder"),
        ({"pictures": [{"file": "a\0b", "caption": ""}]}, "pictures[0].file: expected a word"),
        ({"pictures": [{"file": "a" * 300, "caption": ""}]}, "pictures[0].file: expected a word"),
        ({"pictures": [{"file": "taus.png", "caption": ""}] * 2}, "pictures: expected at most 200, each once"),
        ({"runs": [3]}, "runs[0]: expected a text, got 3"),
        ({"runs": ["../nowhere"]}, "nowhere, which is no folder"),
        ({"runs": ["../../nowhere"]}, "runs[0]: expected a folder beside or within that of the claim"),
        ({"runs": ["/nowhere"]}, "runs[0]: expected a folder beside or within that of the claim"),
        ({"runs": ["a/../../../nowhere"]}, "runs[0]: expected a folder beside or within that of the claim"),
    ],
)
def test_what_is_wrong_in_a_claim_is_named(changed: dict[str, Any], what: str, tmp_path: Path) -> None:
    claim = make_claim(tmp_path / "claim", **changed)
    (tmp_path / "it.png").write_bytes((claim / "taus.png").read_bytes())
    (claim / "link.png").symlink_to("../it.png")
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(what)) as caught:
        write_report([claim], tmp_path / "page.html")
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folders: expected at least one"):
        write_report([], tmp_path / "page.html")
    with pytest.raises(
        ValueError, match=r"folders: expected a run \(config.toml\) or a claim \(claim.json\), got .*neither"
    ):
        write_report([tmp_path], tmp_path / "page.html")
    with pytest.raises(FileNotFoundError, match=r"folders: .*nowhere, which is no folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "page.html")
    with pytest.raises(FileNotFoundError, match=r"path: .*whose folder does not exist"):
        write_report([make_run(tmp_path / "run", tests=())], tmp_path / "nowhere/page.html")


def test_a_page_is_whole_or_the_old_one(tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run", tests=()), tmp_path / "page.html"
    out.write_text("the old one")
    with quota(1000), pytest.raises(OSError, match=f"File too large .*'{out}'"):
        write_report([run], out)
    assert out.read_text() == "the old one" and sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "run"]


# ---- in a browser --------------------------------------------------------------------------------------------------

needs_browser = needs("chromium", browser.find() is not None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    with browser.running(120) as running:
        yield running


@needs_browser
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_looks_right(width: int, dark: bool, sample: Path, chromium: browser.Browser) -> None:
    """No error in the console, nothing asked for, nothing overflows, every picture is there, all text can be read."""
    assert chromium.inspect(sample, width, dark=dark) == browser.Findings([], [], [], [], [], [])


@needs_browser
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_long_names_do_not_cover_the_page(width: int, tmp_path: Path, chromium: browser.Browser) -> None:
    """Names without a break: nothing overflows, and the first column, which stays in sight, leaves room for others."""
    folders = [make_run(tmp_path / name, tests=(0.9,)) for name in ("long" * 40, "longer" * 30)]
    page = write_report(folders, tmp_path / "page.html")
    assert chromium.inspect(page, width) == browser.Findings([], [], [], [], [], [])
    cells = "[...document.querySelectorAll('.sticky tr > :first-child:not([colspan])')].map(e => e.offsetWidth)"
    assert max(chromium.evaluate(cells)) < width / 2


@needs_browser
def test_it_is_drawn(sample: Path, chromium: browser.Browser, tmp_path: Path) -> None:
    """A screenshot has the window's width, is long, and is not blank; dark is dark."""
    for width, dark in ((360, False), (1280, True)):
        chromium.screenshot(sample, width, tmp_path / "page.png", dark=dark)
        pixels = read_png((tmp_path / "page.png").read_bytes())[..., :3]
        assert pixels.shape[1] == width and pixels.shape[0] > 2000
        assert pixels[:2000].std() > 0.02
        assert (pixels[5, 5].mean() < 0.2) == dark


FAULTS = {
    "overflow": ("<pre style='white-space: pre'>" + "wide " * 60 + "</pre>", "overflow", 'pre. "wide'),
    "errors": ("<script>console.error('it broke')</script>", "errors", "it broke"),
    "exception": ("<script>undefined_name.x</script>", "errors", "undefined_name"),
    "broken": ("<img src='data:image/png;base64,iVBORw0KGgo=' alt='half a picture'>", "broken", "half a picture"),
    "requests": ("<img src='https://example.org/logo.png' alt=''>", "requests", "https://example.org/logo.png"),
    "contrast": ("<p style='color: #999; background: #fff'>grey on white</p>", "contrast", "grey on white"),
    "small": ("<p style='font-size: 9px'>fine print</p>", "small", "fine print"),
    "outside": ("<p style='position: fixed; left: 300px; width: 90px'>too far</p>", "overflow", 'p. "too far"'),
    "spills": ("<div style='width: 50px; overflow: hidden'><p style='width: 90px'>cut</p></div>", "overflow", "spills"),
}


@needs_browser
@pytest.mark.parametrize("name", FAULTS)
def test_the_browser_notices(name: str, sample: Path, chromium: browser.Browser, tmp_path: Path) -> None:
    """Each fault, planted in a copy of the page, is found."""
    fault, kind, says = FAULTS[name]
    copy = tmp_path / "copy.html"
    copy.write_text(sample.read_text(encoding="utf-8").replace("<main>", f"<main>{fault}"), encoding="utf-8")
    findings = chromium.inspect(copy, 360)._asdict()
    assert any(says in line for line in findings[kind]), findings


@needs_browser
def test_the_browser_notices_a_page_that_is_not_for_telephones(chromium: browser.Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><html lang='en'><head><title>x</title></head><body><p>no viewport</p></body></html>"
    )
    assert any("laid out for" in line for line in chromium.inspect(page, 360).overflow)


@pytest.mark.parametrize(
    ("judged", "says"),
    [
        ([(True, None), (True, None)], "holds"),
        ([(True, None), (None, None)], "holds"),  # of which nothing was to be judged
        ([(True, None), (None, True)], "undecided in 1 of 2 rows"),
        ([(None, True)], "undecided"),
        ([(False, None), (None, True)], "differs from the paper in 1 of 2 rows"),
        ([(None, None)], "not judged"),
    ],
)
def test_the_outcome_of_a_claim_knows_the_undecided(judged: list[Any], says: str) -> None:
    rows = [ClaimRow("a", None, 1.0, None, 1, "%", holds, "", undecided) for holds, undecided in judged]
    claim = object.__new__(ClaimFolder)
    claim.content = SimpleNamespace(rows=rows)  # type: ignore[assignment]
    assert claim.outcome[0] == says
