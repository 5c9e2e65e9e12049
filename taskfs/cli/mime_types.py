"""`taskfs mime-types`: the names of simulation files, for desktops that know none of them.

A file manager that cannot tell a type by the name reads the head of the file, of every file that a
directory lists; where the name tells, it reads nothing.
"""

from typing import Final

import click

# Type, what it is a kind of, extensions: what shared-mime-info 2.2 leaves out.
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
def mime_types() -> None:
    """Print the types of simulation files that desktops do not know by name, such as *.vtk.

    File managers read the head of each file whose name tells them nothing. To spare them that:

    \b
      mkdir -p ~/.local/share/mime/packages
      taskfs mime-types > ~/.local/share/mime/packages/taskfs.xml
      update-mime-database ~/.local/share/mime

    The text is a package of the shared MIME-info specification. Nothing is written or installed.
    """
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">',
    ]
    for name, kind, extensions in _TYPES:
        lines.append(f'  <mime-type type="{name}">')
        if kind:
            lines.append(f'    <sub-class-of type="{kind}"/>')
        lines += [f'    <glob pattern="*.{extension}"/>' for extension in extensions.split()]
        lines.append("  </mime-type>")
    click.echo("\n".join([*lines, "</mime-info>"]))
