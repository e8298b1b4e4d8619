"""Public data sets: got from a publisher that sends wrong bytes, breaks off or is not there; checked in a folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest
from disks import quota

from hetsyn_plugins import cli
from hetsyn_plugins.core.file_format import FileFormatError
from hetsyn_plugins.core.files import read_json, write_json
from hetsyn_plugins.experiments.data import get, publishers
from hetsyn_plugins.experiments.data.publishers import DATA_SETS, RECORDINGS, DataSet, Published

DATA = {"one.gz": gzip.compress(Random(0).randbytes(20_000), mtime=0), "two.gz": gzip.compress(b"two", mtime=0)}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Publisher:
    """A server on the loopback address; `breaks_at` bytes it hangs up, `ranges` says whether it knows any."""

    def __init__(self) -> None:
        self.files = dict(DATA)
        self.breaks_at: int | None = None
        self.ranges = True
        self.pause = 0.0
        self.asked: list[tuple[str, str | None]] = []
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.answer(self)

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name, wanted = request.path[1:], request.headers.get("Range")
        self.asked.append((name, wanted))
        if name not in self.files:
            return request.send_error(404)
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if begin and begin >= len(self.files[name]):
            return request.send_error(416)
        data = self.files[name][begin:]
        request.send_response(206 if begin else 200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        with suppress(ConnectionError):  # somebody was killed
            for at in range(0, len(data) if self.breaks_at is None else self.breaks_at, 100):
                request.wfile.write(data[at : at + 100])
                time.sleep(self.pause)
        return None


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Publisher]:
    """One that has the set "toy", of two gzipped files with checksums."""
    publisher = Publisher()
    files = tuple(Published(name, len(data), md5(data), md5(gzip.decompress(data))) for name, data in DATA.items())
    monkeypatch.setitem(DATA_SETS, "toy", DataSet("Toys", "MIT", (publisher.address,), files, "its maker"))
    monkeypatch.setenv("HETSYN_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield publisher
    publisher.server.shutdown()
    publisher.server.server_close()


def wanted(folder: Path) -> bool:
    return all((folder / name).read_bytes() == data for name, data in DATA.items())


# ---- getting -------------------------------------------------------------------------------------------------------


def test_a_set_is_got_once(publisher: Publisher) -> None:
    folder = get.get("toy", quiet=True)
    assert folder == get.place("toy") and wanted(folder)
    assert get.get("toy", quiet=True) == folder and len(publisher.asked) == 2
    assert {path.name for path in folder.iterdir()} == {*DATA, get.GOT}


def test_a_file_that_is_there_and_right_is_not_got(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "one.gz").write_bytes(DATA["one.gz"])
    get.get("toy", tmp_path, quiet=True)
    assert wanted(tmp_path) and publisher.asked == [("two.gz", None)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_gone_on_with(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    monkeypatch.setattr(get, "PIECE", 100)
    publisher.breaks_at, publisher.ranges = 300, ranges
    with pytest.raises(OSError, match=r"^one\.gz: expected a host that gives it, got http.*; the same command goes on"):
        get.get("toy", tmp_path, quiet=True)
    left = (tmp_path / "one.gz.part").read_bytes()
    assert left and DATA["one.gz"].startswith(left) and not (tmp_path / "one.gz").exists()
    publisher.breaks_at = None
    get.get("toy", tmp_path, quiet=True)
    assert wanted(tmp_path) and publisher.asked[1] == ("one.gz", f"bytes={len(left)}-")
    assert not list(tmp_path.glob("*.part"))


def test_a_part_that_is_whole_is_taken(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "one.gz.part").write_bytes(DATA["one.gz"])
    get.get("toy", tmp_path, quiet=True)
    assert wanted(tmp_path)


def test_a_part_of_something_else_is_not_kept(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "one.gz.part").write_bytes(b"x" * 100)
    with pytest.raises(FileFormatError, match=r"one.gz: expected md5 .*, as stated by its maker, got other contents"):
        get.get("toy", tmp_path, quiet=True)
    assert get.get("toy", tmp_path, quiet=True) and wanted(tmp_path)


def test_other_bytes_than_were_published_are_refused_and_not_kept(publisher: Publisher, tmp_path: Path) -> None:
    good = publisher.files["two.gz"]
    publisher.files["two.gz"] = gzip.compress(b"twp", mtime=0)
    with pytest.raises(FileFormatError, match=r"two.gz: expected md5 .*nothing is kept of it: try again"):
        get.get("toy", tmp_path, quiet=True)
    assert not (tmp_path / "two.gz").exists() and not (tmp_path / "two.gz.part").exists()
    publisher.files["two.gz"] = good
    get.get("toy", tmp_path, quiet=True)
    assert wanted(tmp_path) and [name for name, _ in publisher.asked].count("one.gz") == 1


def test_a_file_without_end_is_not_taken(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["two.gz"] = bytes(2 * get.PIECE)
    with pytest.raises(FileFormatError, match=r"expected about .* bytes, got more than twice as many"):
        get.get("toy", tmp_path, quiet=True)


def test_the_next_host_is_asked(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = "http://127.0.0.1:1/"
    monkeypatch.setitem(DATA_SETS, "toy", replace(DATA_SETS["toy"], hosts=(dead, publisher.address)))
    get.get("toy", tmp_path, quiet=True)
    assert wanted(tmp_path)


def test_nobody_there_is_one_line(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(DATA_SETS, "toy", replace(DATA_SETS["toy"], hosts=("http://127.0.0.1:1/",)))
    assert cli.main(["data", "get", "toy", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "hetsyn data: one.gz: expected a host that gives it, got http://127.0.0.1:1/one.gz: Connection"
    )
    publisher.files.clear()
    monkeypatch.setitem(DATA_SETS, "toy", replace(DATA_SETS["toy"], hosts=(publisher.address,)))
    assert cli.main(["data", "get", "toy", "--quiet"]) == 2
    assert "404" in capsys.readouterr().err


def test_a_killed_command_is_gone_on_with(publisher: Publisher, tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from hetsyn_plugins.experiments.data import get
from hetsyn_plugins.experiments.data.publishers import DATA_SETS, DataSet, Published
get.PIECE = 100
DATA_SETS["toy"] = DataSet("Toys", "MIT", ({publisher.address!r},), {DATA_SETS["toy"].files!r}, "its maker")
get.get("toy", Path({str(tmp_path)!r}), quiet=True)
"""
    publisher.pause = 0.05
    child = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).resolve().parents[2])
    part = tmp_path / "one.gz.part"
    try:
        while not (part.exists() and part.stat().st_size) and child.poll() is None:
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
    assert not (tmp_path / "one.gz").exists() and part.stat().st_size < len(DATA["one.gz"])
    publisher.pause = 0.0
    get.get("toy", tmp_path, quiet=True)
    assert wanted(tmp_path) and publisher.asked[1][1] is not None


def test_without_room_what_came_is_kept_and_gone_on_with(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "get", "toy", "--out", str(tmp_path), "--quiet"]
    with quota(5_000):
        assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hetsyn data: ") and "File too large (what came is kept)" in line
    assert line.endswith(f"'{tmp_path}/one.gz.part'; make room and give the same command again")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["one.gz.part"]
    assert cli.main(words) == 0 and wanted(tmp_path)
    assert publisher.asked[1] == ("one.gz", "bytes=5000-")


def zipped(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return content.getvalue()


def archive(publisher: Publisher, monkeypatch: pytest.MonkeyPatch, data: bytes, **fields: Any) -> None:
    """The set "toy" is one zip file, of which a.h5 and b.h5 are kept."""
    publisher.files["toy.zip"] = data
    file = Published("toy.zip", len(data), members=("a.h5", "b.h5"))
    kind = replace(DATA_SETS["toy"], files=(file,), **fields)
    monkeypatch.setitem(DATA_SETS, "toy", kind)


def test_the_wanted_members_of_a_zip_file_are_kept(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(publisher, monkeypatch, zipped({"toy-1/b.h5": b"b", "a.h5": b"a" * 9, "../c.h5": b"c", "README": b"r"}))
    get.get("toy", tmp_path, quiet=True)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix == ".h5"}
    assert kept == {"a.h5": b"a" * 9, "b.h5": b"b"} and not list(tmp_path.glob("*.zip*"))
    pins = read_json(tmp_path / get.GOT, "what was got", to_do="")["files"]["toy.zip"]
    assert pins == {name: hashlib.sha256(data).hexdigest() for name, data in kept.items()}
    (tmp_path / "a.h5").write_bytes(b"other")  # what came first is what others are compared with
    assert [finding.right for finding in get.check(tmp_path, "toy")] == [False, True]
    get.get("toy", tmp_path, quiet=True)
    assert (tmp_path / "a.h5").read_bytes() == b"a" * 9


def test_a_member_without_room_is_told_and_got_again(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(publisher, monkeypatch, zipped({"a.h5": b"a" * 9_000, "b.h5": b"b"}))
    with quota(5_000), pytest.raises(OSError, match=r"File too large \(what came is kept\): .*a\.h5\.part'$"):
        get.get("toy", tmp_path, quiet=True)
    assert not (tmp_path / "a.h5").exists()
    get.get("toy", tmp_path, quiet=True)
    assert (tmp_path / "a.h5").read_bytes() == b"a" * 9_000 and not list(tmp_path.glob("*.part"))


def test_a_command_that_is_stopped_is_gone_on_with(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "get", "toy", "--out", str(tmp_path), "--quiet"]
    monkeypatch.setattr(get, "PIECE", 1_000)
    with monkeypatch.context() as patch:
        write = get._write
        patch.setattr(get, "_write", lambda piece, out, path: stop() if out.tell() > 5_000 else write(piece, out, path))
        assert cli.main(words) == 130
    assert capsys.readouterr().err == "hetsyn data: stopped; the same command goes on from there\n"
    begun = (tmp_path / "one.gz.part").stat().st_size
    assert cli.main(words) == 0 and wanted(tmp_path)
    assert begun > 5_000 and publisher.asked[1] == ("one.gz", f"bytes={begun}-")


def stop() -> None:
    """Ctrl-C, as Python has it."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (zipped({"a.h5": b"a"}), "expected a member b.h5, got none"),
        (zipped({"a.h5": b"a", "b.h5": b"b"})[:-30], "expected a whole zip file"),
        (zipped({"a.h5": bytes(80_000_000), "b.h5": b"b"}), "expected what unpacks to at most"),
    ],
    ids=["a member missing", "cut", "a bomb"],
)
def test_an_archive_that_is_not_as_expected_is_refused(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, says: str
) -> None:
    archive(publisher, monkeypatch, data)
    with pytest.raises(FileFormatError, match=says):
        get.get("toy", tmp_path, quiet=True)


def test_what_is_made_on_demand_is_known_by_its_files(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = [f"{name}.h5 {hashlib.sha256(name.encode()).hexdigest()}\n" for name in "ab"]
    digest = hashlib.sha256("".join(sums).encode()).hexdigest()
    archive(publisher, monkeypatch, zipped({"x/b.h5": b"b", "x/a.h5": b"a"}), digest=digest)
    get.get("toy", tmp_path, quiet=True)
    assert get.check(tmp_path, "toy") == [get.Finding("2 files", True, "those of the release")]
    (tmp_path / "b.h5").write_bytes(b"c")
    assert get.check(tmp_path, "toy") == [get.Finding("2 files", False, "not all are those of the release")]
    (tmp_path / "b.h5").unlink()
    assert get.check(tmp_path, "toy") == [get.Finding("2 files", False, "1 are missing, b.h5 the first")]


# ---- checking ------------------------------------------------------------------------------------------------------


def test_each_file_is_judged(publisher: Publisher, tmp_path: Path) -> None:
    one, two = DATA.values()
    (tmp_path / "one.gz").write_bytes(gzip.compress(gzip.decompress(one), 1, mtime=5))
    assert (tmp_path / "one.gz").read_bytes() != one
    verdicts = {finding.name: (finding.right, finding.what) for finding in get.check(tmp_path)}
    assert verdicts["one.gz"] == (True, "packed in another way; what it unpacks to has the published md5")
    assert verdicts["two.gz"] == (False, "missing")
    for data, right in ((two, True), (two[:-1], False), (b"", False), (gzip.compress(b"x"), False)):
        (tmp_path / "two.gz").write_bytes(data)
        assert [finding.right for finding in get.check(tmp_path)] == [True, right]


def test_a_file_that_nobody_vouches_for_is_said_to_be_so(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(publisher, monkeypatch, b"")
    for name in ("a.h5", "b.h5"):
        (tmp_path / name).write_bytes(b"x")
    assert [finding.right for finding in get.check(tmp_path, "toy")] == [None, None]
    assert cli.main(["data", "check", str(tmp_path)]) == 0


def test_sets_whose_files_are_called_alike_are_told_apart(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = DATA_SETS["toy"]
    others = tuple(replace(file, md5="0" * 32, contents="1" * 32) for file in toy.files)
    monkeypatch.delitem(DATA_SETS, "toy")
    monkeypatch.setitem(DATA_SETS, "first", replace(toy, files=others))
    monkeypatch.setitem(DATA_SETS, "toy", toy)
    for name, data in DATA.items():
        (tmp_path / name).write_bytes(data)
    assert cli.main(["data", "check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("right, md5 as stated by its maker") == 2


def test_a_damaged_record_of_what_was_got_counts_as_none(publisher: Publisher, tmp_path: Path) -> None:
    get.get("toy", tmp_path, quiet=True)
    path = tmp_path / get.GOT
    for damage in (b"", b"[]", b"\xff", path.read_bytes()[:-40], path.read_bytes().replace(b"one.gz", b"two.gz")):
        path.write_bytes(damage)
        assert get._got(tmp_path) == {}
    for content in ({}, {"files": 3}, {"files": {"one.gz": 5}}):
        write_json(path, content)
        assert get._got(tmp_path) == {}
    get.get("toy", tmp_path, quiet=True)
    assert len(publisher.asked) == 2  # the files themselves are right


# ---- words ---------------------------------------------------------------------------------------------------------


def test_what_comes_is_said_before_it_comes(publisher: Publisher, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "list"]) == 0
    said = capsys.readouterr().out
    assert "Toys\nlicence: MIT\n" in said and "CC BY-SA 4.0: name its authors, and share" in said
    assert said.count("not here: hetsyn data get ") == len(DATA_SETS)
    publisher.breaks_at = 0
    assert cli.main(["data", "get", "toy", "--quiet"]) == 2
    assert capsys.readouterr().out.startswith(f"Toys\nlicence: MIT\nabout 0 MB from {publisher.address} into ")
    publisher.breaks_at = None
    assert cli.main(["data", "get", "toy", "--quiet"]) == 0 and cli.main(["data", "list"]) == 0
    assert "\nhere\n" in capsys.readouterr().out


def test_wrong_names_and_folders_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "get", "minst"]) == 2
    assert "NAME: expected one of mnist, fashion_mnist, fsdd, shd, ssc, got 'minst'" in capsys.readouterr().err
    assert cli.main(["data", "check", str(tmp_path)]) == 2
    assert f"got {tmp_path}, which has none" in capsys.readouterr().err
    (tmp_path / "recordings").mkdir()  # as FSDD's repository has them
    (tmp_path / "recordings" / RECORDINGS[0]).write_bytes(b"no recording")
    assert cli.main(["data", "check", str(tmp_path)]) == 1
    assert "2,999 are missing, 0_george_1.wav the first" in capsys.readouterr().out


def test_without_pooch_the_extra_is_named(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"data sets are got by pooch: pip install 'hetsyn_plugins\[data\]'"):
        get.get("toy", tmp_path, quiet=True)


def test_the_published_sums_are_whole() -> None:
    for data in DATA_SETS.values():
        assert data.hosts and all(host.endswith("/") and host.startswith("http") for host in data.hosts)
        for file in data.files:
            assert all(
                len(text) in (0, 32) and not text.strip("0123456789abcdef") for text in (file.md5, file.contents)
            )
            assert file.md5 or data.digest
    assert len(publishers.RECORDINGS) == len(set(publishers.RECORDINGS)) == 3000
