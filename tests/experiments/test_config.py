"""Configurations: defaults, changes, TOML there and back, and what is wrong with a setting."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.experiments.config import TrainingConfig, changed_config, differences, load_config, to_toml
from hetsyn_plugins.experiments.tasks import TASKS
from hetsyn_plugins.experiments.tasks.images import SequentialImages
from hetsyn_plugins.experiments.variants import NetworkConfig


@pytest.mark.parametrize("name", TASKS)
def test_a_resolved_configuration_is_read_back_as_it_was(name: str, tmp_path: Path) -> None:
    config = load_config(name, ["network.hidden=[3, 4]", "training.lr=0.002", "training.batch=7"], "norse")
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "config.toml") == config
    network, training = config.network, config.training
    assert (network.hidden, training.lr, training.batch, config.framework) == ((3, 4), 0.002, 7, "norse")


def test_every_setting_is_written(tmp_path: Path) -> None:
    """What is not written would change with a later default."""
    text = to_toml(load_config("dms"))
    for part in (NetworkConfig, TrainingConfig, TASKS["dms"]):
        for field in fields(part):
            assert f"\n{field.name} = " in text


def test_the_papers_settings_come_with_a_tasks_name_and_with_a_file_that_says_little(tmp_path: Path) -> None:
    (tmp_path / "little.toml").write_text('[task]\nname = "dms"\ndelay = 2.5\n[network]\nhidden = [20]\n')
    config = load_config(tmp_path / "little.toml")
    assert config.network.hidden == (20,)
    assert config.network.tau_reset == load_config("dms").network.tau_reset == 40e-3
    assert differences(load_config("dms"), config) == {"network.hidden": ((50,), (20,)), "task.delay": (0.8, 2.5)}


def test_changed_keeps_the_rest() -> None:
    config = load_config("dms", ["network.hidden=[7]"])
    later = changed_config(config, ["task.noise_rate=20"])
    assert differences(config, later) == {"task.noise_rate": (10.0, 20.0)}


@pytest.mark.parametrize(
    ("setting", "value"),
    [("network.variant=homneu", "homneu"), ('network.variant="homneu"', "homneu"), ("network.variant = alif", "alif")],
)
def test_a_bare_word_is_a_string(setting: str, value: str) -> None:
    assert load_config("dms", [setting]).network.variant == value


def test_none_is_none() -> None:
    assert load_config("images", ["task.samples=none"]).task.samples is None  # type: ignore[attr-defined]
    assert load_config("images", ["task.samples=5"]).task.samples == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("network.hiden=[5]", r"setting: expected a known key .*, got 'network\.hiden'; nearest: network\.hidden"),
        ("hidden=[5]", r"nearest: .*network\.hidden"),
        ("learning_rate=1", r"setting: expected a known key \(--show prints all\), got 'learning_rate'"),
        ("task.dealy=1", r"nearest: task\.delay"),
        ("network.hidden", "--set: expected key=value, got 'network.hidden'"),
        ("network.hidden=5", r"network\.hidden: expected a list, got 5"),
        ("network.hidden=[]", r"network\.hidden: expected at least one layer"),
        ("network.hidden=[0]", r"network\.hidden: expected at least 1 neuron a layer"),
        ("network.hidden=[2.5]", r"network\.hidden: expected a value of type int, got 2\.5"),
        ("network.hidden=[true]", r"network\.hidden: expected a value of type int, got True"),
        ("network.tau_start=[1.0]", r"network\.tau_start: expected a list of 2"),
        ("network.variant=lif", r"network\.variant: expected one of hetsyn, .*, got 'lif'"),
        ("network.frozen=1.5", r"network\.frozen: expected 0 to 1, got 1\.5"),
        ("network.recurrent=1", r"network\.recurrent: expected a value of type bool, got 1"),
        ("network.quantised=true", r"network\.quantised: expected framework 'lava_dl' with it, got 'snntorch'"),
        ("training.batch=0", r"training\.batch: expected at least 1, got 0"),
        ("training.lr=-1", r"training\.lr: expected > 0, got -1\.0"),
        ("training.lr=fast", r"training\.lr: expected a value of type float, got 'fast'"),
        ("training.select=best", r"training\.select: expected one of last, best_validation, best_test, got 'best'"),
        ("network.tau_start=[0.04, -1]", r"network\.tau_start: sd: expected .*, in \[0\.04, -1"),
        ("network.tau_start=[inf, 0.0]", r"network\.tau_start: mean: expected"),
        ("network.adaptation=nan", r"network\.adaptation: expected a finite number, got nan"),
        ("network.tau_reset=inf", r"network\.tau_reset: expected seconds > 0, got inf"),
        ("training.lr=inf", r"training\.lr: expected > 0, got inf"),
        ("training.clip=nan", r"training\.clip: expected at least 0, got nan"),
        ("task.name=[1]", r"task\.name: expected one of .*, got \[1\]"),
        ("task.name=dsm", r"task\.name: expected one of .*, got 'dsm'; nearest: dms"),
        ("task.delay=-1", "delay: expected"),
    ],
)
def test_wrong_settings_are_told_with_their_name(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config("dms", [setting])


def test_a_preset_is_between_the_tasks_settings_and_those_that_are_given() -> None:
    plain, paper = load_config("images"), load_config("images", preset="paper")
    assert (plain.training.epochs, paper.training.epochs) == (15, 150)
    assert paper.network == plain.network and paper.task.readout == "counts"  # type: ignore[attr-defined]
    changed = load_config("images", ["training.epochs=2", "task.readout=mean"], preset="triangular")
    assert (changed.training.epochs, changed.training.clip, changed.network.surrogate) == (2, 1.0, "triangular")
    assert changed.task.readout == "mean" and changed.task.order == "pixel"  # type: ignore[attr-defined]
    for task in ("dms", "patterns", "speech"):
        assert load_config(task, preset="paper") == load_config(task)
    with pytest.raises(ValueError, match="preset: expected one of paper for dms, got 'papers'"):
        load_config("dms", preset="papers")
    with pytest.raises(ValueError, match="preset: expected none for own, which has none, got 'paper'"):
        load_config("mydata.npz", preset="paper")


def test_a_file_takes_no_preset(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(to_toml(load_config("dms")))
    with pytest.raises(ValueError, match="preset: expected none with a file, which has every setting, got 'paper'"):
        load_config(tmp_path / "x.toml", preset="paper")


def test_a_file_of_before_a_setting_means_what_it_meant(tmp_path: Path) -> None:
    now = to_toml(load_config("speech"))
    before = now.replace('validate_on = "speakers"\n', "")
    assert before != now
    for text, on in ((now, "speakers"), (before, "recordings"), ('[task]\nname = "speech"\nskip = 3', "speakers")):
        (tmp_path / "x.toml").write_text(text)
        assert load_config(tmp_path / "x.toml").task.validate_on == on  # type: ignore[attr-defined]


def test_frozen_taus_need_taus_that_are_learned_one_by_one() -> None:
    with pytest.raises(ValueError, match=r"network\.frozen: expected 0 with variant 'hetneu', got 0\.5"):
        load_config("dms", ["network.variant=hetneu", "network.frozen=0.5"])


def test_the_chips_integers_take_no_dropout() -> None:
    with pytest.raises(ValueError, match=r"network\.quantised: expected network\.dropout=0 with it, got 0\.2"):
        load_config("dms", ["network.quantised=true", "network.dropout=0.2"], "lava_dl")


def test_wrong_sources(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"config: expected one of .* or a TOML file, got pattern.*nearest: pat"
    ):
        load_config("pattern")
    with pytest.raises(FileNotFoundError, match="which is no file"):
        load_config(tmp_path)
    (tmp_path / "broken.toml").write_text("[task\n")
    with pytest.raises(ValueError, match=r"broken\.toml: expected a configuration in TOML, got"):
        load_config(tmp_path / "broken.toml")
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ValueError, match=r"empty\.toml: task\.name: expected one of .*, got None"):
        load_config(tmp_path / "empty.toml")


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ("", "framework = [1]", r"framework: expected a value of type str, got \[1\]"),
        ("", "framework = 1979-05-27", r"framework: expected a value of type str, got datetime\.date"),
        ("", "task.delay.x = 1", r"task\.delay: expected a value of type float, got \{'x': 1\}"),
        ("", f"{'.'.join('a' * 40)} = 1", "expected a configuration in TOML of at most 32 levels"),
        ("", f"a = {'[' * 40}{']' * 40}", "expected a configuration in TOML of at most 32 levels"),
        ("", f"a = 1{'0' * 5000}", "expected a configuration in TOML, got what cannot be read"),
        ("", f"a = '{'x' * 200_000}'", "expected a configuration in TOML of at most 200000 bytes, got"),
        ("task", f"delay = 1{'0' * 400}", r"task\.delay: expected numbers of 64 bits, got 1000"),
        ("task", "delay = nan", r"task\.delay: expected"),
        ("task", "delay = -inf", r"task\.delay: expected"),
        ("task", f"group = {2**63}", r"task\.group: expected numbers of 64 bits, got 9223372036854775808"),
        ("task", "group = 07:32:00", r"task\.group: expected a value of type int, got datetime\.time"),
        ("network", "hidden = [[3]]", r"network\.hidden: expected a value of type int, got \[3\]"),
        ("training", '"l\\u0000r" = 1', r"setting: expected a known key .*, got 'training\.l\\x00r'"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_file_and_key(table: str, line: str, message: str, tmp_path: Path) -> None:
    lines = ["framework = 'norse'" if table else line, "task.name = 'dms'", f"[{table}]\n{line}" if table else ""]
    text = "\n".join(lines).replace("task.name = 'dms'\n[task]", "[task]\nname = 'dms'")
    (tmp_path / "it.toml").write_text(text)
    with pytest.raises(FileFormatError, match=rf"^{tmp_path}/it\.toml: {message}"):
        load_config(tmp_path / "it.toml")


def test_every_character_of_a_setting_is_read_back(tmp_path: Path) -> None:
    """Control characters are escaped as TOML has it; what no TOML can hold is refused by its key."""
    odd = "".join(map(chr, range(1, 0x250))) + "\u2028\ufeff\U0001f600" + "'" * 3 + '"' * 3
    config = replace(load_config("images"), task=SequentialImages(source=odd))
    (tmp_path / "it.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_config(tmp_path / "it.toml") == config
    for value in ("a\0b", "\ud800"):
        with pytest.raises(ValueError, match=r"task\.source: expected a text in UTF-8 without NUL, got"):
            load_config("images", [f"task.source='{value}'"])


@pytest.mark.parametrize("value", ["[" * 1000, "[" * 1000 + "]" * 1000, ".".join("a" * 5000), "9" * 5000, "1\nb = 2"])
def test_a_value_without_end_is_told_with_its_key(value: str) -> None:
    with pytest.raises(ValueError, match=r"network\.hidden: expected a list, got '") as raised:
        load_config("dms", [f"network.hidden={value}"])
    assert len(str(raised.value)) < 400
