"""A study writes into its own folder under mlruns/ and nowhere else: links that lead out of it are refused before anything is written."""

from pathlib import Path

from harness.errors import PreflightError


def confined(folder: Path) -> None:
    """Check a study's folder, which need not exist. The folder above it, mlruns/, may itself be a link to another disk.

    Raises:
        PreflightError: the folder, or something in it, is a link to elsewhere.
    """
    home = folder.parent.resolve() / folder.name
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise PreflightError(
                f"{path} is a link to {path.resolve()}, and a study writes only into {folder}. Replace the link by what it points to, "
                f"or link {folder.parent} as a whole. Nothing was run."
            )
