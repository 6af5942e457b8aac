"""Which optional part of the installation a missing package belongs to."""

import re
from importlib.metadata import PackageNotFoundError, requires

DISTRIBUTIONS = {  # name in an import -> name in pyproject.toml, where they differ
    "hydra": "hydra-core",
    "omegaconf": "hydra-core",
    "lightning_fabric": "pytorch-lightning",
    "sklearn": "scikit-learn",
    "scipy": "scikit-learn",
    "pydantic": "fastapi",
    "starlette": "fastapi",
}


def install_hint(error: ModuleNotFoundError) -> str | None:
    """What to install for a package that is missing, or None where no extra of this package brings it.

    >>> install_hint(ModuleNotFoundError(name="ray.train"))
    "the package ray is not installed; install it with: pip install 'twotower[cluster]'"
    """
    module = (error.name or "").split(".")[0]
    name = re.escape(DISTRIBUTIONS.get(module, module)).replace("_", "[-_.]")
    try:
        lines = requires("twotower") or []
    except PackageNotFoundError:  # a checkout that is not installed
        lines = []
    extras = [found[1] for line in lines if (found := re.search(r"extra == ['\"](\w+)['\"]", line))]
    bringing = {
        found[1]
        for line in lines
        if (found := re.match(rf"{name}\b(?!-).*extra == ['\"](\w+)['\"]", line, re.IGNORECASE))
    }
    if not bringing:
        return None
    smallest = min(bringing, key=extras.count)
    return f"the package {module} is not installed; install it with: pip install 'twotower[{smallest}]'"
