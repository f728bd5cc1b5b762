"""Files are written whole or not at all, and every failure is one line that names the file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from accelsim.errors import InputError
from accelsim.files import read_bytes, read_text, write_json, write_whole

REMEDY = "choose a writable folder with free space"


def message(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


# --- writing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\x00\xff\r\n", "", "3×3, −128\r\nnext\n"])
def test_what_is_written_is_what_is_read_back_byte_for_byte(tmp_path, data):
    path = tmp_path / "out"
    write_whole(path, data)
    assert (read_bytes(path) if isinstance(data, bytes) else read_text(path)) == data
    assert os.listdir(tmp_path) == ["out"]


def test_a_new_file_gets_the_permissions_of_any_new_file(tmp_path):
    old = os.umask(0o027)
    try:
        write_whole(tmp_path / "out", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_a_reader_that_holds_the_old_file_keeps_reading_the_old_content(tmp_path):
    path = tmp_path / "out"
    write_whole(path, "old")
    with open(path) as reader:
        write_whole(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_a_symbolic_link_keeps_pointing_where_it_did(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    link.symlink_to(target)
    write_whole(link, "through")
    assert link.is_symlink()
    assert target.read_text() == "through"


def test_a_pipe_is_written_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"report")
    reader.join(timeout=10)
    assert received == [b"report"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_standard_output_is_a_file_like_any_other():
    script = "from accelsim.files import write_json; write_json('/dev/stdout', {'cycles': 7})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"cycles": 7}


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    """A file-size limit stops the write half-way, as a full disk does; it binds root, too."""
    path = tmp_path / "program.bin"
    path.write_bytes(b"old")
    script = """
import resource, sys
from accelsim.errors import InputError
from accelsim.files import write_whole

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_whole(sys.argv[1], bytes(1_000_000))
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-B", "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}: cannot write: File too large; {REMEDY}\n"
    assert done.stderr == ""
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["program.bin"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize(
    "failure, seen",
    [
        (OSError(errno.ENOSPC, "No space left on device"), InputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_late_failure_or_ctrl_c_leaves_the_old_file_and_nothing_beside_it(
    tmp_path, monkeypatch, failing, failure, seen
):
    path = tmp_path / "out"
    path.write_text("old")

    def fail(*_arguments: object) -> None:
        raise failure

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(seen):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_is_a_file_cannot_hold_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "out"
    assert message(write_whole, path, "x") == f"{path}: cannot write: Not a directory; {REMEDY}"


def test_a_missing_folder_is_not_made_up(tmp_path):
    path = tmp_path / "missing" / "out"
    assert message(write_whole, path, "x") == f"{path}: cannot write: No such file or directory; {REMEDY}"
    assert os.listdir(tmp_path) == []


def test_a_folder_is_never_replaced_by_a_file(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    assert message(write_whole, path, "x") == f"{path}: cannot write: Is a directory; {REMEDY}"
    assert os.listdir(tmp_path) == ["folder"]


def test_a_name_too_long_for_the_file_system_is_one_line(tmp_path):
    path = tmp_path / ("n" * 256)
    assert message(write_whole, path, "x") == f"{path}: cannot write: File name too long; {REMEDY}"


def test_the_longest_name_the_file_system_takes_can_be_written(tmp_path):
    path = tmp_path / ("n" * 255)
    write_whole(path, "x")
    assert read_text(path) == "x"


def test_a_nul_character_in_a_name_is_one_line(tmp_path):
    for function, arguments in ((write_whole, ("x",)), (read_bytes, ())):
        text = message(function, f"{tmp_path}/a\0b", *arguments)
        assert "embedded null byte; c" in text
        assert text.isprintable()


def test_a_folder_without_write_permission_is_one_line(tmp_path):
    path = tmp_path / "out"
    tmp_path.chmod(0o555)
    with without_privileges():
        text = message(write_whole, path, "x")
    tmp_path.chmod(0o755)
    assert text == f"{path}: cannot write: Permission denied; {REMEDY}"


# --- JSON --------------------------------------------------------------------------------------------------


def test_json_keeps_the_order_of_keys_and_says_numpy_values_as_numbers(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"z": np.int64(-(2**63)), "a": np.array([[1, 2]], np.int8), "×": np.float64(0.5)})
    text = read_text(path)
    assert json.loads(text) == {"z": -(2**63), "a": [[1, 2]], "×": 0.5}
    assert text.startswith('{\n  "z": ')
    assert text.endswith('"×": 0.5\n}\n')


@pytest.mark.parametrize(
    "value, error", [(float("nan"), ValueError), (np.float32("inf"), ValueError), (object(), TypeError)]
)
def test_what_json_cannot_say_is_refused_before_the_file_is_touched(tmp_path, value, error):
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(error, match="JSON"):
        write_json(path, {"value": value})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


# --- reading -----------------------------------------------------------------------------------------------


def test_a_missing_file_is_one_line_and_names_the_nearest(tmp_path):
    (tmp_path / "default.toml").write_text("")
    near, far = tmp_path / "defualt.toml", tmp_path / "x"
    assert message(read_text, near) == f"{near}: no such file; did you mean 'default.toml'?"
    assert message(read_bytes, far) == f"{far}: no such file; check the path"
    nowhere = tmp_path / "missing" / "default.toml"
    assert message(read_text, nowhere) == f"{nowhere}: no such file; check the path"


def test_a_folder_is_not_read_as_a_file(tmp_path):
    assert message(read_bytes, tmp_path) == f"{tmp_path}: is a folder; name a file"


def test_a_file_used_as_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "default.toml"
    assert message(read_text, path) == f"{path}: cannot read: Not a directory; check the path"


def test_a_file_without_read_permission_is_one_line(tmp_path):
    path = tmp_path / "secret"
    path.write_text("x")
    path.chmod(0)
    with without_privileges():
        text = message(read_text, path)
    assert text == f"{path}: cannot read: Permission denied; check its permissions"


def test_text_that_is_not_utf8_names_the_first_wrong_byte(tmp_path):
    path = tmp_path / "latin1.toml"
    path.write_bytes("µ = 1".encode("latin-1"))
    assert message(read_text, path) == (f"{path}: byte 0 is 0xb5, which is not UTF-8 text; save the file as UTF-8")
    assert read_bytes(path) == b"\xb5 = 1"


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Be nobody for a while when the tests run as root, whom permission bits do not bind."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("runs as root and may not become another user, so permissions cannot be tested")
    try:
        yield
    finally:
        os.seteuid(0)


def test_parts_are_written_one_after_the_other_and_what_they_raise_leaves_the_old_file(tmp_path):
    path = tmp_path / "out"
    write_whole(path, (str(number).encode() for number in range(12)))
    assert path.read_bytes() == b"01234567891011"

    def parts():
        yield b"new"
        assert any(
            one.read_bytes() in (b"", b"new") for one in tmp_path.iterdir() if one != path
        )  # under way, beside it
        raise ValueError("of the maker's own, not of the file's")

    with pytest.raises(ValueError, match="maker's own"):
        write_whole(path, parts())
    assert path.read_bytes() == b"01234567891011"
    assert list(tmp_path.iterdir()) == [path]
