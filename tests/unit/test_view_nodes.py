"""`taskfs.tree.view_nodes`: groups of links, rebuilt when a task comes, goes or moves."""

import stat

import pytest

from taskfs.errors import NotFound
from taskfs.model import KNOWN_STATUSES
from taskfs.tasks.task_groups import TaskGroups
from taskfs.tree.view_nodes import ViewNode, Views, view_name
from tests.unit.fakes import Clock, FakeAPI, task_cache_of, task_of


@pytest.fixture
def api() -> FakeAPI:
    api = FakeAPI()
    api.add(
        task_of("t3", "started", project="a/b", simulator="reef3d", create_ns=9),
        task_of("t2", "success", project="a/b", create_ns=5, end_ns=70),
        task_of("t1", "oddity", simulator=".."),
    )
    return api


@pytest.fixture
def views(api: FakeAPI, clock: Clock) -> Views:
    return Views(TaskGroups(task_cache_of(api, clock=clock)))


def members(views: Views, view: str, name: str) -> list[str]:
    """Return the names in one group of a view."""
    return [entry.name for entry in ViewNode(view, views, 0).lookup(name).children()]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((None, "none"), ("", "none"), (".", "%2E"), ("..", "%2E%2E"), ("/", "%2F")),
        *(("a/b\0c", "a%2Fb%00c"), (".a", ".a"), ("50%", "50%"), ("π", "π"), ("...", "...")),
    ],
)
def test_names(value: str | None, name: str) -> None:
    """N-9: `/`, NUL, `.` and `..` are percent-encoded and null shows as `none`."""
    assert view_name(value) == name


def test_groups(views: Views) -> None:
    """N-7, N-8: Tasks are grouped, and every known status has a directory."""
    assert set(views.groups(".by-status")) == {*KNOWN_STATUSES, "oddity"}
    assert members(views, ".by-status", "success") == ["t2"]
    names = views.groups(".by-project")
    assert {name: members(views, ".by-project", name) for name in names} == {
        "a%2Fb": ["t3", "t2"],
        "none": ["t1"],
    }
    assert list(views.groups(".by-simulator")) == ["reef3d", "none", "%2E%2E"]


def test_groups_are_rebuilt_when_a_task_changes_its_group(
    views: Views, api: FakeAPI, clock: Clock
) -> None:
    """N-10: Groups are rebuilt when the listing changed."""
    before = views.groups(".by-project")
    clock.tick(10)
    assert views.groups(".by-project") == before
    api.change("t3", project="c")
    clock.tick(10)
    assert members(views, ".by-project", "c") == ["t3"]
    del api.tasks["t3"]
    clock.tick(10)
    assert "c" not in views.groups(".by-project")


def test_links(views: Views) -> None:
    """N-7: Links point to `../../<id>`."""
    view = ViewNode(".by-project", views, began_ns=3)
    assert [entry.name for entry in view.children()] == ["a%2Fb", "none"]
    group = view.lookup("a%2Fb")
    assert [(entry.name, entry.mode) for entry in group.children()] == [
        *(("t3", stat.S_IFLNK | 0o777), ("t2", stat.S_IFLNK | 0o777))
    ]
    link = group.lookup("t2")
    assert link.target() == "../../t2"
    assert link.attrs().size == len("../../t2")
    assert link.attrs().mtime_ns == group.attrs().mtime_ns == 70
    for node, name in ((view, "a/b"), (group, "t1"), (view, "")):
        with pytest.raises(NotFound):
            node.lookup(name)


def test_a_name_that_no_directory_can_have_is_left_out(
    views: Views, api: FakeAPI, clock: Clock
) -> None:
    """N-12: A group whose name is longer than 255 bytes is left out."""
    api.add(task_of("t4", project="ä" * 128), task_of("t5", project="ä" * 127))
    assert "ä" * 127 in views.groups(".by-project")
    assert "ä" * 128 not in views.groups(".by-project")
