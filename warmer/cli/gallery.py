"""The sample gallery of `warmer demo`: photographs that installed packages ship, copied into a folder of their own.

scikit-image and scikit-learn carry them as test data. They are found without importing the packages.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from warmer.errors import FailedPrecondition

# Package, folder inside it, and its real photographs: no drawings, test patterns or depth maps.
_SOURCES = (
    (
        "skimage",
        "data",
        (
            "astronaut.png",
            "brick.png",
            "camera.png",
            "cell.png",
            "chelsea.png",
            "clock_motion.png",
            "coffee.png",
            "coins.png",
            "grass.png",
            "gravel.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "microaneurysms.png",
            "moon.png",
            "motorcycle_left.png",
            "motorcycle_right.png",
            "page.png",
            "retina.jpg",
            "rocket.jpg",
            "text.png",
        ),
    ),
    ("sklearn", "datasets/images", ("china.jpg", "flower.jpg")),
)
_FEWEST = 10


def write_gallery(folder: Path) -> list[Path]:
    """Copies the photographs into `folder`, made if missing, and returns them in order of name.

    A newer package may have dropped some, which is no error while at least ten are left.
    Raises FailedPrecondition (``GALLERY_NOT_INSTALLED``).
    """
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for package, inside, names in _SOURCES:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            for source in (Path(root) / inside / name for name in names):
                if source.is_file():
                    shutil.copyfile(source, folder / source.name)
                    photos.append(folder / source.name)
    if len(photos) < _FEWEST:
        raise FailedPrecondition(
            "the photographs of the sample gallery are not installed",
            reason="GALLERY_NOT_INSTALLED",
            hint="pip install 'warmer[demo]', or show your own: warmer demo --images DIR",
        )
    return sorted(photos)
