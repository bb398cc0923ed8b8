"""`spkver recipe`: a recipe that came with the package, copied to be edited and run."""

import shutil
from collections.abc import Callable
from pathlib import Path

from spkver.config.shipped import CONFIGURATIONS, RECIPES
from spkver.errors import SpkverError

# What recipes make, or what was measured with them.
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "data", "exp", "downloads", "results")


def add_recipe_verb(verb: Callable) -> None:
    """Give the parser the verb ``recipe``."""
    added = verb("recipe", recipe)
    added.add_argument("--list", action="store_true", help="name the recipes that come with spkver, and end")
    added.add_argument("name", nargs="?", help="which recipe, as own_folder")
    added.add_argument("folder", nargs="?", type=Path, help="where recipes/NAME and conf/ are put")


def recipe(options) -> None:
    """Copy a recipe and the configurations, to edit and run them."""
    names = sorted(path.parent.name for path in RECIPES.glob("*/run.sh"))
    if options.list:
        print("\n".join(names))
        return
    if options.name not in names:
        wanted = f"no recipe '{options.name}'" if options.name else "name a recipe"
        raise SpkverError(f"recipe: {wanted}; there are {', '.join(names)}")
    if options.folder is None:
        raise SpkverError(f"recipe: name the folder that {options.name} is copied to")
    print(f"edit and run {copy_recipe(options.name, options.folder)}")


def copy_recipe(name: str, folder: Path) -> Path:
    """Copy a recipe, what all recipes share, and the configurations; files of ``folder/conf`` that are there stay.

    Returns:
        The recipe's ``run.sh``.

    Raises:
        SpkverError: the recipe is there already.
    """
    target = folder / "recipes" / name
    if target.exists():
        raise SpkverError(f"{target}: is there already; choose another folder, or remove it")
    aside = target.with_name(f".{name}.unfinished")  # so that the recipe is there whole or not at all
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(RECIPES / name, aside, ignore=_NOT_COPIED)
    shutil.copy(RECIPES / "common.sh", folder / "recipes")
    (folder / "conf").mkdir(exist_ok=True)
    for path in CONFIGURATIONS.glob("*.yaml"):
        if not (folder / "conf" / path.name).exists():
            shutil.copy(path, folder / "conf")
    (aside / "run.sh").chmod(0o755)  # a package may have been installed without this bit
    aside.rename(target)
    return target / "run.sh"
