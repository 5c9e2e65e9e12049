"""`taskfs mime-types`: a valid package of the shared MIME-info specification."""

from xml.etree import ElementTree

from tests.cli.conftest import Command

SPACE = "{http://www.freedesktop.org/standards/shared-mime-info}"


def test_each_extension_has_one_type(bare: Command) -> None:
    """G-1: `taskfs mime-types` gives each extension of simulation files one type."""
    done = bare("mime-types")
    assert (done.returncode, done.stderr) == (0, "")
    types = ElementTree.fromstring(done.stdout.encode()).findall(f"{SPACE}mime-type")
    patterns = [glob.get("pattern") for type in types for glob in type.findall(f"{SPACE}glob")]
    assert {"*.vtk", "*.vtu", "*.pvd", "*.xdmf", "*.npy"} <= set(patterns)
    assert len(patterns) == len(set(patterns))
    assert len({type.get("type") for type in types}) == len(types)
