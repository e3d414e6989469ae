"""Options that several commands on precision share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rtc.compiler.core.precision import Variant

RecipeFile = Annotated[Path, typer.Argument(help="The recipe file.")]
Bundle = Annotated[Path, typer.Argument(help="A bundle, or the folder of a target: its latest.")]
Target = Annotated[str, typer.Option("--target", "-t", help="The device; the recipe's first.")]
BackendOption = Annotated[
    str, typer.Option("--backend", "-b", help="The runtime; the device's first that runs here.")
]
VariantOption = Annotated[Variant, typer.Option("--variant", help="What it offers its layers.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
