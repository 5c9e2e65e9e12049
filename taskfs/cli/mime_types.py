"""`taskfs mime-types`: the types of simulation files, as a package for desktops.

A file manager reads the head of each listed file whose type does not follow from its name, which
here means a download. With these names it knows the types without reading.
"""

from typing import Final

import click

# Type, parent type, extensions: types that shared-mime-info 2.2 lacks.
_TYPES: Final = (
    ("application/x-vtk", "", "vtk"),
    ("application/x-vtk-xml", "", "vti vtp vtr vts vtu vtm vtmb pvti pvtp pvtr pvts pvtu"),
    ("application/x-paraview-collection", "application/xml", "pvd"),
    ("application/x-xdmf", "application/xml", "xdmf xdmf2 xdmf3"),
    ("application/x-openfoam", "text/plain", "foam"),
    ("application/x-gmsh", "", "msh"),
    ("application/x-ply", "", "ply"),
    ("application/x-exodus", "", "exo ex2"),
    ("application/x-cgns", "", "cgns"),
    ("application/x-houdini-geometry", "", "bgeo"),
    ("application/x-numpy", "", "npy npz"),
    ("application/vnd.apache.parquet", "", "parquet"),
    ("application/x-gromacs", "", "edr tpr trr xtc"),
    ("chemical/x-gromacs", "text/plain", "gro"),
    ("chemical/x-xyz", "text/plain", "lammpstrj xyz"),
)


@click.command("mime-types", short_help="Print the types of simulation files for a desktop.")
def command() -> None:
    """Print the types of simulation files that desktops do not know by name, such as *.vtk.

    File managers read the first bytes of each file whose type they do not know by its name. To
    avoid these reads:

    \b
      mkdir -p ~/.local/share/mime/packages
      taskfs mime-types > ~/.local/share/mime/packages/taskfs.xml
      update-mime-database ~/.local/share/mime

    The output is a package of the shared MIME-info specification. Nothing is installed.
    """
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">',
    ]
    for name, parent, extensions in _TYPES:
        lines.append(f'  <mime-type type="{name}">')
        if parent:
            lines.append(f'    <sub-class-of type="{parent}"/>')
        lines += [f'    <glob pattern="*.{extension}"/>' for extension in extensions.split()]
        lines.append("  </mime-type>")
    click.echo("\n".join([*lines, "</mime-info>"]))
