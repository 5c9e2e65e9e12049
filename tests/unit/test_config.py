"""`config`, `sources`, `api_key` and `options`: values, precedence and error texts."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskfs.api_key import Secret, find_api_key
from taskfs.config import Config, load_config
from taskfs.errors import ConfigError
from taskfs.options import OPTIONS, parse_mount_options, split_mount_options
from taskfs.support.parsing import (
    parse_duration,
    parse_mode,
    parse_path,
    parse_relative_path,
    parse_size,
    parse_source,
    parse_umask,
)

KEY = "abc-DEF_1.2"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the key file of the service's client, and no settings."""
    for name in list(os.environ):
        if name.startswith(("TASKFS_", "INDUCTIVA_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".inductiva").mkdir()
    (tmp_path / ".inductiva" / "api_key").write_text(f"{KEY}\n")
    return tmp_path


def write_config(home: Path, text: str) -> Path:
    path = home / ".config" / "taskfs" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@contextlib.contextmanager
def as_another_user(closed: Path) -> Iterator[None]:
    """Run the block as a user for whom the file or directory *closed* is not accessible."""
    mode, user = closed.stat().st_mode, os.geteuid()
    closed.chmod(0)
    try:
        if user == 0:  # whom no mode stops
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        closed.chmod(mode)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("500ms", 0.5),
        ("2m", 120),
        ("1h", 3600),
        ("1.5", 1.5),
        (".5", 0.5),
        ("0", 0),
        ("1m30s", 90),
        (" 3S ", 3),
        ("1d", 86400),
    ],
)
def test_durations_take_units_and_a_bare_number_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "10x", "-1", "1 s x", "nan", "inf", "1e3", "٣"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36501d", "3153600001", "876000h1s", "9" * 400])
def test_a_duration_that_is_too_long(text: str) -> None:
    """C-1: A duration that no timeout of the system can be is refused; the error names the most."""
    with pytest.raises(ConfigError, match="write 36500d or less"):
        parse_duration(text)
    assert parse_duration("36500d") < threading.TIMEOUT_MAX


@pytest.mark.parametrize("text", ["1025P", "2000000T", "9" * 400])
def test_a_size_that_is_too_large(text: str) -> None:
    """C-1: A size that no file system has is refused; the error names the most."""
    with pytest.raises(ConfigError, match="write 1024P or less"):
        parse_size(text)
    assert parse_size("1024P") == 2**60


def test_sources_that_are_not_utf_8_are_refused() -> None:
    """C-1: The source of a mount is UTF-8 without control characters."""
    assert parse_source("tasks of é") == "tasks of é"
    for text in (os.fsdecode(b"a\xff"), "", "a\n", "é" * 128):
        with pytest.raises(ConfigError, match=r"not UTF-8|not the name of a source"):
            parse_source(text)


@pytest.mark.parametrize("parse", [parse_path, parse_relative_path])
def test_paths_that_cannot_be(parse: Callable[[str], object], home: Path) -> None:
    """C-1: A path of an unknown user's home, or with NUL, is refused."""
    for text in ("~no-such-user/x", "a\0b"):
        with pytest.raises(ConfigError, match="write"):
            parse(text)
    assert str(parse("~/x")) == f"{home}/x"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("10G", 10 * 1024**3),
        ("512M", 512 * 1024**2),
        ("1GiB", 1024**3),
        ("100KB", 100_000),
        ("1.5k", 1536),
        ("2 TB", 2 * 10**12),
        ("7B", 7),
        ("0", 0),
    ],
)
def test_sizes_take_units_and_a_bare_number_is_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "10X", "-1", "1GG", "1e9", "ten"])
def test_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["8", "1777", "rwx", ""])
def test_no_umask(text: str) -> None:
    with pytest.raises(ConfigError, match="umask"):
        parse_umask(text)


@pytest.mark.parametrize("text", ["4755", "1777", "9", "rwx", "0x1ff", ""])
def test_no_mode(text: str) -> None:
    """A-24: A mode with more than permission bits, such as set-uid, is refused."""
    with pytest.raises(ConfigError, match="not a mode"):
        parse_mode(text)


def test_modes_are_words_of_mount_options(home: Path) -> None:
    """A-24: `-o` takes the modes as mount(8) spells options."""
    config = load_config(mount_options=parse_mount_options("file_mode=0640,dir_mode=750"))
    assert (config.file_mode, config.dir_mode) == (0o640, 0o750)


def test_defaults(home: Path) -> None:
    config = load_config()

    assert config.api_url == "https://api.inductiva.ai"
    assert config.api_key == KEY
    assert (config.project, config.status, config.last) == (None, (), None)
    assert (config.uid, config.gid, config.umask) == (os.getuid(), os.getgid(), 0)
    assert config.cache_dir == home / ".cache" / "taskfs"
    assert config.cache_size == 10 * 1024**3
    assert (config.dir_cache_time_s, config.status_cache_time_s) == (10, 2)
    assert (config.attr_timeout_s, config.timeout_s) == (1, 30)
    assert config.output_parent == "inductiva_output"
    assert not (config.read_only or config.allow_other or config.allow_root or config.demo)


def test_the_defaults_of_the_table_are_those_of_the_dataclass() -> None:
    assert load_config(need_key=False) == Config()


def test_every_row_fills_a_field() -> None:
    fields = set(Config.__dataclass_fields__)
    assert {option.config_field for option in OPTIONS} - {"api_key_file"} <= fields


def test_flags_over_mount_options_over_environment_over_file_over_service(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C-24: Flags come first, then `-o`, variables, the file, the service's own variables."""
    seen = []
    monkeypatch.setenv("INDUCTIVA_API_URL", "https://service")
    seen.append(load_config().api_url)
    write_config(home, 'api_url = "https://file"')
    seen.append(load_config().api_url)
    monkeypatch.setenv("TASKFS_API_URL", "https://variable")
    seen.append(load_config().api_url)
    mount_options = {"api_url": "https://option"}
    seen.append(load_config(mount_options=mount_options).api_url)
    seen.append(load_config({"api_url": "https://flag"}, mount_options=mount_options).api_url)

    assert seen == [f"https://{name}" for name in ("service", "file", "variable", "option", "flag")]


def test_a_flag_can_switch_off_what_the_file_switched_on(home: Path) -> None:
    """C-24: A flag can switch off what the file switched on."""
    write_config(home, "read_only = true")

    assert load_config().read_only
    assert not load_config({"read_only": False}).read_only
    assert not load_config(mount_options=parse_mount_options("rw")).read_only


def test_flags_that_were_not_given_do_not_count() -> None:
    assert load_config({"cache_size": None, "status": ()}).cache_size == 10 * 1024**3


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKFS_CACHE_SIZE", "")
    assert load_config().cache_size == 10 * 1024**3


def test_every_kind_of_value_in_the_file(home: Path) -> None:
    """C-24: The TOML file takes every kind of value."""
    write_config(
        home,
        """
        cache-size = "1KB"
        timeout = 5
        dir_cache_time = 2.5
        status = ["success", "failed"]
        allow_other = true
        umask = "022"
        cache_dir = "cache"
        """,
    )

    config = load_config()

    assert (config.cache_size, config.timeout_s, config.dir_cache_time_s) == (1000, 5, 2.5)
    assert (config.status, config.allow_other) == (("success", "failed"), True)
    assert config.umask == 0o22
    assert config.cache_dir == home / ".config" / "taskfs" / "cache"  # relative to the file


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("cache_sise = 1", "unknown key 'cache_sise': did you mean cache_size"),
        ("[mount]\nlast = 1", "unknown key 'mount'"),
        ("last = [1]", "last in .*config.toml: one value"),
        ("last = 0", "last in .*config.toml: '0' is not a count"),
        ("last", "not a TOML file"),
        ('cache_dir = "~no-such-user/x"', "cache_dir in .*config.toml: .*no such home directory"),
        ('cache_dir = " "', "cache_dir in .*config.toml: the path is empty"),
        ('api_key = "secret"', "use api_key_file"),
    ],
)
def test_errors_of_the_file_name_it_and_the_key(home: Path, text: str, complaint: str) -> None:
    """C-1: An error in the file names the file and the setting."""
    write_config(home, text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_config()
    assert "config.toml" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_named_file_must_exist(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no configuration file .*other\.toml"):
        load_config(file=home / "other.toml")
    monkeypatch.setenv("TASKFS_CONFIG", "~/other.toml")
    with pytest.raises(ConfigError, match=r"no configuration file .*other\.toml"):
        load_config()
    (home / "other.toml").write_text("last = 3")
    assert load_config().last == 3


@pytest.mark.parametrize(
    ("source", "flags", "variable"),
    [("--last", {"last": "x"}, ""), ("TASKFS_LAST", {}, "x")],
)
def test_errors_name_the_source(
    source: str, flags: dict[str, str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C-1: An error names the source of the value."""
    monkeypatch.setenv("TASKFS_LAST", variable)
    with pytest.raises(ConfigError, match=f"^{source}: 'x' is not a count"):
        load_config(flags)


def test_allow_other_and_allow_root_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        load_config({"allow_other": True, "allow_root": True})


@pytest.mark.parametrize("variable", [None, "", "here"])
def test_the_output_directory_of_the_service_may_be_empty(
    variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("INDUCTIVA_OUTPUT_DIR", variable)
    expected = "inductiva_output" if variable is None else variable
    assert load_config().output_parent == expected


class TestKey:
    def test_order(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """C-25: The key is read from these places in this order."""
        keys = [str(load_config().api_key)]
        monkeypatch.setenv("INDUCTIVA_API_KEY", "service")
        keys.append(load_config().api_key)
        write_config(home, 'api_key_file = "key"')
        (home / ".config" / "taskfs" / "key").write_text("file")
        keys.append(load_config().api_key)
        (home / "variable").write_text("variable")
        monkeypatch.setenv("TASKFS_API_KEY_FILE", str(home / "variable"))
        keys.append(load_config().api_key)
        monkeypatch.setenv("TASKFS_API_KEY", "  direct\n")
        keys.append(load_config().api_key)
        (home / "option").write_text("option")
        keys.append(load_config(mount_options={"api_key_file": str(home / "option")}).api_key)
        (home / "flag").write_text("\nflag\n")
        keys.append(load_config({"api_key_file": str(home / "flag")}).api_key)

        assert keys == [KEY, "service", "file", "variable", "direct", "option", "flag"]

    def test_storage_options_win_over_the_environment(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TASKFS_API_KEY", "direct")
        (home / "named").write_text("named")
        options = {"api_key_file": str(home / "named")}
        assert load_config(storage_options=options).api_key == "named"
        assert load_config(storage_options={**options, "api_key": "given"}).api_key == "given"
        assert load_config(storage_options={"api_key": ""}).api_key == "direct"

    def test_its_location(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert find_api_key().location == str(home / ".inductiva" / "api_key")
        monkeypatch.setenv("INDUCTIVA_API_KEY", "service")
        assert find_api_key().location == "INDUCTIVA_API_KEY"

    def test_the_error_names_all_locations_and_the_fix(self, home: Path) -> None:
        (home / ".inductiva" / "api_key").unlink()
        with pytest.raises(ConfigError) as caught:
            load_config()
        for part in ("INDUCTIVA_API_KEY", ".inductiva/api_key", "inductiva auth login"):
            assert part in str(caught.value)
        assert "--api-key-file" in str(caught.value)

    @pytest.mark.parametrize("text", ["", "two words", "käse", "key\nkey", "\0"])
    def test_an_invalid_key_is_not_printed(self, home: Path, text: str) -> None:
        (home / ".inductiva" / "api_key").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config()
        assert "key" in str(caught.value)
        assert not text or text not in str(caught.value)

    def test_a_named_file_that_cannot_be_read(self, home: Path) -> None:
        with pytest.raises(ConfigError, match=r"--api-key-file: .*No such file"):
            load_config({"api_key_file": str(home / "nowhere")})

    @pytest.mark.parametrize("closed", [".inductiva", ".inductiva/api_key"])
    def test_the_service_s_file_may_not_be_read(
        self, public_dir: Path, monkeypatch: pytest.MonkeyPatch, closed: str
    ) -> None:
        """C-1, O-8: A key file that another user owns is named with the fix, and is no key for
        --offline, unless the user has named it."""
        monkeypatch.setenv("HOME", str(public_dir))
        key = public_dir / ".inductiva" / "api_key"
        key.parent.mkdir(mode=0o755)
        key.write_text(KEY)
        load_config({"offline": "true"})  # imports all modules that it needs
        with as_another_user(public_dir / closed):
            with pytest.raises(ConfigError, match=r"cannot be read \(Permission denied\): run"):
                load_config()
            assert load_config({"offline": "true"}).api_key == ""
            with pytest.raises(ConfigError, match="--api-key-file: "):
                load_config({"offline": "true", "api_key_file": str(key)})
        assert load_config({"offline": "true"}).api_key == KEY

    def test_the_demo_needs_none(self, home: Path) -> None:
        (home / ".inductiva" / "api_key").unlink()
        assert load_config({"demo": True}).api_key == ""
        assert load_config(need_key=False).api_key == ""

    def test_repr_hides_it(self) -> None:
        config = load_config()
        assert KEY not in repr(config)
        assert KEY not in repr(config.api_key)
        assert repr(Secret(KEY)) == "Secret(***)"


class TestHome:
    def test_without_home_the_password_database_is_used(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """mount(8) removes HOME."""
        import pwd

        monkeypatch.delenv("HOME")
        config = load_config(need_key=False)
        assert config.cache_dir == Path(pwd.getpwuid(os.getuid()).pw_dir, ".cache", "taskfs")

    def test_without_a_home_directory_the_error_names_the_fix(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A container may run as a user that the password database does not have."""
        import pwd

        def unknown(uid: int) -> None:
            raise KeyError(uid)

        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", unknown)
        monkeypatch.setenv("TASKFS_API_KEY", KEY)
        with pytest.raises(ConfigError, match="set TASKFS_CACHE_DIR or HOME"):
            load_config()
        monkeypatch.setenv("TASKFS_CACHE_DIR", str(tmp_path))
        assert load_config().cache_dir == tmp_path
        monkeypatch.delenv("TASKFS_API_KEY")
        with pytest.raises(ConfigError, match="there is no API key"):
            load_config()
        with pytest.raises(ConfigError, match="'~/x': there is no such home directory"):
            load_config({"log_file": "~/x"})


class TestURL:
    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1:8000",
            "http://localhost",
            "http://[::1]:80",
            "https://api.example/v1",
        ],
    )
    def test_good(self, url: str) -> None:
        """Y-4: https, and http on this machine, are allowed."""
        assert load_config({"api_url": url + "/"}).api_url == url

    @pytest.mark.parametrize(
        ("url", "complaint"),
        [
            ("http://api.example", "--insecure-http"),
            ("http://127.0.0.1.example", "--insecure-http"),
            ("ftp://api.example", "not a web address"),
            ("api.example", "not a web address"),
            ("https://", "not a web address"),
            ("https://user:secret@api.example", "nothing else"),
            ("https://api.example?key=secret", "nothing else"),
            ("https://api.example:port", "not a URL"),
        ],
    )
    def test_bad(self, url: str, complaint: str) -> None:
        """Y-4: Any other URL is refused with the fix."""
        with pytest.raises(ConfigError, match=complaint) as caught:
            load_config({"api_url": url})
        assert "secret" not in str(caught.value)

    def test_insecure_http_is_a_decision(self) -> None:
        """Y-4: `--insecure-http` allows a plain API."""
        config = load_config({"api_url": "http://api.example", "insecure_http": True})
        assert config.api_url == "http://api.example"


class TestMountOptions:
    def test_values(self) -> None:
        config = load_config(
            mount_options=parse_mount_options(
                r"ro,allow_other,cache_dir=/a\,b\\c,cache_size=1G,status=success\,failed,uid=7,"
                "gid=8,umask=022,attr_timeout=3s"
            )
        )

        assert config.read_only and config.allow_other
        assert config.cache_dir == Path("/a,b\\c")
        assert config.cache_size == 1024**3
        assert config.status == ("success", "failed")
        assert (config.uid, config.gid, config.umask) == (7, 8, 0o22)
        assert config.attr_timeout_s == 3

    def test_options_of_other_programs_are_ignored(self) -> None:
        foreign = (
            "defaults,_netdev,nofail,dev,suid,nodev,nosuid,auto,noauto,user,users,"
            "x-systemd.automount,x-systemd.idle-timeout=1min,x-gvfs-show,comment=mine,noatime,,"
        )
        assert parse_mount_options(foreign) == {}

    def test_the_last_option_wins(self) -> None:
        assert parse_mount_options("ro,rw") == {"read_only": "false"}
        assert parse_mount_options("user,noexec,exec") == {"noexec": "false"}

    def test_sloppy_ignores_unknown_options(self) -> None:
        """mount(8): -s tolerates sloppy mount options rather than failing."""
        assert parse_mount_options("frobnicate,ro,x=1", sloppy=True) == {"read_only": "true"}
        with pytest.raises(ConfigError, match="api_key_file"):
            parse_mount_options("api_key=secret", sloppy=True)

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("cache_dirr=/x", "unknown option 'cache_dirr': did you mean cache_dir"),
            ("frobnicate", "unknown option 'frobnicate'"),
            ("cache_size", "needs a value: cache_size=SIZE"),
            ("api_key=secret", "api_key_file"),
            ("ro=1", "ro takes no value: write ro"),
            ("remount,ro", "cannot be remounted: unmount it"),
        ],
    )
    def test_errors_name_the_option(self, text: str, complaint: str) -> None:
        with pytest.raises(ConfigError, match=complaint) as caught:
            parse_mount_options(text)
        assert "secret" not in str(caught.value)

    def test_values_are_checked_with_their_source(self) -> None:
        with pytest.raises(ConfigError, match=r"^-o cache_size: 'big' is not a size"):
            load_config(mount_options=parse_mount_options("cache_size=big"))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", []),
            ("a", ["a"]),
            ("a,b", ["a", "b"]),
            (r"a\,b,c", ["a,b", "c"]),
            (r"a\\,b", ["a\\", "b"]),
            (r"a\x", [r"a\x"]),
            ("a\\", ["a\\"]),
        ],
    )
    def test_escapes(self, text: str, words: list[str]) -> None:
        assert split_mount_options(text) == words
